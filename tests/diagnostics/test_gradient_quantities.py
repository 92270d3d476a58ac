"""Quantities of gradients and updates, against the same numbers from numpy."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_e2e as e2e
from keras_e2e.diagnostics import GradientSNR, GradRMS, ModuleView, UpdateRatio

RNG = np.random.default_rng(0)


def some(*shape):
    return RNG.normal(size=shape).astype("float32")


def view(**given):
    """A module as a quantity sees it; what is not given is not there."""
    lists = {"variables": [], "gradients": [], "updates": []}
    absent = dict.fromkeys(("loss", "activation", "signal", "input_signal"))
    return ModuleView(**{"name": "m", "total": lambda t: t, **lists, **absent, **given})


def flat(tensors):
    return np.concatenate([np.ravel(t) for t in tensors if t is not None])


def test_grad_rms_is_the_root_mean_square_over_all_numbers():
    gradients = [some(3, 4), some(4), some(2, 2, 2)]
    value, state = GradRMS().compute(view(gradients=gradients), [])
    expected = np.sqrt(np.mean(flat(gradients) ** 2))
    np.testing.assert_allclose(float(value), expected, rtol=1e-6)
    assert state == []


def test_grad_rms_leaves_out_variables_without_a_gradient():
    gradients = [some(3, 4), None, some(4)]
    value, _ = GradRMS().compute(view(gradients=gradients), [])
    expected = np.sqrt(np.mean(flat(gradients) ** 2))
    np.testing.assert_allclose(float(value), expected, rtol=1e-6)


@pytest.mark.parametrize("quantity", [GradRMS(), GradientSNR()], ids=lambda q: q.name)
@pytest.mark.parametrize("gradients", [[], [None], [None, None]], ids=str)
def test_a_module_without_gradients_has_no_number(quantity, gradients):
    state = [np.zeros(s, "float32") for s in quantity.init_state([(2,)] * len(gradients))]
    value, kept = quantity.compute(view(gradients=gradients), state)
    assert value is None
    assert kept is state


def test_update_ratio_is_the_step_relative_to_the_weights_before_it():
    variables, updates = [some(3, 4), some(4)], [some(3, 4), some(4)]
    value, _ = UpdateRatio().compute(view(variables=variables, updates=updates), [])
    norm = np.linalg.norm
    expected = norm(flat(updates)) / norm(flat(variables))
    np.testing.assert_allclose(float(value), expected, rtol=1e-6)


def test_a_frozen_module_has_no_update_ratio():
    value, _ = UpdateRatio().compute(view(), [])
    assert value is None


# The signal to noise ratio


def run(gradients, decay=0.9, **kwargs):
    """All measurements and their errors over a sequence of lists of gradients."""
    quantity = GradientSNR(decay, **kwargs)
    shapes = [np.shape(g) for g in gradients[0]]
    state = [ops.zeros(shape) for shape in quantity.init_state(shapes)]
    found = []
    for given in gradients:
        given = [None if g is None else ops.convert_to_tensor(g) for g in given]
        (value, error), state = quantity.compute(view(gradients=given), state)
        found.append((float(value), float(error)))
    return found


def averages(gradients, decay):
    """The moments from explicit weights, in double precision."""
    steps = len(gradients)
    weights = decay ** np.arange(steps - 1, -1, -1.0)
    weights /= weights.sum()
    all_of_them = np.stack([flat(g).astype("float64") for g in gradients])
    mean = weights @ all_of_them
    square = weights @ (all_of_them**2).sum(-1)
    return mean @ mean, square, (weights**2).sum()


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.99])
def test_snr_is_the_ratio_of_the_moments(decay):
    mean = [1.5 * some(3, 4), 1.5 * some(4)]
    gradients = [[m + some(*m.shape) for m in mean] for _ in range(12)]
    measurements = [value for value, _ in run(gradients, decay)]
    assert np.isnan(measurements[0]), "one batch has no variance"
    for step in range(2, 13):
        signal, spread, c = averages(gradients[:step], decay)
        expected = max(signal - c * spread, 0) / (spread - signal)
        np.testing.assert_allclose(measurements[step - 1], expected, rtol=2e-3)


def test_snr_leaves_out_variables_without_a_gradient():
    gradients = [[some(3, 4), None, some(4)] for _ in range(6)]
    quantity = GradientSNR()
    state = [ops.zeros(s) for s in quantity.init_state([(3, 4), (7,), (4,)])]
    for given in gradients:
        (value, _), state = quantity.compute(view(gradients=given), state)
    without = [[g for g in given if g is not None] for given in gradients]
    assert float(value) == run(without)[-1][0]
    assert np.count_nonzero(np.asarray(state[-1])) == 16


def monte_carlo(mean, noise, steps=30, trials=400, decay=0.9, size=50):
    """Numerators, denominators and measurements after `steps` steps, over trials."""
    quantity = GradientSNR(decay)
    mean = np.full(size, mean, "float32")
    rng = np.random.default_rng(1)
    draws = (mean + noise * rng.normal(size=(trials, steps, size))).astype("float32")

    def one(gradients):
        state = [ops.zeros(shape) for shape in quantity.init_state([(size,)])]
        for step in range(steps):
            found, state = quantity.compute(view(gradients=[gradients[step]]), state)
        return ops.stack([*found, *ops.unstack(state[0][:3, 0]), ops.sum(state[1] ** 2)])

    found = np.asarray(ops.vectorized_map(one, ops.convert_to_tensor(draws)))
    value, error, total, squared, square, signal = found.T.astype("float64")
    np.testing.assert_allclose(total, (1 - decay**steps) / (1 - decay), rtol=1e-3)
    power = decay**steps
    c = (1 - decay) * (1 + power) / ((1 + decay) * (1 - power))
    np.testing.assert_allclose(squared / total**2, c, rtol=1e-3)
    signal, spread = signal / total**2, square / total
    return signal - c * spread, spread - signal, value, error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mean", "noise"), [(1.0, 1.0), (0.3, 1.0), (0.1, 1.0), (0.0, 1.0), (2.0, 0.5)]
)
def test_snr_is_unbiased_in_numerator_and_denominator(mean, noise):
    size = 50
    above, below, measurements, _ = monte_carlo(mean, noise, size=size)
    # Both carry the factor that one less the sum of squared weights is.
    power = 0.9**30
    factor = 1 - 0.1 * (1 + power) / (1.9 * (1 - power))
    for found, expected in ((above, mean**2 * size), (below, noise**2 * size)):
        error = found.std() / np.sqrt(len(found))
        assert abs(found.mean() / factor - expected) < 4 * error
    ratio = above.mean() / below.mean()
    assert abs(ratio - (mean / noise) ** 2) < max(0.004, 0.02 * (mean / noise) ** 2)
    np.testing.assert_allclose(measurements, np.maximum(above, 0) / below, atol=2e-3)


@pytest.mark.parametrize("mean", [0.0, 0.1])
def test_the_error_of_the_snr_is_how_far_measurements_scatter(mean):
    above, below, _, errors = monte_carlo(mean, 1.0)
    scatter = np.std(above / below)
    assert 0.75 * scatter < np.mean(errors) < 1.25 * scatter


def test_the_error_of_the_snr_needs_three_measurements():
    errors = [error for _, error in run([[some(5)] for _ in range(5)])]
    assert np.isnan(errors[:2]).all()
    assert np.isfinite(errors[2:]).all()


@pytest.mark.slow
def test_zero_mean_noise_gives_about_zero_and_a_constant_gradient_a_lot():
    _, _, noise, _ = monte_carlo(0.0, 1.0, size=400)
    assert (noise >= 0).all()
    assert noise.mean() < 0.005
    assert noise.max() < 0.03
    _, _, signal, _ = monte_carlo(1.0, 0.01)
    assert signal.min() > 1e3


def test_snr_of_identical_gradients_is_large_and_never_negative():
    for seed in range(20):
        gradient = np.random.default_rng(seed).normal(size=200).astype("float32")
        found = run([[gradient]] * 8)[1:]
        assert all(value > 1e4 for value, _ in found)
        assert not any(error < 0 for _, error in found)


def test_snr_of_identical_batches_at_learning_rate_0_is_large_and_never_negative():
    keras.utils.set_random_seed(0)
    base = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, name="a")])
    base.add(keras.layers.Dense(1))
    model = e2e.modularize(base, ["a"])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    callback = e2e.callbacks.ModuleDiagnostics(1, [GradientSNR()])
    model.fit(some(8, 5), some(8, 1), 8, epochs=12, verbose=0, callbacks=[callback])
    for values in callback.history["gradient_snr"].values():
        assert all(value > 1e4 for value in values[1:])


def test_snr_does_not_depend_on_the_scale_of_the_gradients():
    gradients = [[some(20) + 0.5] for _ in range(6)]
    expected = run(gradients)[-1][0]
    for scale in (1e-3, 1e3):
        scaled = [[scale * g for g in given] for given in gradients]
        np.testing.assert_allclose(run(scaled)[-1][0], expected, rtol=1e-3)


@pytest.mark.parametrize("broken", [np.inf, np.nan, 1e30])
def test_a_gradient_that_is_not_finite_or_whose_square_is_not_is_left_out(broken):
    calm = [[some(5)] for _ in range(6)]
    spoiled = [*calm[:3], [np.full(5, broken, "float32")], *calm[3:]]
    measurements = run(spoiled)
    assert np.isnan(measurements.pop(3)).all()
    np.testing.assert_array_equal(measurements, run(calm))


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1, 1.1, float("nan"), "x"])
def test_a_decay_outside_of_0_to_1_is_refused(decay):
    with pytest.raises(ValueError, match=r"GradientSNR: decay=.*above 0 and below 1"):
        GradientSNR(decay)


def test_snr_keeps_no_more_than_a_copy_of_the_gradient_filled_up_to_whole_rows():
    shapes = [(30, 40), (40,)]
    kept = GradientSNR().init_state(shapes)
    assert kept == [(6, 1), (5, 256)]
    assert GradRMS().init_state(shapes) == UpdateRatio().init_state(shapes) == []


def test_snr_of_a_large_variable_is_told_from_some_entries_of_each_column():
    shapes = [(500, 300), (300,)]
    rising = np.linspace(0, 0.3, 300, dtype="float32")
    mean = [some(*s) * rising for s in shapes]
    gradients = [[m + some(*m.shape) for m in mean] for _ in range(8)]
    kept = GradientSNR(entries=2000).init_state(shapes)
    # 150,000 / 2,000 = 75 shares a factor with 300; 77 does not.
    assert kept[-1] == (-(-(-(-150_000 // 77) + 300) // 256), 256)
    few, full = (run(gradients, entries=entries)[-1][0] for entries in (2000, 10**6))
    assert 0.5 < few / full < 2.0
    looked_at = np.arange(0, 150_000, 77) % 300
    assert set(looked_at) == set(range(300))


@pytest.mark.parametrize("entries", [0, -1, 1.5, True])
def test_an_invalid_number_of_entries_is_refused(entries):
    with pytest.raises(ValueError, match=r"GradientSNR: entries=.*at least 1"):
        GradientSNR(entries=entries)


def test_quantities_say_what_they_are():
    for quantity in (GradRMS(), UpdateRatio(), GradientSNR()):
        assert quantity.name
        assert quantity.formula
        assert quantity.interpretation
        assert quantity.healthy is None or quantity.healthy[0] < quantity.healthy[1]

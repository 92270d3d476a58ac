"""Quantities of signals, losses and activations, against numpy."""

from functools import partial

import numpy as np
import pytest

from keras_e2e.diagnostics import (
    DormantFraction,
    ModuleLoss,
    ModuleView,
    SignalCoherence,
    SignalGain,
)

RNG = np.random.default_rng(0)


def some(*shape):
    return RNG.normal(size=shape).astype("float32")


def view(**given):
    """A module as a quantity sees it; what is not given is not there."""
    lists = {"variables": [], "gradients": [], "updates": []}
    absent = dict.fromkeys(("loss", "activation", "signal", "input_signal"))
    return ModuleView(**{"name": "m", "total": lambda t: t, **lists, **absent, **given})


def read(quantity, **given):
    value, state = quantity.compute(view(**given), [])
    assert state == []
    return None if value is None else float(value)


SHAPES = [(6, 3), (6, 4, 3), (6, 4, 4, 2)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_signal_gain_is_a_ratio_of_norms(shape):
    sent, received = some(*shape), some(6, 5)
    expected = np.linalg.norm(sent) / np.linalg.norm(received)
    value = read(SignalGain(), signal=received, input_signal=sent)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_signal_gain_needs_both_ends():
    assert read(SignalGain(), signal=some(6, 3)) is None
    assert read(SignalGain(), input_signal=some(6, 3)) is None


def test_the_gains_of_a_chain_multiply():
    deltas = [some(6, 3) for _ in range(4)]
    gains = [
        read(SignalGain(), input_signal=deltas[i], signal=deltas[i + 1]) for i in range(3)
    ]
    whole = read(SignalGain(), input_signal=deltas[0], signal=deltas[3])
    np.testing.assert_allclose(np.prod(gains), whole, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_signal_coherence_compares_the_mean_with_the_examples(shape):
    delta = some(*shape).reshape(shape) + 0.5
    rows = delta.reshape(6, -1)
    expected = (rows.mean(0) ** 2).sum() / (rows**2).sum(-1).mean()
    value = read(SignalCoherence(), signal=delta)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_signal_coherence_is_1_for_unanimous_and_1_over_b_for_orthogonal_examples():
    unanimous = np.tile(some(1, 8), (6, 1))
    assert read(SignalCoherence(), signal=unanimous) == pytest.approx(1.0, rel=1e-5)
    orthogonal = np.eye(6, dtype="float32")
    assert read(SignalCoherence(), signal=orthogonal) == pytest.approx(1 / 6, rel=1e-5)
    opposed = np.array([[1, 2], [-1, -2]], "float32")
    assert read(SignalCoherence(), signal=opposed) == pytest.approx(0.0, abs=1e-6)


def test_signal_coherence_does_not_depend_on_the_scale():
    delta = some(6, 3) + 0.5
    expected = read(SignalCoherence(), signal=delta)
    for scale in (1e-6, 1e6):
        value = read(SignalCoherence(), signal=scale * delta)
        assert value == pytest.approx(expected, rel=1e-4)


def test_signal_coherence_needs_a_signal():
    assert read(SignalCoherence()) is None


def test_module_loss_is_the_loss():
    assert read(ModuleLoss(), loss=np.float16(1.5)) == 1.5
    assert read(ModuleLoss()) is None


# Dormant units


@pytest.mark.parametrize("shape", [(16,), (4, 16), (3, 3, 16)], ids=str)
def test_dormant_fraction_counts_the_units_that_hardly_act(shape):
    activation = np.abs(some(8, *shape)) + 0.1
    activation[..., :5] = 0  # never act
    activation[..., 5] *= 0.01  # hardly acts
    assert read(DormantFraction(), activation=activation) == pytest.approx(6 / 16)
    assert read(DormantFraction(), activation=-activation) == pytest.approx(6 / 16)


@pytest.mark.parametrize("threshold", [0.025, 0.2, 0.9])
def test_dormant_fraction_is_a_share_of_scores(threshold):
    activation = some(8, 4, 16) * np.linspace(0.01, 1, 16, dtype="float32")
    use = np.abs(activation).mean((0, 1))
    expected = (use / use.mean() <= threshold).mean()
    value = read(DormantFraction(threshold), activation=activation)
    assert value == pytest.approx(expected)


def test_all_units_at_zero_are_all_dormant():
    assert read(DormantFraction(), activation=np.zeros((8, 4), "float32")) == 1.0


def test_units_that_act_alike_are_not_dormant():
    assert read(DormantFraction(), activation=np.full((8, 4), 1e-9, "float32")) == 0.0


def test_dormant_fraction_needs_units():
    assert read(DormantFraction()) is None
    assert read(DormantFraction(), activation=some(8)) is None


# Under a strategy


def noted(brought, tensor):
    brought.append(np.asarray(tensor))
    return tensor


def taken(sums, tensor):
    return next(sums)


def test_replicas_add_up_to_one_device():
    """Each of two replicas sees half a batch; `total` sums over them."""
    whole = {"signal": some(8, 3) + 0.3, "input_signal": some(8, 5)}
    whole["activation"] = np.abs(some(8, 6)) * [0, 1, 1, 1e-3, 1, 1]
    halves = [{k: v[i : i + 4] for k, v in whole.items()} for i in (0, 4)]
    for quantity in (SignalGain(), SignalCoherence(), DormantFraction()):
        expected = read(quantity, **whole)

        # What each replica brings, call by call.
        seen = []
        for half in halves:
            brought = []
            total = partial(noted, brought)
            quantity.compute(view(total=total, **half), [])
            seen.append(brought)
        sums = iter([a + b for a, b in zip(*seen, strict=True)])
        value, _ = quantity.compute(view(total=partial(taken, sums), **halves[0]), [])
        assert float(value) == pytest.approx(expected, rel=1e-5), quantity.name


@pytest.mark.parametrize("threshold", [float("nan"), float("inf"), -0.1, "low", True, None])
def test_an_invalid_threshold_of_dormancy_is_refused(threshold):
    with pytest.raises(ValueError, match=r"DormantFraction: threshold=.*0 or larger"):
        DormantFraction(threshold)

"""Quantities that need further passes or algebra, against stock layers and NumPy."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_e2e as e2e
from keras_e2e import diagnostics
from keras_e2e.diagnostics import (
    EffectiveRank,
    LocalAlignment,
    LossCredit,
    NoiseScale,
    ProbeAccuracy,
    Reliability,
    Rotation,
)
from keras_e2e.objectives import IntermediateTarget, Prediction, Reconstruction
from tests.diagnostics.on_backends import gradients

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 5)).astype("float32")
Y = RNG.integers(0, 3, size=8)
LOSS = "sparse_categorical_crossentropy"


def network():
    x = inputs = keras.Input((5,))
    x = layers.Dense(7, activation="tanh", name="a")(x)
    x = layers.Dense(6, activation="tanh", name="b")(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="out")(x))


def modular(quantities, mode="end_to_end", objectives=None, optimizer=None, **options):
    objectives = objectives or {"a": Reconstruction(), "b": Prediction("mlp")}
    model = e2e.modularize(network(), objectives, training_mode=mode)
    model.compile(optimizer or keras.optimizers.SGD(0.1), LOSS, **options)
    return model, model.instrument(quantities)


def step(model, x=X, y=Y, periodic=True, **options):
    quantities = model._modular.recorder.quantities
    model.request_diagnostics(
        [q.name for q in quantities if periodic or q.schedule is None]
    )
    model.fit(x, y, batch_size=len(x), shuffle=False, verbose=0, **options)


def flat(tensors):
    return np.concatenate([np.ravel(t) for t in tensors]).astype("float64")


def task_gradients(model, x, y):
    """The task's gradients end to end, by module, of the layers alone."""
    one, two, last = (model.get_layer(name) for name in ("a", "b", "out"))

    def loss():
        return ops.mean(keras.losses.get(LOSS)(y, last(two(one(x)))))

    found = gradients(loss, [layer.trainable_variables for layer in (one, two, last)])
    return dict(zip(("a", "b", "out"), map(flat, found), strict=True))


def local_gradients(model, x, y):
    """Those of the local objectives."""
    one, two = model.get_layer("a"), model.get_layer("b")
    decoder = model.boundaries["a"].objective.network
    (head,) = model.boundaries["b"].objective.networks

    def first():
        return ops.mean((decoder(one(x)) - x) ** 2)

    def second():
        guess = ops.softmax(head(two(one(x))))
        return ops.mean(keras.losses.get(LOSS)(y, guess))

    return {
        "a": flat(gradients(first, one.trainable_variables)),
        "b": flat(gradients(second, two.trainable_variables)),
    }


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


MODES = ["end_to_end", "local", "deep_supervision", "sequential:b"]


@pytest.mark.parametrize("mode", MODES)
def test_agreement_is_that_of_gradients_by_hand_in_every_mode(mode):
    model, recorder = modular([LocalAlignment(), Reliability(), NoiseScale(0.5)], mode)
    noise, signal = 0.0, 0.0
    for _ in range(2):
        halves = [task_gradients(model, X[i], Y[i]) for i in (slice(4), slice(4, 8))]
        local = local_gradients(model, X, Y)
        step(model)
        read = recorder.read()
        large = {m: (halves[0][m] + halves[1][m]) / 2 for m in halves[0]}
        small = {m: sum(h[m] @ h[m] for h in halves) / 2 for m in large}
        for module in ("a", "b", "out"):
            expected = cosine(halves[0][module], halves[1][module])
            np.testing.assert_allclose(read["reliability"][module], expected, rtol=1e-3)
        for module in ("a", "b"):
            expected = cosine(local[module], large[module])
            np.testing.assert_allclose(read["local_alignment"][module], expected, rtol=1e-3)
        square = large["a"] @ large["a"]
        noise = 0.5 * noise + (small["a"] - square) / (1 / 4 - 1 / 8)
        signal = 0.5 * signal + (8 * square - 4 * small["a"]) / (8 - 4)
        expected = noise / signal if signal > 0 else np.inf
        np.testing.assert_allclose(read["noise_scale"]["a"], expected, rtol=2e-3)


def test_an_objective_that_opposes_the_task_is_told_by_its_sign():
    class Opposed(keras.losses.Loss):
        def call(self, y, p):
            return -keras.losses.sparse_categorical_crossentropy(y, p)

    model, recorder = modular(
        [LocalAlignment()], objectives={"a": None, "b": Prediction("mlp", loss=Opposed())}
    )
    step(model)
    assert recorder.read()["local_alignment"] == {}, "one boundary has no objective"
    model, recorder = modular(
        [LocalAlignment()],
        objectives={"a": Prediction("mlp", loss=Opposed()), "b": Prediction("mlp")},
    )
    for objective in (model.boundaries[name].objective for name in ("a", "b")):
        # Heads that do what the model does from there on: the same gradient, or less it.
        (head,) = objective.networks
        for variable in head.trainable_variables:
            variable.assign(
                np.eye(*variable.shape) if len(variable.shape) > 1 else 0 * variable
            )
    kernel = np.eye(7, 6, dtype="float32")
    model.get_layer("b").set_weights([kernel, np.zeros(6, "float32")])
    model.get_layer("out").set_weights([np.eye(6, 3), np.zeros(3)])
    step(model)
    read = recorder.read()["local_alignment"]
    assert read["a"] < -0.2
    assert read["b"] > 0.2


def test_a_gradient_at_the_floor_has_no_direction():
    model, recorder = modular([LocalAlignment(), Reliability()])
    model.get_layer("out").kernel.assign(np.zeros((6, 3)))
    step(model)
    read = recorder.read()
    assert np.isnan(read["local_alignment"]["a"])
    assert np.isnan(read["reliability"]["a"])
    assert np.isfinite(read["reliability"]["out"])


def test_the_credit_of_a_step_is_the_change_of_the_loss():
    optimizer = keras.optimizers.Adam(1e-3)
    model, recorder = modular([LossCredit()], optimizer=optimizer)
    loss = keras.losses.get(LOSS)

    def measure():
        return float(np.mean(loss(Y, model(X, training=True))))

    before, old = task_gradients(model, X, Y), flat(model.get_layer("a").get_weights())
    start = measure()
    step(model)
    credit = recorder.read()["loss_credit"]
    after, new = task_gradients(model, X, Y), flat(model.get_layer("a").get_weights())
    expected = 0.5 * (before["a"] + after["a"]) @ (new - old)
    np.testing.assert_allclose(credit["a"], expected, rtol=1e-3)
    assert start - measure() > 1e-3
    np.testing.assert_allclose(sum(credit.values()), measure() - start, rtol=2e-2)


def test_rotation_is_from_the_first_measurement_on_through_all_modes():
    model, recorder = modular([Rotation()])
    layer = model.get_layer("a")
    start = flat(layer.get_weights())
    step(model)
    assert recorder.read()["rotation"]["a"] == 0
    for mode in ("local", "end_to_end"):
        model.training_mode = mode
        model.fit(X, Y, epochs=5, verbose=0)
        now = flat(layer.get_weights())
        step(model)
        expected = 1 - cosine(start, now)
        np.testing.assert_allclose(recorder.read()["rotation"]["a"], expected, rtol=1e-3)
    assert expected > 1e-4


def test_a_probe_is_ridge_regression_on_the_measurements_before():
    model, recorder = modular(
        [ProbeAccuracy(ridge=0.1, decay=0.5)], optimizer=keras.optimizers.SGD(0.0)
    )
    centers = RNG.normal(size=(3, 5)) * 2
    gram, cross = np.zeros((8, 8)), np.zeros((8, 3))
    for measurement in range(3):
        y = RNG.integers(0, 3, size=32)
        x = (centers[y] + RNG.normal(size=(32, 5))).astype("float32")
        h = np.c_[np.asarray(model.get_layer("a")(x)), np.ones(32)].astype("float64")
        step(model, x, y)
        found = recorder.read()["probe_accuracy"]
        assert set(found) == {"a", "b"}
        if measurement == 0:
            assert np.isnan(found["a"])
        else:
            penalty = 0.1 * np.trace(gram) / 8 * np.eye(8)
            guess = (h @ np.linalg.solve(gram + penalty, cross)).argmax(1)
            np.testing.assert_allclose(found["a"], np.mean(guess == y), rtol=1e-6)
        gram, cross = 0.5 * gram + h.T @ h, 0.5 * cross + h.T @ np.eye(3)[y]
    assert found["a"] > 0.6


@pytest.mark.parametrize("axes", [1, 2])
def test_a_probe_reads_two_classes_off_one_output(axes):
    base = keras.Sequential(
        [keras.Input((5,)), layers.Dense(4, name="a"), layers.Dense(1, "sigmoid")]
    )
    model = e2e.modularize(base, ["a"])
    model.compile("sgd", "binary_crossentropy")
    recorder = model.instrument([ProbeAccuracy()])
    x = RNG.normal(size=(512, 5)).astype("float32")
    hidden = np.asarray(base.get_layer("a")(x))[:, 0]
    y = (hidden > 0).astype("float32").reshape((512,) + (1,) * (axes - 1))
    step(model, x, y)
    step(model, x, y)
    assert recorder.read()["probe_accuracy"]["a"] > 0.9


def test_a_regression_has_no_probe():
    base = keras.Sequential([keras.Input((5,)), layers.Dense(4, name="a"), layers.Dense(3)])
    model = e2e.modularize(base, ["a"])
    model.compile("sgd", "mse")
    recorder = model.instrument([ProbeAccuracy()])
    step(model, y=np.eye(3)[Y])
    assert recorder.read()["probe_accuracy"] == {}


@pytest.mark.parametrize("kept", [128, 3])
def test_effective_rank_is_that_of_the_activations(kept):
    model, recorder = modular([EffectiveRank(kept)])
    stride = -(-7 // kept)
    h = np.asarray(model.get_layer("a")(X))[:, ::stride]
    step(model)
    share = np.linalg.svd(h, compute_uv=False)
    share /= share.sum()
    expected = np.exp(-np.sum(share * np.log(share)))
    np.testing.assert_allclose(recorder.read()["effective_rank"]["a"], expected, rtol=5e-3)


def test_a_collapsed_activation_has_rank_one_and_a_dead_one_none():
    model, recorder = modular([EffectiveRank()])
    layer = model.get_layer("a")
    layer.set_weights([np.zeros((5, 7)), np.full(7, 0.5)])
    step(model)
    np.testing.assert_allclose(recorder.read()["effective_rank"]["a"], 1, rtol=1e-3)
    layer.set_weights([np.zeros((5, 7)), np.zeros(7)])
    step(model)
    assert recorder.read()["effective_rank"]["a"] == 0


def test_expensive_quantities_are_measured_when_it_is_asked_for():
    model, recorder = modular(diagnostics.full_quantities())
    step(model, periodic=False)
    read = recorder.read()
    assert set(read) >= {"grad_rms", "rotation"}
    assert all(read["grad_rms"])
    assert not any(read[q.name] for q in recorder.quantities if q.schedule is not None)
    step(model)
    assert all(recorder.read()[q.name] for q in recorder.quantities)
    # On JAX a measured step is made beside the one that trains, which is traced as well.
    measuring = {key: count for key, count in model.trace_counts.items() if key[1]}
    assert measuring == {("end_to_end", 9): 1, ("end_to_end", 16): 1}


@pytest.mark.slow
def test_a_batch_of_one_and_of_three():
    model, recorder = modular(diagnostics.full_quantities())
    step(model, X[:1], Y[:1])
    read = recorder.read()
    assert np.isnan(read["reliability"]["a"])
    assert np.isfinite(read["grad_rms"]["a"])
    halves = [task_gradients(model, X[i], Y[i]) for i in (slice(1), slice(1, 2))]
    step(model, X[:3], Y[:3])
    expected = cosine(halves[0]["a"], halves[1]["a"])
    np.testing.assert_allclose(recorder.read()["reliability"]["a"], expected, rtol=1e-3)


@pytest.mark.slow
def test_a_pass_without_its_labels_or_targets_is_left_out():
    objectives = {"a": IntermediateTarget(head="linear", units=3), "b": Prediction()}
    full = diagnostics.full_quantities()
    model, recorder = modular(full, objectives=objectives)
    step(model)  # nobody gave labels of `a`, and end to end nobody need
    read = recorder.read()
    assert read["local_alignment"] == {}
    assert len(read["reliability"]) == 3
    model.training_mode = "sequential:a"
    step(model, y={"a": Y})  # nor targets here
    read = recorder.read()
    assert read["local_alignment"] == read["reliability"] == read["probe_accuracy"] == {}
    assert set(read["loss_credit"]) == {"a"}
    model.training_mode = "local"
    step(model, y={"a": Y, "out": Y})
    assert set(recorder.read()["local_alignment"]) >= {"a", "b"}


class Own(e2e.diagnostics.Quantity):
    """A user's, in ten lines: the largest weight."""

    name, formula, schedule = "largest", "max abs(theta)", 50

    def compute(self, module, state):
        if not module.variables:
            return None, state
        largest = [ops.max(ops.abs(v)) for v in module.variables]
        return ops.max(ops.stack(largest)), state


def test_a_quantity_of_one_s_own_may_have_a_schedule():
    model, recorder = modular([Own()])
    expected = max(np.abs(w).max() for w in model.get_layer("a").get_weights())
    step(model)
    np.testing.assert_allclose(recorder.read()["largest"]["a"], expected, rtol=1e-6)


def test_numbers_that_come_along_must_be_as_many_as_named():
    class Wrong(Own):
        extra_outputs = ("more",)

    model, _ = modular([Wrong()])
    with pytest.raises(ValueError, match="compute returned 1 numbers for"):
        step(model)


@pytest.mark.parametrize(
    "make",
    [
        lambda: NoiseScale(1.0),
        lambda: NoiseScale("x"),
        lambda: Rotation(0),
        lambda: ProbeAccuracy(units=0),
        lambda: ProbeAccuracy(ridge=0),
        lambda: ProbeAccuracy(ridge="x"),
        lambda: ProbeAccuracy(decay=float("nan")),
        lambda: EffectiveRank(1.5),
    ],
)
def test_arguments_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="expected"):
        make()

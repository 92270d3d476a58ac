"""What an instrumented step reads, against gradients taken of stock layers."""

from functools import partial

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_e2e as e2e
from keras_e2e import ModuleBoundary, TrainingMode, diagnostics
from keras_e2e.objectives import Prediction, Reconstruction
from tests.diagnostics.on_backends import ON_JAX, gradients, zeros

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 5)).astype("float32")
Y = RNG.integers(0, 3, size=6)
LOSS = "sparse_categorical_crossentropy"


def network(end="softmax"):
    x = inputs = keras.Input((5,))
    x = layers.Dense(7, activation="tanh", name="a")(x)
    x = layers.Dense(6, activation="relu", name="b")(x)
    outputs = layers.Dense(3, activation=end, name="out")(x)
    return keras.Model(inputs, outputs, name="net")


def modular(mode, quantities=None, end="softmax", **options):
    objectives = {"a": Reconstruction(), "b": Prediction("mlp")}
    model = e2e.modularize(network(end), objectives, training_mode=mode)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=end is None)
    model.compile(keras.optimizers.Adam(0.01), loss, **options)
    recorder = model.instrument(quantities or diagnostics.default_quantities())
    return model, recorder


def step(model, x=X, y=Y):
    """One instrumented step of `fit` on the whole batch."""
    model.request_diagnostics()
    return model.fit(x, y, batch_size=len(x), shuffle=False, verbose=0)


def by_hand(model, mode):
    """Losses, gradients, signals and activations from stock layers.

    Written out layer by layer: what is stopped where is the definition of the mode.
    """
    first, second, last = (model.get_layer(name) for name in ("a", "b", "out"))
    decoder = model.boundaries["a"].objective.network
    (head,) = model.boundaries["b"].objective.networks
    cut = TrainingMode.get(mode).stops
    weight = TrainingMode.get(mode).weight
    loss = keras.losses.get(LOSS)
    at_a, at_b, at_out = zeros(6, 7), zeros(6, 6), zeros(6, 3)
    into_b, into_out = zeros(6, 7), zeros(6, 6)

    def run():
        one = first(X) + at_a
        two = second((ops.stop_gradient(one) if cut("a") else one) + into_b) + at_b
        into_last = (ops.stop_gradient(two) if cut("b") else two) + into_out
        raw = ops.matmul(into_last, last.kernel) + last.bias + at_out
        losses = {
            "a": ops.mean((decoder(one) - X) ** 2),
            "b": ops.mean(loss(Y, ops.softmax(head(two)))),
            "out": ops.mean(loss(Y, ops.softmax(raw))),
        }
        return losses, {"a": one, "b": two}

    def total():
        losses, _ = run()
        return losses["out"] + sum(weight(name) * losses[name] for name in ("a", "b"))

    losses, activations = run()
    with_respect_to = {
        "gradients": {x.name: x.trainable_variables for x in (first, second, last)},
        "signals": {"a": at_a, "b": at_b, "out": at_out},
        "input_signals": {"b": into_b, "out": into_out},
    }
    found = gradients(total, with_respect_to)
    return {"losses": losses, "activations": activations, **found}


def norm(*tensors):
    return np.sqrt(sum(np.sum(np.asarray(t, "float64") ** 2) for t in tensors))


MODES = [
    "end_to_end",
    "local",
    "deep_supervision",
    TrainingMode("mixed", stop=["a"], weights={"a": 0.5, "b": 2.0}),
    TrainingMode("mixed", stop=["b"]),
]


@pytest.mark.parametrize("end", ["softmax", None], ids=["probabilities", "logits"])
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_each_quantity_is_what_gradients_and_numpy_make_of_it(mode, end):
    model, recorder = modular(mode, end=end)
    expected = by_hand(model, mode)
    before = [[v.numpy() for v in m.trainable_variables] for m in model.modules]
    step(model)
    after = [[v.numpy() for v in m.trainable_variables] for m in model.modules]
    read = recorder.read()
    close = {"rtol": 2e-4, "atol": 1e-7}

    for module, old, new in zip(model.modules, before, after, strict=True):
        name = module.name
        own = expected["gradients"][name]
        size = sum(v.size for v in old)
        np.testing.assert_allclose(
            read["grad_rms"][name], norm(*own) / np.sqrt(size), **close
        )
        moved = [b - a for a, b in zip(old, new, strict=True)]
        np.testing.assert_allclose(
            read["update_ratio"][name], norm(*moved) / norm(*old), **close
        )
        delta = np.asarray(expected["signals"][name], "float64")
        coherence = np.sum(delta.mean(0) ** 2) / np.mean(np.sum(delta**2, -1))
        np.testing.assert_allclose(read["signal_coherence"][name], coherence, **close)
        assert np.isnan(read["gradient_snr"][name])

    gains = {
        name: norm(expected["input_signals"][name]) / norm(expected["signals"][name])
        for name in ("b", "out")
    }
    assert set(read["signal_gain"]) == set(gains)
    for name, gain in gains.items():
        np.testing.assert_allclose(read["signal_gain"][name], gain, **close)

    counted = {
        name: float(loss)
        for name, loss in expected["losses"].items()
        if name == "out" or TrainingMode.get(mode).weight(name)
    }
    assert set(read["loss"]) == set(counted)
    for name, loss in counted.items():
        np.testing.assert_allclose(read["loss"][name], loss, **close)

    dormant = {}
    for name, activation in expected["activations"].items():
        use = np.abs(np.asarray(activation)).mean(0)
        dormant[name] = (use / use.mean() <= 0.025).mean()
    assert set(read["dormant_fraction"]) == {"a", "b"}
    for name, share in dormant.items():
        assert read["dormant_fraction"][name] == pytest.approx(share)


@pytest.mark.parametrize("active", ["a", "b", "out"])
def test_in_sequential_mode_only_the_active_module_has_numbers(active):
    model, recorder = modular(f"sequential:{active}")
    before = {m.name: [v.numpy() for v in m.trainable_variables] for m in model.modules}
    expected = by_hand(model, "local")["gradients"][active]
    step(model)
    read = recorder.read()
    for name in ("grad_rms", "update_ratio", "gradient_snr", "loss"):
        assert set(read[name]) == {active}, name
    size = sum(v.size for v in before[active])
    np.testing.assert_allclose(
        read["grad_rms"][active], norm(*expected) / np.sqrt(size), rtol=2e-4
    )


def test_what_a_stopped_boundary_would_have_sent_back_is_measured():
    """In local mode the signal at the next module's input exists, and is not sent."""
    model, recorder = modular("local")
    expected = by_hand(model, "local")
    assert norm(expected["input_signals"]["b"]) > 0
    step(model)
    assert recorder.read()["signal_gain"]["b"] > 0


def test_a_boundary_crossed_twice_counts_both_crossings():
    left, right = keras.Input((5,), name="left"), keras.Input((5,), name="right")
    encoder = layers.Dense(4, activation="tanh", name="encoder")
    pair = layers.Concatenate()([encoder(left), encoder(right)])
    base = keras.Model([left, right], layers.Dense(1, name="out")(pair))
    model = e2e.modularize(base, ["encoder"])
    model.compile("sgd", "mse")
    recorder = model.instrument(diagnostics.default_quantities())
    x, y = [X, X[::-1].copy()], X[:, :1]
    added = [zeros(6, 4), zeros(6, 4), zeros(6, 1)]

    def loss():
        codes = [encoder(part) + zero for part, zero in zip(x, added, strict=False)]
        out = base.get_layer("out")(ops.concatenate(codes, -1)) + added[-1]
        return ops.mean((out - y) ** 2)

    first, second, to_out = gradients(loss, added)
    model.request_diagnostics()
    model.fit(x, y, batch_size=6, shuffle=False, verbose=0)
    read = recorder.read()
    gain = norm(first, second) / norm(to_out)
    np.testing.assert_allclose(read["signal_gain"]["out"], gain, rtol=1e-4)
    both = np.concatenate([first, second], -1)
    coherence = np.sum(both.mean(0) ** 2) / np.mean(np.sum(both**2, -1))
    np.testing.assert_allclose(read["signal_coherence"]["encoder"], coherence, rtol=1e-4)


def test_a_layer_with_dead_units_shows_them():
    model, recorder = modular("local")
    second = model.get_layer("b")
    bias = second.bias.numpy()
    bias[:4] = -100.0  # behind the relu these never act
    second.bias.assign(bias)
    step(model)
    assert recorder.read()["dormant_fraction"]["b"] == pytest.approx(4 / 6)


def test_snr_over_steps_is_that_of_the_gradients_of_the_steps():
    model, recorder = modular("end_to_end", [diagnostics.GradientSNR(0.8)])
    batches = [
        (RNG.normal(size=(6, 5)).astype("float32"), RNG.integers(0, 3, size=6))
        for _ in range(5)
    ]
    model.compile(keras.optimizers.SGD(0.0), LOSS)  # so that only batches differ
    found, variables = [], model.modules[0].trainable_variables

    def loss(x, y):
        return ops.mean(keras.losses.get(LOSS)(y, model(x, training=False)))

    for x, y in batches:
        taken = gradients(partial(loss, x, y), variables)
        found.append(np.concatenate([np.ravel(g) for g in taken]).astype("float64"))
        step(model, x, y)
    weights = 0.8 ** np.arange(4, -1, -1.0)
    weights /= weights.sum()
    mean = weights @ np.stack(found)
    spread = weights @ (np.stack(found) ** 2).sum(-1)
    c = (weights**2).sum()
    signal = mean @ mean
    expected = max(signal - c * spread, 0) / (spread - signal)
    np.testing.assert_allclose(recorder.read()["gradient_snr"]["a"], expected, rtol=1e-3)


def test_a_wrapped_subclassed_model_reads_the_same_numbers():
    # On JAX the signal at probabilities that code makes is that at the probabilities.
    end = None if ON_JAX else "softmax"

    class Net(keras.Model):
        def __init__(self, base):
            super().__init__()
            self.a, self.b, self.out = (base.get_layer(n) for n in ("a", "b", "out"))

        def call(self, x):
            return self.out(self.b(self.a(x)))

    measurements = []
    for wrap in (False, True):
        keras.utils.set_random_seed(4)
        base = network(end)
        if wrap:
            subclassed = Net(base)
            subclassed(X)
            base = subclassed
        model = e2e.modularize(base, {"a": None, "b": None})
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(end is None))
        recorder = model.instrument(diagnostics.default_quantities())
        step(model)
        measurements.append(recorder.read())
    one, other = measurements
    assert list(one) == list(other)
    for name in one:
        values = [list(read[name].values()) for read in measurements]
        np.testing.assert_allclose(*values, rtol=1e-5)


class InCall(keras.Model):
    """A subclassed model without a loss at its boundary."""

    def __init__(self):
        super().__init__()
        self.a = layers.Dense(4, name="a")
        self.mark = ModuleBoundary(None, name="mark")
        self.out = layers.Dense(1, name="out")

    def call(self, x):
        return self.out(ops.tanh(self.mark(self.a(x))))


def test_a_marked_place_has_diagnostics_without_an_objective():
    base = InCall()
    base(X)
    model = e2e.modularize(base)
    model.compile("sgd", "mse")
    recorder = model.instrument(diagnostics.default_quantities())
    step(model, X, X[:, :1])
    read = recorder.read()
    assert set(read["grad_rms"]) == {"mark", "outputs"}
    assert set(read["loss"]) == {"outputs"}
    assert set(read["signal_gain"]) == {"outputs"}

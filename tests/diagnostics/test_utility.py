"""What the task loses without a module, against numpy and against stock Keras."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e
from keras_e2e.diagnostics import FrozenUtility, ResetUtility
from tests.conformance import models

X, Y = models.inputs("dense", 24), models.targets("dense", 24)
LOSS = "sparse_categorical_crossentropy"
RNG = np.random.default_rng(0)


def modular(cuts, **compile_args):
    model = e2e.modularize(models.build("dense"), list(cuts))
    compile_args = {"optimizer": keras.optimizers.SGD(0.3, momentum=0.9), **compile_args}
    model.compile(loss=LOSS, jit_compile=False, **compile_args)
    return model


@pytest.fixture(scope="module")
def small():
    return modular(models.CUTS)


def others(weights):
    return [RNG.normal(size=w.shape).astype("float32") for w in weights]


def loss(weights, sample_weight=None):
    """The cross-entropy of the small dense model, by hand."""
    h = X.astype("float64")
    for kernel, bias in zip(weights[0:4:2], weights[1:4:2], strict=True):
        h = np.tanh(h @ kernel + bias)
    logits = h @ weights[4] + weights[5]
    picked = logits[np.arange(len(Y)), Y]
    losses = np.log(np.exp(logits).sum(1)) - picked
    return (losses if sample_weight is None else losses * sample_weight).mean()


def own(model):
    """The weights of the layers, without those of heads."""
    return [v.numpy() for module in model.modules for v in module.variables]


@pytest.mark.parametrize("weighted", [False, True])
def test_reset_utility_is_a_difference_of_losses(small, weighted):
    sample_weight = RNG.uniform(size=24).astype("float32") if weighted else None
    start = others(small.get_weights())
    found = ResetUtility(start).measure(small, X, Y, sample_weight)["reset_utility"]
    now, back = own(small), dict(zip([id(v) for v in small.weights], start, strict=True))
    for place, module in enumerate(small.modules):
        changed = list(now)
        changed[2 * place : 2 * place + 2] = [back[id(v)] for v in module.variables]
        expected = loss(changed, sample_weight) - loss(now, sample_weight)
        assert found[module.name] == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert abs(expected) > 0.01


def test_shuffled_weights_keep_their_values():
    model = modular(models.CUTS)
    seeds = [ResetUtility(seed=s).measure(model, X, Y)["reset_utility"] for s in (0, 1)]
    assert seeds[0]["first"] != seeds[1]["first"] != 0.0
    # Of equal entries there is one order only.
    model.set_weights([np.full(w.shape, 0.1) for w in model.get_weights()])
    found = ResetUtility().measure(model, X, Y)["reset_utility"]
    assert list(found.values()) == [0.0, 0.0, 0.0]


@pytest.mark.slow
def test_frozen_utility_is_that_of_trainings_of_stock_keras():
    model = modular(["first"])
    start = others(model.get_weights())

    def stock(first=None):
        base = models.build("dense")
        if first:
            base.get_layer("first").set_weights(first)
            base.get_layer("first").trainable = False
        base.compile(keras.optimizers.SGD(0.3, momentum=0.9), LOSS, jit_compile=False)
        began = base.evaluate(X, Y, verbose=0)
        x, y = np.tile(X, (20, 1)), np.tile(Y, 20)
        base.fit(x, y, batch_size=24, shuffle=False, verbose=0)
        return began, base.evaluate(X, Y, verbose=0)

    places = [id(v) for v in model.weights]
    first = [start[places.index(id(v))] for v in model.modules[0].variables]
    (_, trained), (began, frozen) = stock(), stock(first)
    # All examples in each batch: their order makes no difference.
    quantity = FrozenUtility(20, start, held_out=0, batch_size=24)
    found = quantity.measure(model, X, Y)["frozen_utility"]
    expected = (frozen - trained) / (began - trained)
    assert found["first"] == pytest.approx(expected, rel=1e-2)
    assert 0.02 < expected < 1


@pytest.mark.filterwarnings("ignore:.* has nothing to train in mode:UserWarning")
def test_what_is_learned_by_heart_is_no_progress():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(32, 40)), random.integers(0, 3, 32)  # nothing to learn
    base = keras.Sequential(
        [
            keras.Input((40,)),
            layers.Activation("linear", name="bare"),
            layers.Dense(3, activation="softmax", name="out"),
        ]
    )
    model = e2e.modularize(base, ["bare"])
    model.compile(keras.optimizers.Adam(0.1), LOSS, jit_compile=False)
    by_heart = FrozenUtility(30, held_out=0).measure(model, x, y)["frozen_utility"]
    assert by_heart["out"] == 1.0  # it holds all the weights
    assert np.isnan(by_heart["bare"])  # it has none
    held_out = FrozenUtility(30).measure(model, x, y)["frozen_utility"]
    assert np.isnan(held_out["out"])

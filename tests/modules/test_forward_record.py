"""`model.forward_record`: the one way to what crosses the boundaries."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e
from tests.conformance import cases, models

X = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")


def network(**options):
    inputs = keras.Input((6,))
    x = layers.Dense(8, name="a", activity_regularizer=keras.regularizers.L2(0.5))(inputs)
    x = layers.Dropout(0.5, seed=1)(layers.BatchNormalization(name="norm")(x))
    return e2e.modularize(
        keras.Model(inputs, layers.Dense(2, name="out")(x)), ["a", "norm"], **options
    )


@pytest.mark.parametrize("mode", ["end_to_end", "local", "sequential:norm"])
def test_it_holds_what_enters_the_boundaries_whatever_the_mode(mode):
    model = network(training_mode=mode)
    record = model.forward_record(X)
    a = np.asarray(model.get_layer("a")(X))
    norm = model.get_layer("norm")(a)
    for name, expected in (("a", a), ("norm", norm)):
        (found,) = record.activations(name)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(record.outputs, model(X), rtol=1e-6)
    assert [c.boundary.module for c in record.crossings] == ["a", "norm"]
    assert all(c.output is c.activation for c in record.crossings)


def test_it_holds_the_penalties_of_the_pass():
    (penalty,) = network().forward_record(X).penalties
    assert float(penalty) > 0


@pytest.mark.parametrize("training", [False, True])
def test_it_has_no_side_effects(training):
    model = network()
    model.compile("sgd", "mse")
    before = cases.values(model.variables)
    record = model.forward_record(X, training=training)
    assert models.same(before, cases.values(model.variables))
    dropped = np.asarray(record.outputs) != np.asarray(model(X))
    assert dropped.any() == training


def test_what_leaves_a_boundary_may_be_tapped():
    model = network()
    record = model.forward_record(X, tap=lambda tensor: tensor * 0)
    bias = np.asarray(model.get_layer("out").bias)
    np.testing.assert_array_equal(record.outputs, np.broadcast_to(bias, (5, 2)))
    assert np.asarray(record.activations("a")[0]).any()


def test_masks_come_with_the_activations():
    inputs = keras.Input((4,), dtype="int32")
    x = layers.Embedding(5, 3, mask_zero=True, name="tokens")(inputs)
    base = keras.Model(inputs, layers.Dense(2)(layers.LSTM(3)(x)))
    model = e2e.modularize(base, ["tokens"])
    tokens = np.array([[1, 2, 0, 0]])
    (activation,) = model.forward_record(tokens).activations("tokens")
    mask = np.asarray(activation._keras_mask)
    np.testing.assert_array_equal(mask, tokens != 0)


class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.a, self.out = layers.Dense(3, name="a"), layers.Dense(1)

    def call(self, x):
        return self.out(self.a(x))


def test_a_subclassed_model_must_know_its_modules_first():
    model = e2e.modularize(Net(), ["a"])
    with pytest.raises(RuntimeError, match=r"forward_record .*examine"):
        model.forward_record(X)
    model.examine(X[:2])
    assert model.forward_record(X).activations("a")[0].shape == (5, 3)

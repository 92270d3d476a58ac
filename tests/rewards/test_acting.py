"""A policy acts by what `predict_on_batch` returns, whatever becomes of its model."""

import keras
import numpy as np
import pytest

from keras_e2e.rewards.prediction import Predictor


def named_model(policy: str = "float32"):
    """Two inputs and two outputs by name."""
    inputs = {
        name: keras.Input((size,), name=name) for name, size in (("view", 3), ("goal", 2))
    }
    x = keras.layers.Concatenate()(list(inputs.values()))
    outputs = {
        name: keras.layers.Dense(units, dtype=policy, name=name)(x)
        for name, units in (("policy", 2), ("value", 1))
    }
    return keras.Model(inputs, outputs)


def observations(rows: int):
    rng = np.random.default_rng(rows)
    return {
        name: rng.normal(size=(rows, size)).astype("float32")
        for name, size in (("view", 3), ("goal", 2))
    }


def check(predict, model, x):
    found, expected = predict(x), model.predict_on_batch(x)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_outputs_are_those_of_predict_on_batch_to_the_bit(policy):
    model = named_model(policy)
    predict = Predictor(model)
    for rows in (4, 1, 4):
        check(predict, model, observations(rows))
    model.set_weights([weight + 1 for weight in model.get_weights()])
    check(predict, model, observations(4))


@pytest.mark.parametrize("eager", [False, True])
def test_a_model_that_is_compiled_anew_is_asked_anew(eager):
    class Doubled(keras.Model):
        factor = 1.0

        def predict_step(self, data):
            return self.factor * self(data[0])

    x = inputs = keras.Input((2,))
    model = Doubled(inputs, keras.layers.Dense(2)(x))
    predict, data = Predictor(model), np.ones((3, 2), "float32")
    first = predict(data)
    model.factor = 2.0
    model.compile("sgd", "mse", run_eagerly=eager)
    np.testing.assert_array_equal(predict(data), 2 * first)

"""The number of a step in executions of several at once (`ModuleParallel`)."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_e2e as e2e

X = np.random.default_rng(0).normal(size=(28, 6)).astype("float32")
Y = X[:, :1]


class Scaled(keras.layers.Layer):
    """Multiplies by what a function makes of the optimizer's count, in training."""

    def __init__(self, optimizer, factor, **kwargs):
        super().__init__(**kwargs)
        self.read = lambda: factor(optimizer.iterations)

    def call(self, inputs, training=False):
        return inputs * self.read() if training else inputs


def fitted(parallel, optimizer, factor):
    """Weights, count and losses after `fit`."""
    keras.utils.set_random_seed(1)
    optimizer = optimizer()
    base = keras.Sequential([keras.Input((6,))])
    for place in range(2):
        base.add(keras.layers.Dense(8, name=f"end_{place}"))
        base.add(Scaled(optimizer, factor))
    base.add(keras.layers.Dense(1, name="out"))
    model = e2e.modularize(base, {"end_0": "prediction"}, training_mode="local")
    model.compile(optimizer, "mse", steps_per_execution=3 if parallel else 1)
    with e2e.ModuleParallel() if parallel else contextlib.nullcontext():
        history = model.fit(X, Y, batch_size=4, epochs=2, verbose=0, shuffle=False)
    values = [keras.ops.convert_to_numpy(v) for v in model.variables]
    return values, int(optimizer.iterations), history.history


def scaled(count):
    return 1 + 0.05 * keras.ops.cast(count, "float32")


def by_value(count):
    every_other = tf.cast(count.value % 2 == 1, "float32")
    return tf.cond(count.value > 2, lambda: scaled(count), lambda: 1 + every_other)


CASES = {
    "SGD": (lambda: keras.optimizers.SGD(0.01), scaled),
    "Adam, a condition": (lambda: keras.optimizers.Adam(0.01), by_value),
    "optimizers of modules": (
        lambda: e2e.ModuleOptimizers(keras.optimizers.SGD(0.01)),
        scaled,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_layers_read_the_number_of_their_step(case):
    weights, count, history = fitted(False, *CASES[case])
    ours, our_count, our_history = fitted(True, *CASES[case])
    assert our_count == count == 14
    for value, other in zip(ours, weights, strict=True):
        np.testing.assert_array_equal(value, other)
    assert our_history == history


def in_function(count):
    return tf.function(lambda: scaled(count))()


REFUSED = {
    "a function": (in_function, "a tf.function that the step calls"),
    "its argument": (tf.function(scaled), "a tf.function that the step calls"),
    "a write": (lambda count: scaled(count.assign_add(1)), "sets the optimizer"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_of_another_step_is_refused(case):
    factor, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        fitted(True, lambda: keras.optimizers.SGD(0.01), factor)


def test_a_function_traced_before_is_refused():
    optimizer = keras.optimizers.SGD(0.01)
    before = tf.function(lambda: scaled(optimizer.iterations))
    before()
    with pytest.raises(ValueError, match=r"a tf\.function that"):
        fitted(True, lambda: optimizer, lambda count: before())

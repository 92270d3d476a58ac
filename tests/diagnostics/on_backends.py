"""What tests of any backend share: gradients that no step of ours made, and a mark."""

from collections.abc import Callable
from typing import Any

import keras
import pytest
from keras import tree

ON_JAX = keras.backend.backend() == "jax"
# There a second and a half goes into compiling what TensorFlow traces in a fraction of it.
slow_on_jax = pytest.mark.slow if ON_JAX else lambda test: test


def gradients(loss: Callable[[], Any], variables: Any) -> Any:
    """Returns the gradients of a scalar, in the structure of the Keras variables."""
    flat = tree.flatten(variables)
    if ON_JAX:
        import jax

        def of_values(values):
            with keras.StatelessScope(zip(flat, values, strict=True)):
                return loss()

        found = jax.grad(of_values)([variable.value for variable in flat])
    else:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = loss()
        found = tape.gradient(value, flat)
    return tree.pack_sequence_as(variables, found)


def zeros(*shape: int) -> keras.Variable:
    """What is added to a tensor so that the tensor's gradient is a variable's."""
    return keras.Variable(keras.ops.zeros(shape))

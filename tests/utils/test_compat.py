"""What keras_e2e/utils/compat/ stands for is there, and does what it says."""

import gc
import weakref

import keras
import numpy as np
import pytest

from keras_e2e.utils import compat
from keras_e2e.utils.compat import order


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="traces of TensorFlow")
def test_a_traced_function_that_nobody_holds_is_released():
    import tensorflow as tf

    def trace(rate):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(rate), "mse")
        seen = []

        class Loss(keras.losses.Loss):
            def call(self, y_true, y_pred):
                seen.append(weakref.ref(tf.compat.v1.get_default_graph()))
                return keras.ops.square(y_true - y_pred)

        model.compile("sgd", Loss())
        model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
        return seen

    graphs = trace(0.1)
    gc.collect()
    assert any(graph() is not None for graph in graphs), "TensorFlow lets go by itself now"
    compat.release_traces()
    gc.collect()
    assert all(graph() is None for graph in graphs)
    trace(0.2)  # and steps are traced as before


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="XLA by TensorFlow")
@pytest.mark.parametrize("other", [1.0, 0.0, np.nan, np.inf])
def test_under_xla_a_tensor_waits_for_others_and_stays_what_it_is(other):
    """XLA drops what nothing depends on, so what it keeps is waited for."""
    import tensorflow as tf

    def made(given):
        return tf.linalg.matmul(given, given, name="waited_for")

    @tf.function(jit_compile=True)
    def held(x, given):
        return order.after([x], [made(given)])[0]

    @tf.function(jit_compile=True)
    def free(x, given):
        with tf.control_dependencies([made(given)]):
            return tf.identity(x)

    x, given = tf.random.normal((8, 8)), tf.fill((8, 8), other)
    np.testing.assert_array_equal(held(x, given), x)
    compiled = [
        function.experimental_get_compiler_ir(x, given)(stage="optimized_hlo")
        for function in (held, free)
    ]
    assert ["waited_for" in text for text in compiled] == [True, False]

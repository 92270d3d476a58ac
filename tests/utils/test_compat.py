"""What keras_e2e/utils/compat/ stands for is there, and does what it says."""

import gc
import weakref

import keras
import numpy as np
import pytest

from keras_e2e.utils import compat


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

"""Modules on two devices that train at the same time; run by test_module_parallel.py.

The devices of a process cannot be divided after anything was computed.
"""

import contextlib

import keras
import numpy as np
import tensorflow as tf

import keras_e2e as e2e

(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)
X = np.random.default_rng(0).normal(size=(36, 6)).astype("float32")
PLACES = {"first": "CPU:0", "second": "CPU:1", "last": "CPU:0"}
MADE = set()


class Placed(keras.layers.Dense):
    """Notes the devices of the operations that it makes."""

    def call(self, inputs):
        if not tf.executing_eagerly():
            MADE.add((self.name, tf.identity(inputs).device[-5:]))
        return super().call(inputs)


def train(parallel):
    """The weights and what the optimizer keeps, by path, with their devices."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((6,))
    for name, device in PLACES.items():
        with tf.device(device):
            x = Placed(6, activation="tanh", name=name)(keras.layers.Dropout(0.2)(x))
    base = keras.Model(inputs, x)
    model = e2e.modularize(base, ["first", "second"], training_mode="local")
    model.compile("adam", "mse", steps_per_execution=3)
    MADE.clear()
    with e2e.ModuleParallel() if parallel else contextlib.nullcontext():
        model.fit(X, X, batch_size=4, epochs=2, shuffle=False, verbose=0)
    for module in model.modules:
        for variable in module.all_variables:
            assert variable.value.device.endswith(PLACES[module.name]), variable.path
    variables = [*model.variables, *model.optimizer.variables]
    return [keras.ops.convert_to_numpy(v) for v in variables]


for one, other in zip(train(False), train(True), strict=True):
    np.testing.assert_array_equal(one, other)
assert {pair for pair in MADE if pair[1]} == set(PLACES.items()), MADE
print("compared")

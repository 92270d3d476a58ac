"""What is measured on two devices, beside one; run by test_mirrored_steps.py.

One process and one strategy: TensorFlow's collectives do not bear more.
"""

import sys

import keras
import numpy as np
import tensorflow as tf
from keras import layers, optimizers

import keras_e2e as e2e
from tests.rewards.mirrored_policies import check_policies
from tests.trainers.tensorflow import mirrored_cases

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)
X = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
Y = 5 + X[:, :1]
# Keras refuses gradient accumulation where replicas merge in the optimizer, as here.
CASES = {
    "plain": ("float32", lambda: optimizers.Adam(0.01)),
    "overflow": (
        "mixed_float16",
        lambda: optimizers.LossScaleOptimizer(optimizers.SGD(0.01), 2.0**18),
    ),
}


def train(make):
    """The steps and numbers of a fit."""
    keras.utils.set_random_seed(0)
    base = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(8, "tanh", kernel_regularizer="l2", name="a"),
            layers.Dense(1, kernel_regularizer="l2", dtype="float32", name="out"),
        ]
    )
    model = e2e.modularize(base, ["a"])
    optimizer = make()
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, "mse")
    watch = e2e.callbacks.ModuleDiagnostics(1, "full", expensive_update_freq=3)
    model.fit(X, Y, 8, epochs=2, verbose=0, shuffle=False, callbacks=[watch])
    return watch


def main():
    """Compares one device with two; the exit status tells."""
    strategy, failed = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), False
    for name, (policy, make) in CASES.items():
        keras.config.set_dtype_policy(policy)
        one = train(make)
        with strategy.scope():
            two = train(make)
        print(name, one.steps, two.steps, flush=True)
        if name == "overflow":
            # Each replica looks at its own half, so other batches may be skipped.
            for watch in (one, two):
                count = len(watch.steps)
                losses = watch.history["loss"]["out"]
                failed = failed or not 8 < count < 16 or not np.isfinite(losses).all()
                failed = failed or watch.steps != [*range(1, count + 1)]
            continue
        failed = failed or one.steps != two.steps
        for quantity in ("loss", "grad_rms", "update_ratio", "loss_credit"):
            for module, values in one.history[quantity].items():
                rtol = 1e-3 if policy == "float32" else 0.03
                other = two.history[quantity][module]
                if not np.allclose(values, other, rtol=rtol, atol=1e-5, equal_nan=True):
                    print(quantity, module, values, other, flush=True)
                    failed = True
    keras.config.set_dtype_policy("float32")
    further = mirrored_cases.check_uneven(strategy)
    further += mirrored_cases.check_compiled(strategy)
    further += check_policies(strategy)
    print(*further, "compared", sep="\n")
    sys.exit(failed or bool(further))


if __name__ == "__main__":
    main()

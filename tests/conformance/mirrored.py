"""Every objective on one device and on two, some with quantities: test_everywhere.py.

One process and one strategy: TensorFlow's collectives do not bear more.
"""

import random
import sys

import keras
import numpy as np
import tensorflow as tf

from tests.conformance import cases, models

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)


def train(case, mode):
    """Weights, history and quantities after two epochs."""
    # Adam makes a step of each gradient, also of one that is 0 but for rounding.
    adaptive = not case.batch_statistics
    optimizer = keras.optimizers.Adam(0.01) if adaptive else keras.optimizers.SGD(0.03)
    model = case.compiled(mode, optimizer)
    x, y = case.data(32)
    # What is measured hardly depends on the objective, and takes as long as all else.
    measured = case.signal or case.name == "prediction"
    diagnose = cases.Diagnose(quantities=lambda: cases.enough_for(case))
    callbacks = [diagnose] if measured else []
    history = cases.fit(model, x, y, epochs=2, batch_size=16, callbacks=callbacks)
    numbers = diagnose.recorder.read() if measured else {}
    return cases.values(model.weights), history.history, numbers


def compare(case, mode, strategy):
    """What differs between one device and two, in words."""
    one = train(case, mode)
    with strategy.scope():
        two = train(case, mode)
    found = []
    for a, b in zip(one[0], two[0], strict=True):
        if not np.allclose(a, b, rtol=2e-3, atol=2e-5):
            found.append(f"weights differ by {np.abs(a - b).max():.2e}")
    for name, values in one[1].items():
        # NaN where a mode computes no such loss.
        if not np.allclose(values, two[1][name], rtol=1e-3, atol=1e-5, equal_nan=True):
            found.append(f"history {name}: {values} and {two[1][name]}")
    for quantity, modules in one[2].items():
        for module, value in modules.items():
            other = two[2][quantity][module]
            if not np.isclose(value, other, rtol=2e-2, atol=1e-4, equal_nan=True):
                found.append(f"{quantity} of {module}: {value} and {other}")
    return found


def main(count=None, seed=0):
    """Compares so many of the distinct cases, all by default; the exit status tells."""
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    failed = False
    compared = random.Random(seed).sample(cases.DISTINCT, count or len(cases.DISTINCT))
    for case in compared:
        if case.name == "infopro-conv":
            continue  # its decoder has BatchNormalization: of half a batch, as in Keras
        found = compare(case, case.mode, strategy)
        print(case.name, found or "ok", flush=True)
        failed = failed or bool(found)
    for mode in ("end_to_end", "local", "sequential:second"):
        found = compare(cases.BY_NAME["prediction"], mode, strategy)
        print(mode, found or "ok", flush=True)
        failed = failed or bool(found)
    print("compared", len(compared), "seed", seed, models.CUTS)
    sys.exit(failed)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""Callbacks that count steps, on a mirrored model; run by test_mirrored.py.

One process and one strategy: TensorFlow's collectives do not bear more.
"""

import os
import sys
import tempfile

import keras
import numpy as np
import tensorflow as tf

import keras_e2e as e2e
from keras_e2e import callbacks


def main():
    """Fits under the strategy and prints what the callbacks counted."""
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        hidden = keras.layers.Dense(3, name="hidden")
        base = keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(1)])
        model = e2e.modularize(base, ["hidden"])
        optimizer = keras.optimizers.SGD(0.01)
        optimizer.build(model.trainable_variables)
        model.compile(optimizer, "mse")
    with tempfile.TemporaryDirectory() as folder:
        used = [
            callbacks.TrainingModeScheduler({2: "local"}, unit="step"),
            callbacks.ModuleDiagnostics(update_freq=2),
            callbacks.ModuleTensorBoard(folder, update_freq=3),
        ]
        x, y = np.ones((8, 4), "float32"), np.ones((8, 1), "float32")
        model.fit(x, y, batch_size=2, epochs=2, verbose=0, callbacks=used)
        auto = callbacks.AutoMode(update_freq=2)
        kept = keras.callbacks.BackupAndRestore(os.path.join(folder, "backup"), 2)
        model.fit(x, y, batch_size=2, verbose=0, callbacks=[auto, kept])
    print([callback.steps for callback in (*used[1:], auto)])
    print([str(mode) for mode in used[1].modes])


if __name__ == "__main__":
    main()
    sys.exit()

"""The peak of a training step in a TensorFlow graph."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

MIB = 2**20


def step_of(model: keras.Model, x: np.ndarray, y: np.ndarray) -> Callable[[], Any]:
    """A function that takes one step of `fit`."""
    import tensorflow as tf

    batches = iter(tf.data.Dataset.from_tensors((tf.constant(x), tf.constant(y))).repeat())
    model.make_train_function()
    return lambda: model.train_function(batches)


def peaks_of(step: Callable[[], Any], steps: int = 6) -> list[float]:
    """The peak of each of some steps above the state, in MiB."""
    import tensorflow as tf

    peaks = []
    for _ in range(steps + 3):
        before = tf.config.experimental.get_memory_info("CPU:0")["current"]
        tf.config.experimental.reset_memory_stats("CPU:0")
        step()
        peaks.append(tf.config.experimental.get_memory_info("CPU:0")["peak"] - before)
    return [peak / MIB for peak in peaks[3:]]

"""What a training step takes: in a TensorFlow graph, under XLA, on JAX."""

import os
import pathlib
import re
import time
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


def on_jax(model: keras.Model, x: np.ndarray, y: np.ndarray) -> tuple[list, Callable]:
    """What the compiled step takes in MiB, and a function that runs it."""
    import jax

    model.train_on_batch(x, y)
    parts = (
        *(model.trainable_variables, model.non_trainable_variables),
        *(model.optimizer.variables, model.metrics_variables),
    )
    # `fit` donates the state as well: else what is returned would serve as scratch.
    state = [tuple([jax.numpy.copy(v.value) for v in part] for part in parts)]
    step = jax.jit(model.train_step, donate_argnums=0)
    compiled = step.lower(state[0], (x, y)).compile()
    taken = compiled.memory_analysis().temp_size_in_bytes / MIB

    def run() -> None:
        _, state[0] = jax.block_until_ready(compiled(state[0], (x, y)))

    return [taken], run


def under_xla(step: Callable[[], Any]) -> list[float]:
    """What XLA reports of the step, in MiB; nothing else was compiled before."""
    step()
    reports = pathlib.Path(dumped()).glob("*memory-usage-report.txt")
    sizes = [
        re.search(r"size ([0-9.]+)(.i?B), preallocated-temp", r.read_text())
        for r in reports
    ]
    units = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    return [max(float(s[1]) * units[s[2]] for s in sizes if s) / MIB]


def dumped() -> str:
    """The folder to which XLA writes its reports in this process, by `XLA_FLAGS`."""
    return os.environ["XLA_FLAGS"].split("--xla_dump_to=")[1].split()[0]


def least(sides: list[Callable[[], Any]], repeats: int) -> list[float]:
    """The least seconds of each side; they take turns."""
    found = [float("inf")] * len(sides)
    for repeat in range(repeats):
        order = list(enumerate(sides))
        for place, run in order if repeat % 2 else order[::-1]:
            begun = time.perf_counter()
            run()
            found[place] = min(found[place], time.perf_counter() - begun)
    return found

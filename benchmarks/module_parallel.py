"""Do modules that train at the same time pay? Time of a batch, against other ways to train.

Networks of two and four modules with predictions at the boundaries are trained by `fit` in
local mode, by the same with `ModuleParallel`, by a `MirroredStrategy` of as many virtual
devices as there are cores, and end to end by stock Keras. Each side is a process of its
own, as threads belong to a process; all are kept and take turns, epoch by epoch, and the
minimum of the repeats counts. The weights after two epochs with `ModuleParallel` are
compared with those after two without it.

Then, on paper: what is expected of as many devices as modules, from the time that one core
takes for a batch, divided evenly, and that of copying what a boundary passes. `N` batches
under way need `N + K - 1` turns on `K` devices, which is GPipe's formula, of whole batches
in place of parts of one.

    python benchmarks/module_parallel.py [--repeats=10] [--cases=mlp]
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from absl import app, flags
from keras import layers
from rich.console import Console
from rich.table import Table

import keras_e2e as e2e

FLAGS = flags.FLAGS
CLASSES = 10
CORES = os.cpu_count() or 1
# By name: the mode (None: stock Keras), whether an execution is of several batches (with
# `ModuleParallel`: at once), the virtual devices, and how many threads share an operation
# and how many run operations (0: as TensorFlow chooses).
SIDES: dict[str, tuple[str | None, bool, int, int, int]] = {
    "fit": ("local", False, 1, 0, 0),
    "fit, 1 thread": ("local", False, 1, 1, 0),
    "fit, 1 core": ("local", False, 1, 1, 1),
    "fit, several": ("local", True, 1, 0, 0),
    "ModuleParallel": ("local", True, 1, 0, 0),
    "ModuleParallel, 1 thread": ("local", True, 1, 1, 0),
    "MirroredStrategy": ("local", False, CORES, 0, 0),
    "stock Keras": (None, False, 1, 0, 0),
}


def define_flags() -> None:
    """Defines the flags; not on import, for the tests import this."""
    flags.DEFINE_integer("repeats", 10, "Epochs of each side; the minimum counts.")
    flags.DEFINE_integer("batches", 32, "Batches of an epoch.")
    flags.DEFINE_integer("at_once", 16, "Batches of an execution, the N of the formula.")
    flags.DEFINE_list("cases", list(CASES), "Which networks.")
    flags.DEFINE_multi_enum("sides", list(SIDES), SIDES, "Which; `fit` has to be one.")
    flags.DEFINE_enum("side", None, list(SIDES), "The side that this process is.")


def mlp(modules: int, width: int) -> tuple[keras.Model, list[str]]:
    """Modules of two layers."""
    stack = [keras.Input((width,))]
    ends = [f"end_{k}" for k in range(modules - 1)]
    for name in [*ends, "last"]:
        stack.append(layers.Dense(width, activation="relu"))
        stack.append(layers.Dense(width, activation="relu", name=name))
    return keras.Sequential([*stack, layers.Dense(CLASSES, activation="softmax")]), ends


def residual() -> tuple[keras.Model, list[str]]:
    """Six blocks of two convolutions at 16 x 16, cut in the middle."""
    x = inputs = keras.Input((16, 16, 32))
    for block in range(6):
        y = x
        for _ in range(2):
            y = layers.Conv2D(32, 3, padding="same", use_bias=False)(y)
            y = layers.ReLU()(layers.BatchNormalization()(y))
        x = layers.Add(name=f"block_{block}")([x, y])
    x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Dense(CLASSES, activation="softmax")(x)
    return keras.Model(inputs, outputs), ["block_2"]


def transformer() -> tuple[keras.Model, list[str]]:
    """Four blocks of width 128 on 32 positions, cut in the middle."""
    x = inputs = keras.Input((32, 128))
    for block in range(4):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, 32)(y, y)])
        y = layers.Dense(512, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add(name=f"block_{block}")([x, layers.Dense(128)(y)])
    x = layers.GlobalAveragePooling1D()(x)
    outputs = layers.Dense(CLASSES, activation="softmax")(x)
    return keras.Model(inputs, outputs), ["block_1"]


# Each with the size of its batch.
CASES = {
    "mlp": (lambda: mlp(2, 512), 128),
    "mlp of 4 modules": (lambda: mlp(4, 512), 128),
    "wide mlp": (lambda: mlp(2, 1024), 128),
    "residual": (residual, 32),
    "transformer": (transformer, 32),
}


class _Seconds(keras.callbacks.Callback):
    """The seconds of the latest epoch, without what `fit` does before and after."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.begun, self.used = time.perf_counter(), time.process_time()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seconds = time.perf_counter() - self.begun
        self.cores = (time.process_time() - self.used) / self.seconds


class Training:
    """The training of one side of a case.

    Args:
        case: Name of the case.
        mode: As in `SIDES`.
        at_once: Integer, the batches of an execution.
        parallel: Boolean, whether modules train at the same time.
        batches: Integer, the batches of an epoch.
    """

    def __init__(
        self, case: str, mode: str | None, at_once: int, parallel: bool, batches: int
    ):
        make, size = CASES[case]
        keras.utils.set_random_seed(0)
        base, ends = make()
        self.model: Any = base if mode is None else e2e.modularize(base, ends)
        if mode is not None:
            self.model.training_mode = mode
        self.model.compile(
            keras.optimizers.SGD(0.05, momentum=0.9),
            "sparse_categorical_crossentropy",
            steps_per_execution=at_once,
        )
        rng = np.random.default_rng(0)
        count = size * batches
        x = rng.normal(size=(count, *base.inputs[0].shape[1:])).astype("float32")
        self.data = x, rng.integers(0, CLASSES, count)
        self.size, self.parallel, self.batches = size, parallel, batches

    def epoch(self) -> dict[str, float]:
        """Trains an epoch. Returns the milliseconds of a batch and the busy cores."""
        timed = _Seconds()
        with e2e.ModuleParallel() if self.parallel else contextlib.nullcontext():
            self.model.fit(
                *self.data,
                batch_size=self.size,
                shuffle=False,
                verbose=0,
                callbacks=[timed],
            )
        return {"ms": 1e3 * timed.seconds / self.batches, "cores": timed.cores}

    def weights(self) -> list[np.ndarray]:
        """The weights, those of the heads included."""
        return [np.asarray(weight) for weight in self.model.get_weights()]


def one_side(case: str) -> None:
    """Answers each line of the input by a line of what an epoch took."""
    import tensorflow as tf

    mode, several, devices, inside, beside = SIDES[FLAGS.side]
    parallel = FLAGS.side.startswith("ModuleParallel")
    tf.config.threading.set_intra_op_parallelism_threads(inside)
    tf.config.threading.set_inter_op_parallelism_threads(beside)
    scope: Any = contextlib.nullcontext()
    if devices > 1:
        (cpu,) = tf.config.list_physical_devices("CPU")
        virtual = [tf.config.LogicalDeviceConfiguration()] * devices
        tf.config.set_logical_device_configuration(cpu, virtual)
        scope = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(devices)]).scope()
    options = case, mode, FLAGS.at_once if several else 1
    with scope:
        training = Training(*options, parallel, FLAGS.batches)
    begun = time.perf_counter()
    for _ in range(2):  # the first execution takes one batch after another
        training.epoch()
    report: dict[str, Any] = {"first": time.perf_counter() - begun}
    if parallel:
        plain = Training(case, mode, 1, False, FLAGS.batches)
        for _ in range(2):
            plain.epoch()
        pairs = zip(training.weights(), plain.weights(), strict=True)
        report["equal"] = all(np.array_equal(*pair) for pair in pairs)
        del plain
    print(json.dumps(report), flush=True)
    for _ in sys.stdin:
        print(json.dumps(training.epoch()), flush=True)


def measured(case: str, sides: list[str], folder: str) -> dict[str, dict]:
    """What each side reports of a case, with the least milliseconds of a batch."""
    command = [sys.executable, __file__, f"--cases={case}", f"--batches={FLAGS.batches}"]
    command += [f"--at_once={FLAGS.at_once}"]
    started, found = {}, {}
    for side in sides:
        with open(pathlib.Path(folder, f"{side}.errors"), "w") as errors:
            started[side] = subprocess.Popen(
                [*command, f"--side={side}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        found[side] = {**_answer(started[side], folder, side), "ms": float("inf")}
    for _ in range(FLAGS.repeats):
        for side, process in started.items():
            process.stdin.write("\n")
            process.stdin.flush()
            answer = _answer(process, folder, side)
            if answer["ms"] < found[side]["ms"]:
                found[side].update(answer)
    for process in started.values():
        process.communicate()
    return found


def _answer(process: Any, folder: str, side: str) -> dict:
    line = process.stdout.readline()
    if not line:
        sys.exit(f"{side}: {pathlib.Path(folder, f'{side}.errors').read_text()[-2000:]}")
    return json.loads(line)


def copy_time(case: str) -> float:
    """The least milliseconds of copying what the first boundary passes of a batch."""
    make, size = CASES[case]
    base, ends = make()
    tensor = np.ones((size, *base.get_layer(ends[0]).output.shape[1:]), "float32")
    times = []
    for _ in range(100):
        begun = time.perf_counter()
        tensor.copy()
        times.append(1e3 * (time.perf_counter() - begun))
    return min(times)


def expected(ms: float, copy: float, devices: int, batches: int) -> tuple[float, float]:
    """The share of time that devices wait, and how many times as fast they train as one.

    Args:
        ms: The milliseconds that one device takes for a batch.
        copy: The milliseconds of a transfer from one module to the next.
        devices: Integer, how many devices there are, each with one module of equal size.
        batches: Integer, how many batches are under way in an execution.
    """
    turns = batches + devices - 1
    turn = ms / devices + copy
    return (devices - 1) / turns, batches * ms / (turns * turn)


def print_expected(console: Console, case: str, ms: float) -> None:
    """Prints what is expected of more devices."""
    copy = copy_time(case)
    table = Table("devices", "batches at once", "bubble, as GPipe's", "times as fast")
    table.title = (
        f"on paper: {case}, {ms:.2f} ms a batch on one core, {copy:.3f} a transfer"
    )
    for devices in (2, 4, 8):
        for batches in (8, 16, 64):
            bubble, speed = expected(ms, copy, devices, batches)
            table.add_row(*map(str, (devices, batches)), f"{bubble:.0%}", f"{speed:.2f}")
    console.print(table)


def main(_: list[str]) -> None:
    """Runs the cases one after the other, and prints the tables."""
    if FLAGS.side:
        one_side(FLAGS.cases[0])
        return
    console = Console(width=100)
    for case in FLAGS.cases:
        with tempfile.TemporaryDirectory() as folder:
            found = measured(case, FLAGS.sides, folder)
        base = found["fit"]["ms"]
        table = Table("side", "ms a batch", "to fit", "cores", "2 first, s", "equal")
        table.title = f"{case}: minimum of {FLAGS.repeats}, {FLAGS.at_once} batches at once"
        for side, of in found.items():
            equal = {True: "to the bit", False: "NO", None: ""}[of.get("equal")]
            figures = of["ms"], base / of["ms"], of["cores"], of["first"]
            table.add_row(side, *(f"{x:.2f}" for x in figures), equal)
        console.print(table)
        if "fit, 1 core" in found:
            print_expected(console, case, found["fit, 1 core"]["ms"])


if __name__ == "__main__":
    define_flags()
    app.run(main)

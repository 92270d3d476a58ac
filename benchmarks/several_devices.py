"""Do n devices train as one? Every objective and mode, and several workers.

A network of three modules without BatchNormalization is trained for 20 steps on the same
batches by one device, by a `MirroredStrategy` of 2 and of 4 virtual devices of the CPU, and
by a `MultiWorkerMirroredStrategy` of two processes on this machine. Printed: the largest
difference of a weight from those of one device. Each side is a process of its own: two
strategies in one abort TensorFlow. Views are the inputs with noise, what is corrupted is
masked at random.

The last column is the time of a step of 4 devices as a ratio to that of one: all of them
are the same cores, so it says what the strategy costs, not what devices gain.

With `--short=5` the last batch lacks five examples: devices have unlike parts of it.

    python benchmarks/several_devices.py [--steps=20] [--short=5] [--methods=sim,mixed]

With `--xla` it compares something else, on 2 devices: the time of a step that XLA compiles
for each replica with that of the graph, in one process, taking turns, the least of many.
"""

import contextlib
import functools
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _shared
import keras
import numpy as np
import tensorflow as tf
from _networks import NETWORKS, batch
from _peaks import least
from absl import app, flags, logging
from rich.console import Console
from rich.table import Table

import keras_e2e as e2e

FLAGS = flags.FLAGS
BATCH, CLASSES = 16, 4
SIDES = {"1 device": 1, "2 devices": 2, "4 devices": 4, "2 workers": 0}


def define_flags() -> None:
    """Defines the flags; not on import, for the tests import this."""
    flags.DEFINE_integer("steps", 20, "How many steps.", lower_bound=1)
    flags.DEFINE_integer("short", 0, "How many examples the last batch lacks.")
    flags.DEFINE_list("methods", None, "Which objectives and modes; by default all.")
    flags.DEFINE_bool("xla", False, "Compare the times of XLA and of the graph.")
    flags.DEFINE_enum("side", None, list(SIDES), "The side that this process is.")
    flags.DEFINE_integer("worker", 0, "The number of this worker.")
    flags.DEFINE_list("addresses", None, "The addresses of the workers.")
    flags.DEFINE_string("folder", None, "Where a process writes what it finds.")


def _noise() -> keras.layers.Layer:
    return keras.layers.GaussianNoise(0.5, seed=1, name="noise")


def _masks() -> keras.layers.Layer:
    return keras.layers.Dropout(0.5, seed=1, name="masks")


def objectives() -> dict[str, tuple[str, Callable[[], Any]]]:
    """By name: the network, and what makes the objective of a boundary."""
    kinds = e2e.objectives
    return {
        "prediction": ("dense", kinds.Prediction),
        "predsim": ("conv", kinds.PredSim),
        "sim": ("dense", kinds.SimilarityMatching),
        "supcon": ("dense", kinds.SupervisedContrastive),
        "transport": ("dense", kinds.Transport),
        "reconstruction": ("dense", kinds.Reconstruction),
        "denoising": ("dense", lambda: kinds.Reconstruction(corrupt=_masks())),
        "intermediate_target": (
            "dense",
            lambda: kinds.IntermediateTarget(head="mlp", units=4),
        ),
        "feature_bank": ("conv", lambda: kinds.FeatureBank(6, head="linear")),
        "infonce": ("conv", lambda: kinds.InfoNCE(seed=1)),
        "barlow_twins": ("dense", lambda: kinds.BarlowTwins(_noise(), projection_dim=8)),
        "vicreg": ("dense", lambda: kinds.VICReg(_noise(), projection_dim=8)),
        "view_contrast": ("dense", lambda: kinds.ViewContrast(_noise(), projection_dim=8)),
        "forward_forward": ("dense", lambda: kinds.ForwardForward(seed=1)),
        "feedback_alignment": ("dense", kinds.FeedbackAlignment),
        "direct_feedback_alignment": ("dense", kinds.DirectFeedbackAlignment),
        "synthetic_gradient": ("dense", kinds.SyntheticGradient),
    }


# By name: the training mode, with predictions at the boundaries.
MODES = {
    "end_to_end": "end_to_end",
    "deep_supervision": "deep_supervision",
    "sequential:second": "sequential:second",
    "mixed": e2e.TrainingMode("mixed", stop=["first"]),
    "reach 2": e2e.TrainingMode("local"),
}


def network(kind: str) -> keras.Model:
    """Three modules, which end at `first`, `second` and the output."""
    layers = keras.layers
    if kind == "dense":
        stack = [layers.Dense(8, activation="tanh", name=n) for n in ("first", "second")]
        stack = [keras.Input((6,)), *stack]
    else:
        stack = [keras.Input((6, 6, 1))]
        for name in ("first", "second"):
            stack.append(layers.Conv2D(4, 3, padding="same", activation="tanh", name=name))
        stack.append(layers.Flatten())
    return keras.Sequential(
        [*stack, layers.Dense(CLASSES, activation="softmax", name="out")]
    )


def trained(case: str, scope: Callable[[], Any]) -> tuple[list[np.ndarray], float]:
    """The weights after training, and the least seconds of a further epoch."""
    mode: Any = "local"
    if case in MODES:
        kind, mode = "dense", MODES[case]
        reach = 2 if "reach" in case else 1
        make: Callable = lambda: e2e.objectives.Prediction(reach=reach)  # noqa: E731
    else:
        kind, make = objectives()[case]
    keras.utils.set_random_seed(0)
    with scope():
        ends = {name: make() for name in ("first", "second")}
        model = e2e.modularize(network(kind), ends, training_mode=mode)
        model.compile(keras.optimizers.SGD(0.05), "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    n = BATCH * FLAGS.steps - FLAGS.short
    x = rng.normal(size=(n, *model.input.shape[1:])).astype("float32")
    y: Any = rng.integers(0, CLASSES, n).astype("int32")
    if case == "intermediate_target":
        names = {name: rng.integers(0, 4, n).astype("int32") for name in ends}
        y = {"out": y, **names}
    options = {"batch_size": BATCH, "shuffle": False, "verbose": 0}
    model.fit(x, y, **options)
    found = [np.asarray(weight) for weight in model.get_weights()]
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        model.fit(x, y, **options)
        times.append(time.perf_counter() - begun)
    return found, min(times)


def strategy_of(side: str) -> Any:
    """The strategy of a side; None for one device."""
    devices = SIDES[side]
    if devices == 1:
        return None
    if devices:
        (cpu,) = tf.config.list_physical_devices("CPU")
        virtual = [tf.config.LogicalDeviceConfiguration()] * devices
        tf.config.set_logical_device_configuration(cpu, virtual)
        return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(devices)])
    task = {"type": "worker", "index": FLAGS.worker}
    cluster = {"worker": FLAGS.addresses}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
    return tf.distribute.MultiWorkerMirroredStrategy()


def one_side(cases: list[str]) -> None:
    """Trains all cases in this process, and writes what comes of it."""
    logging.set_verbosity(logging.WARNING)  # TensorFlow tells of each collective
    strategy = strategy_of(FLAGS.side)
    scope = strategy.scope if strategy else contextlib.nullcontext
    for case in cases:
        weights, seconds = trained(case, scope)
        path = pathlib.Path(FLAGS.folder, f"{FLAGS.side} {FLAGS.worker} {case}.npz")
        np.savez(path, *weights, seconds=seconds)


def compare_xla(repeats: int = 10) -> Table:
    """Milliseconds of a step on 2 devices, in the graph and by XLA."""
    strategy = strategy_of("2 devices")
    table = Table("network", "mode", "graph ms", "XLA ms", "XLA to graph")
    for name in ("residual", "mlp"):
        x, y = batch(name)
        for mode in ("end_to_end", "local"):
            sides = []
            for jit in (False, True):
                with strategy.scope():
                    model = e2e.modularize(NETWORKS[name][0](), 3, training_mode=mode)
                    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
                    model.compile("adam", loss, jit_compile=jit)
                batches = tf.data.Dataset.from_tensors((x, y)).repeat()
                steps = iter(strategy.experimental_distribute_dataset(batches))
                model.make_train_function()
                sides.append(functools.partial(model.train_function, steps))
            least(sides, 2)  # traced and compiled
            graph, xla = (1e3 * seconds for seconds in least(sides, repeats))
            table.add_row(name, mode, f"{graph:.1f}", f"{xla:.1f}", f"{xla / graph:.2f}")
    return table


def run(side: str, cases: list[str], folder: str) -> None:
    """Runs the processes of a side to their end."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(2)]
        for probe in probes:
            probe.bind(("localhost", 0))
        addresses = ",".join(f"localhost:{probe.getsockname()[1]}" for probe in probes)
    command = [sys.executable, __file__, f"--side={side}", f"--folder={folder}"]
    command += [f"--steps={FLAGS.steps}", f"--short={FLAGS.short}"]
    command += [f"--methods={','.join(cases)}"]
    command += [f"--addresses={addresses}"]
    started = []
    for i in range(1 if SIDES[side] else 2):
        # To a file: a worker that waits for its output to be read holds up the other.
        with open(f"{folder}/errors {i}", "w") as errors:
            each = subprocess.Popen([*command, f"--worker={i}"], stderr=errors)
        started.append((each, pathlib.Path(errors.name)))
    for each, file in started:
        if each.wait():
            sys.exit(f"{side}: {file.read_text()[-2000:]}")


def main(_: list[str]) -> None:
    """Runs the sides one after the other, and prints the table."""
    cases = _shared.chosen(objectives() | MODES)
    if FLAGS.xla:
        Console(width=100).print(compare_xla())
        return
    if FLAGS.side:
        one_side(cases)
        return
    table = Table("case", *[side for side in SIDES if side != "1 device"], "time of 4 to 1")
    with tempfile.TemporaryDirectory() as folder:
        for side in SIDES:
            run(side, cases, folder)
        for case in cases:
            found = {s: np.load(f"{folder}/{s} 0 {case}.npz") for s in SIDES}
            one = found["1 device"]
            cells = []
            for side in [s for s in SIDES if s != "1 device"]:
                keys = [key for key in one if key != "seconds"]
                off = [np.abs(one[k] - found[side][k]).max(initial=0.0) for k in keys]
                cells.append(f"{max(off):.1e}")
            ratio = found["4 devices"]["seconds"] / one["seconds"]
            table.add_row(case, *cells, f"{float(ratio):.1f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    define_flags()
    app.run(main)

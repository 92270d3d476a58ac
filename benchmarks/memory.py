"""What a training step takes, in memory and in time, beside stock Keras and checkpointing.

Each case is a process of its own. Memory is the peak of one step above the state; where it
varies from step to step, least and largest are given. It needs a TensorFlow that counts the
memory of its device (on a CPU one with oneDNN on); on JAX and under XLA it is what the
compiled step says that it takes for what is neither given nor returned (TensorFlow counts
XLA's one buffer as the chunk that it lies in, of up to twice the size). Time is in CPU
seconds, as a ratio to an end-to-end step of the same network in the same process: both
alternate, and the least of many counts.

Beside local training stand stock Keras, deep supervision (end to end with the same heads),
checkpointing by as many segments with `keras.remat`, and `remat=True` end to end.

    python benchmarks/memory.py [--networks=residual] [--modules=4,8] [--backend=jax|xla]
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if any(argument.endswith("=jax") for argument in sys.argv):
    os.environ["KERAS_BACKEND"] = "jax"

import keras
from _memory_figure import draw
from _networks import NETWORKS, Segments, batch
from _peaks import on_jax, peaks_of, step_of, under_xla
from absl import app, flags
from rich.console import Console
from rich.table import Table

import keras_e2e as e2e

FLAGS = flags.FLAGS
flags.DEFINE_list("networks", list(NETWORKS), "Which networks.")
flags.DEFINE_list("modules", ["2", "4", "8", "16"], "Numbers of modules.")
flags.DEFINE_list("methods", None, "Which methods; by default all of the backend.")
flags.DEFINE_enum("backend", "graph", ["graph", "xla", "jax"], "What runs the step.")
flags.DEFINE_integer("repeats", 20, "How often each side of a comparison of times runs.")
flags.DEFINE_string("figure", None, "A PNG file to draw what was measured to.")
flags.DEFINE_string("one", None, "The case that this process is for.")
flags.DEFINE_string("output", "benchmarks/results", "Folder of the JSON file.")

# The MLP has nine layers.
MOST = {"residual": 16, "transformer": 16, "mlp": 8}
# Training mode, and whether modules are recomputed; None where there are no modules. The
# last one's optimizer needs all gradients at once.
METHODS = {
    "stock": None,
    "checkpointing": None,
    "deep supervision": ("deep_supervision", False),
    "end to end with remat": ("end_to_end", True),
    "local": ("local", False),
    "local with remat": ("local", True),
    "local with one apply": ("local", False),
}
# On JAX nothing orders the modules but XLA, and `remat` is refused.
ON_JAX = ("stock", "deep supervision", "local")


def made(network: str, method: str, modules: int) -> keras.Model:
    """A compiled model of a network."""
    make, _ = NETWORKS[network]
    keras.utils.set_random_seed(0)
    model, optimizer = make(), keras.optimizers.Adam(1e-3)
    if method == "checkpointing":
        model = Segments(model, modules)
    elif METHODS[method] is not None:
        mode, remat = METHODS[method]
        model = e2e.modularize(model, modules - 1, remat=remat, training_mode=mode)
    if method == "local with one apply":
        optimizer = keras.optimizers.Adam(1e-3, global_clipnorm=100.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=FLAGS.backend != "graph")
    return model


def ratio(step: Callable[[], Any], stock: Callable[[], Any]) -> tuple[float, float]:
    """The least CPU seconds of both sides."""
    least = [float("inf"), float("inf")]
    for _ in range(FLAGS.repeats):
        for side, run in enumerate((step, stock)):
            begun = time.process_time()
            run()
            least[side] = min(least[side], time.process_time() - begun)
    return least[0], least[1]


def one(case: str) -> dict:
    """Measures a case, `NETWORK/METHOD/MODULES`."""
    network, method, modules = case.split("/")
    x, y = batch(network)
    model = made(network, method, int(modules))
    if FLAGS.backend == "jax":
        peaks, step = on_jax(model, x, y)
        reference = on_jax(made(network, "stock", 1), x, y)[1]
    else:
        step = step_of(model, x, y)
        peaks = under_xla(step) if FLAGS.backend == "xla" else peaks_of(step)
        reference = step_of(made(network, "stock", 1), x, y)
        reference()
    own, stock = ratio(step, reference)
    found = {"peak": max(peaks), "least": min(peaks), "seconds": own, "time": own / stock}
    modular = isinstance(model, e2e.ModularModel) and not model.remat
    if modular and FLAGS.backend != "jax":
        (split,) = e2e.estimate_memory(model, batch_size=len(x)).splits
        found["share"] = split.largest.share
    return found


def cases() -> list[str]:
    """The cases that were asked for."""
    methods = FLAGS.methods or (ON_JAX if FLAGS.backend == "jax" else METHODS)
    return [
        f"{network}/{method}/{modules}"
        for network in FLAGS.networks
        for method in methods
        for modules in (["1"] if method == "stock" else FLAGS.modules)
        if int(modules) <= MOST[network]
    ]


def row_of(case: str, found: dict, stock: dict | None) -> list[str]:
    """A row of the table."""
    network, method, modules = case.split("/")
    peak = f"{found['peak']:.1f}"
    if found["least"] < 0.99 * found["peak"]:
        peak = f"{found['least']:.1f} to {peak}"
    return [
        network,
        method,
        modules,
        f"{found['share']:.2f}" if "share" in found else "",
        peak,
        f"{found['peak'] / stock['peak']:.2f}" if stock else "",
        f"{found['time']:.2f}",
    ]


def main(_: list[str]) -> None:
    """Runs the cases."""
    if FLAGS.one:
        print(json.dumps(one(FLAGS.one)))
        return
    table = Table("network", "method", "modules", "largest", "peak MiB", "of stock", "time")
    folder = pathlib.Path(FLAGS.output)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"memory_{FLAGS.backend}.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    for case in cases():
        if case not in results:
            command = [sys.executable, __file__, f"--one={case}"]
            command += [f"--backend={FLAGS.backend}", f"--repeats={FLAGS.repeats}"]
            with tempfile.TemporaryDirectory() as reports:
                dump = f"--xla_dump_to={reports} --xla_dump_hlo_as_text"
                xla = {"XLA_FLAGS": dump} if FLAGS.backend == "xla" else {}
                done = subprocess.run(
                    command,
                    capture_output=True,
                    text=True,
                    check=False,
                    env={**os.environ, **xla},
                )
            if done.returncode:
                sys.exit(f"{case}: {done.stderr[-2000:]}")
            results[case] = json.loads(done.stdout.splitlines()[-1])
            file.write_text(json.dumps(results, indent=2))
            print(case, results[case], file=sys.stderr, flush=True)
        stock = results.get(f"{case.split('/')[0]}/stock/1")
        table.add_row(*row_of(case, results[case], stock))
    Console(width=100).print(table)
    if FLAGS.figure:
        draw(results, pathlib.Path(FLAGS.figure))


if __name__ == "__main__":
    app.run(main)

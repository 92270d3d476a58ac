"""TensorFlow, TensorFlow with XLA or JAX: what a training step takes, beside stock Keras.

The networks of docs/memory.md, stock and in four modules: end to end, and in local mode.
Each case is a process of its own, and the backends take turns. In a process the step
alternates with one of stock Keras on the same backend, and of each side the least wall-
clock time counts: the row of stock Keras, beside itself, says how exact the ratios are.
Memory is what `benchmarks/memory.py` reports: the peak of one step above the state, under
XLA and on JAX what the compiled step takes.

The last column is `fit` in local mode with the default diagnostics every ten steps, as a
ratio to `fit` without (goal: 1.03), on a quarter of the batch.

    python benchmarks/backends.py [--networks=mlp] [--backends=jax] [--repeats=5]
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Before Keras is imported: the case names the backend of this process.
if any(argument.startswith("--one=") and "/jax/" in argument for argument in sys.argv):
    os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np
from _networks import NETWORKS, batch
from _peaks import least, on_jax, peaks_of, step_of, under_xla
from absl import app, flags
from rich.console import Console
from rich.table import Table

import keras_e2e as e2e

FLAGS = flags.FLAGS
BACKENDS = ("graph", "xla", "jax")
METHODS = ("stock", "end_to_end", "local", "diagnostics")
MODULES, STEPS = 4, 10


def define_flags() -> None:
    """Defines the flags; not on import, for the tests import this."""
    flags.DEFINE_list("networks", list(NETWORKS), "Which networks.")
    flags.DEFINE_list("backends", list(BACKENDS), "Which backends.")
    flags.DEFINE_list("methods", list(METHODS), "Which methods.")
    flags.DEFINE_integer("repeats", 5, "How often each side runs; the minimum counts.")
    flags.DEFINE_string("one", None, "The case that this process is for.")
    flags.DEFINE_string("output", "benchmarks/results", "Folder of the JSON file.")


def made(network: str, backend: str, mode: str) -> keras.Model:
    """A compiled model: stock, or in a training mode."""
    keras.utils.set_random_seed(0)
    model = NETWORKS[network][0]()
    if mode != "stock":
        model = e2e.modularize(model, MODULES - 1, training_mode=mode)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=backend != "graph")
    return model


def measured(network: str, backend: str, mode: str) -> tuple[float, Callable[[], Any]]:
    """The peak of a step in MiB, and a function that takes one."""
    model, (x, y) = made(network, backend, mode), batch(network)
    if backend == "jax":
        (peak,), step = on_jax(model, x, y)
        return peak, step
    step = step_of(model, x, y)
    return max(under_xla(step) if backend == "xla" else peaks_of(step)), step


def steps_beside_stock(network: str, backend: str, mode: str, repeats: int) -> dict:
    """Memory and milliseconds of a step, and those of a step of stock Keras."""
    peak, step = measured(network, backend, mode)
    model, (x, y) = made(network, backend, "stock"), batch(network)
    stock = on_jax(model, x, y)[1] if backend == "jax" else step_of(model, x, y)
    stock()
    own, theirs = least([step, stock], repeats)
    return {"peak": peak, "ms": 1e3 * own, "ratio": own / theirs}


def diagnosed(network: str, backend: str, repeats: int) -> dict:
    """`fit` with the default diagnostics every ten steps, as a ratio to `fit` without."""
    model, (x, y) = made(network, backend, "local"), batch(network)
    size = max(len(x) // 4, 1)
    x, y = (np.concatenate([part[:size]] * STEPS) for part in (x, y))
    watch = e2e.callbacks.ModuleDiagnostics(update_freq=STEPS)
    options = {"batch_size": size, "shuffle": False, "verbose": 0}
    sides = [
        lambda: model.fit(x, y, callbacks=[watch], **options),
        lambda: model.fit(x, y, **options),
    ]
    least(sides, 1)  # both are compiled
    own, theirs = least(sides, repeats)
    return {"ratio": own / theirs}


def one(case: str, repeats: int) -> dict:
    """Measures a case, `NETWORK/BACKEND/METHOD`."""
    network, backend, method = case.split("/")
    if method == "diagnostics":
        return diagnosed(network, backend, repeats)
    return steps_beside_stock(network, backend, method, repeats)


def of_process(case: str) -> dict:
    """The numbers of a case, from a process of its own; the error if there are none."""
    command = [sys.executable, __file__, f"--one={case}", f"--repeats={FLAGS.repeats}"]
    with tempfile.TemporaryDirectory() as reports:
        dump = f"--xla_dump_to={reports} --xla_dump_hlo_as_text"
        xla = {"XLA_FLAGS": dump} if "/xla/" in case else {}
        environment = {**os.environ, **xla}
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment
        )
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1][:200]}
    return json.loads(done.stdout.splitlines()[-1])


def table_of(results: dict[str, dict]) -> Table:
    """A row for each network, method and backend."""
    columns = ("network", "method", "backend", "ms", "of stock", "peak MiB", "diagnostics")
    table = Table(*columns)
    for case, found in results.items():
        network, backend, method = case.split("/")
        if method == "diagnostics":
            continue
        watched = results.get(f"{network}/{backend}/diagnostics", {})
        last = f"{watched['ratio']:.3f}" if "ratio" in watched else ""
        cells = [found.get("error", "")[:40], "", "", ""]
        if "error" not in found:
            cells = [f"{found['ms']:.1f}", f"{found['ratio']:.2f}", f"{found['peak']:.1f}"]
            cells.append(last if method == "local" else "")
        table.add_row(network, method, backend, *cells)
    return table


def main(_: list[str]) -> None:
    """Runs the cases, prints the table and writes JSON."""
    if FLAGS.one:
        print(json.dumps(one(FLAGS.one, FLAGS.repeats)))
        return
    folder = pathlib.Path(FLAGS.output)
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict] = {}
    for network in FLAGS.networks:
        for method in FLAGS.methods:
            for backend in FLAGS.backends:
                case = f"{network}/{backend}/{method}"
                results[case] = of_process(case)
                print(case, results[case], file=sys.stderr, flush=True)
                (folder / "backends.json").write_text(json.dumps(results, indent=2))
    Console(width=110).print(table_of(results))


if __name__ == "__main__":
    define_flags()
    app.run(main)

"""What keras_e2e costs: ratios of step times, both sides in one process.

Timings on a shared machine jump, so the two sides alternate and, step by step, the
minimum of many repeats counts. Goals: end to end against stock Keras <= 1.02,
the default diagnostics every 10 steps against none <= 1.03 (<= 1.05 where a step takes half
a millisecond, on an MLP of 4 x 64), all of them (the expensive
ones every 200 steps) <= 1.10, local against deep supervision (end to end with the same
heads) <= 1.00, and no trace when a mode is switched back to.

    python benchmarks/overhead.py [--repeats=30] [--jit] [--output=benchmarks/results]
"""

import json
import os
import pathlib
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from rich.console import Console
from rich.table import Table

import keras_e2e as e2e

FLAGS = flags.FLAGS
flags.DEFINE_integer("repeats", 30, "How often each side runs; the minimum counts.")
flags.DEFINE_integer("steps", 60, "Steps of one run.")
flags.DEFINE_integer("batch", 128, "Batch size.")
flags.DEFINE_list("models", None, "Which models; by default all of them.")
flags.DEFINE_bool("jit", False, "Compile with XLA.")
flags.DEFINE_string("output", "benchmarks/results", "Folder of the JSON file.")

CUTS = {
    "mlp 4 x 64": ["dense_b", "dense_d"],
    "mlp": ["dense_b", "dense_d"],
    "convnet": ["pool_a", "pool_b"],
    "transformer": ["block_a"],
}
SHAPES = {
    "mlp 4 x 64": (64,),
    "mlp": (784,),
    "convnet": (28, 28, 1),
    "transformer": (32, 64),
}
# The steps from one measurement of the expensive quantities to the next, which make a run
# of that comparison, and how often it is repeated.
EXPENSIVE, REPEATS = 200, 10


def stock(kind: str) -> keras.Model:
    """A stock model: an MLP, a small convolutional network or two transformer blocks."""
    keras.utils.set_random_seed(0)
    if kind == "transformer":
        return transformer()
    layers = [keras.Input(SHAPES[kind])]
    if kind.startswith("mlp"):
        width = 512 if kind == "mlp" else 64
        for name in "abcd":
            dense = keras.layers.Dense(width, activation="relu", name=f"dense_{name}")
            layers.append(dense)
    else:
        for name, filters in (("a", 16), ("b", 32), ("c", 32)):
            layers.append(
                keras.layers.Conv2D(
                    filters, 3, padding="same", activation="relu", name=f"conv_{name}"
                )
            )
            layers.append(keras.layers.MaxPooling2D(name=f"pool_{name}"))
        layers.append(keras.layers.Flatten())
    layers.append(keras.layers.Dense(10, activation="softmax", name="digit"))
    return keras.Sequential(layers)


def transformer() -> keras.Model:
    """Two blocks of attention and feed-forward over 32 positions of 64 numbers."""
    x = inputs = keras.Input(SHAPES["transformer"])
    for name in "ab":
        y = keras.layers.LayerNormalization()(x)
        x = keras.layers.Add()([x, keras.layers.MultiHeadAttention(4, 16)(y, y)])
        y = keras.layers.LayerNormalization()(x)
        y = keras.layers.Dense(64)(keras.layers.Dense(128, activation="gelu")(y))
        x = keras.layers.Add(name=f"block_{name}")([x, y])
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x))


def compiled(model: keras.Model, mode: str | None = None) -> keras.Model:
    """The model compiled for the benchmark, in a training mode."""
    if mode is not None:
        model.training_mode = mode
    model.compile(
        keras.optimizers.Adam(1e-3),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=FLAGS.jit,
    )
    return model


def data(kind: str, steps: int) -> tf.data.Dataset:
    """Batches that wait in memory."""
    rng = np.random.default_rng(0)
    count = steps * FLAGS.batch
    x = rng.normal(size=(count, *SHAPES[kind])).astype("float32")
    y = rng.integers(0, 10, size=count)
    batches = tf.data.Dataset.from_tensor_slices((x, y))
    return batches.batch(FLAGS.batch, drop_remainder=True).cache().prefetch(2)


class Clock(keras.callbacks.Callback):
    """Notes when each step of a fit begins and when the last one ends."""

    def on_train_begin(self, logs=None):
        self.times = []

    def on_train_batch_begin(self, batch, logs=None):
        self.times.append(time.perf_counter())

    def on_epoch_end(self, epoch, logs=None):
        self.times.append(time.perf_counter())


def ratio(first, second, repeats: int) -> dict:
    """Times per step of two runs that alternate, after one warm-up each.

    For each step the minimum over the repeats, then the mean over the steps: a step is
    short enough to find the machine idle once in a while, a whole run is not.
    """
    clock = Clock()
    first(clock), second(clock)
    times: tuple[list, list] = ([], [])
    for repeat in range(repeats):
        order = ((0, first), (1, second))
        for side, run in order if repeat % 2 else order[::-1]:
            run(clock)
            times[side].append(np.diff(clock.times))
    ours, theirs = (float(np.min(t, axis=0).mean()) * 1e3 for t in times)
    return {"ms": ours, "baseline_ms": theirs, "ratio": ours / theirs}


def measure(kind: str, folder: str) -> list[dict]:
    """All comparisons on one model.

    Both sides of each train the same weights: two models made alike differ by up to 2 %
    already, from where their tensors happen to lie in memory.
    """
    short, long = data(kind, FLAGS.steps), data(kind, EXPENSIVE)

    def fit(model, *callbacks, mode=None, batches=short):
        def run(clock):
            if mode is not None:
                model.training_mode = mode
            model.optimizer.iterations.assign(0)  # the same steps are measured
            model.fit(batches, verbose=0, shuffle=False, callbacks=[clock, *callbacks])

        return run

    base = stock(kind)
    ours = compiled(e2e.modularize(base, CUTS[kind]), "end_to_end")
    plain, twin = compiled(base), compiled(keras.Model(base.inputs, base.outputs))
    board = e2e.callbacks.ModuleTensorBoard(os.path.join(folder, kind), update_freq=10)
    full = e2e.callbacks.ModuleTensorBoard(
        os.path.join(folder, f"{kind}_full"),
        update_freq=10,
        quantities="full",
        expensive_update_freq=EXPENSIVE,
    )
    kerass = keras.callbacks.TensorBoard(
        os.path.join(folder, f"{kind}_keras"), update_freq=10, write_graph=False
    )
    end_to_end = fit(ours, mode="end_to_end")
    local = fit(ours, mode="local")
    comparisons = [
        ("stock Keras against itself: the noise", None, fit(twin), fit(plain)),
        ("end_to_end against stock Keras", 1.02, end_to_end, fit(plain)),
        (
            "ModuleTensorBoard every 10 steps against none",
            1.05 if kind == "mlp 4 x 64" else 1.03,
            fit(ours, board, mode="end_to_end"),
            end_to_end,
        ),
        (
            "keras.callbacks.TensorBoard every 10 steps against none",
            None,
            fit(ours, kerass, mode="end_to_end"),
            end_to_end,
        ),
        (
            "local against deep supervision (same heads)",
            1.00,
            local,
            fit(ours, mode="deep_supervision"),
        ),
        ("local against end_to_end (no heads)", None, local, end_to_end),
    ]
    rows = [
        {"model": kind, "what": what, "goal": goal, **ratio(first, second, FLAGS.repeats)}
        for what, goal, first, second in comparisons
    ]
    found = ratio(
        fit(ours, full, mode="end_to_end", batches=long),
        fit(ours, mode="end_to_end", batches=long),
        min(REPEATS, FLAGS.repeats),
    )
    what = f"all quantities (every 10, {EXPENSIVE} steps) against none"
    return [*rows, {"model": kind, "what": what, "goal": 1.10, **found}]


def switching(kind: str) -> dict:
    """Cost of the first switch to a mode and of all later ones."""
    model = compiled(e2e.modularize(stock(kind), CUTS[kind]), "end_to_end")
    one = data(kind, 1)
    seconds = []
    for mode in ("end_to_end", *("local", "end_to_end") * 5):
        model.training_mode = mode
        begin = time.perf_counter()
        model.fit(one, verbose=0, shuffle=False)
        seconds.append(time.perf_counter() - begin)
    later = min(seconds[3:])
    traces = sum(model.trace_counts.values())
    return {
        "model": kind,
        "first_switch_s": seconds[1],
        "later_switch_s": later,
        "switches": len(seconds) - 1,
        "traces": traces,
        "traces_after_the_first_switch": traces - 2,
    }


def main(argv):
    """Runs all comparisons, prints them and writes JSON."""
    del argv
    with tempfile.TemporaryDirectory() as folder:
        kinds = FLAGS.models or list(CUTS)
        rows = [row for kind in kinds for row in measure(kind, folder)]
    switches = [switching(kind) for kind in kinds]
    table = Table(
        title=f"ms per step, each the minimum of {FLAGS.repeats} runs, sides alternating"
    )
    for column in ("model", "what", "ms", "baseline ms", "ratio", "goal"):
        table.add_column(column, justify="right" if "m" in column[:2] else "left")
    for row in rows:
        table.add_row(
            row["model"],
            row["what"],
            f"{row['ms']:.3f}",
            f"{row['baseline_ms']:.3f}",
            f"{row['ratio']:.3f}",
            f"<= {row['goal']:.2f}" if row["goal"] else "",
        )
    console = Console(width=110)
    console.print(table)
    for row in switches:
        console.print(
            f"{row['model']}: first switch {row['first_switch_s']:.2f} s, later ones "
            f"{row['later_switch_s']:.3f} s (one step of fit included); traces after "
            f"the first switch: {row['traces_after_the_first_switch']} in "
            f"{row['switches'] - 1} switches"
        )
    out = pathlib.Path(FLAGS.output)
    out.mkdir(parents=True, exist_ok=True)
    result = {"jit": FLAGS.jit, "comparisons": rows, "switching": switches}
    name = "overhead_xla.json" if FLAGS.jit else "overhead.json"
    (out / name).write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    app.run(main)

"""What `regimes.train(cache=)` saves: the time of an epoch that trains one module alone.

Both sides alternate in one process, on the same model; the minimum over all epochs of all
repeats counts, without the first epoch of each run, which may trace. "filled" is what the
cache adds beside the epochs: checks, tracing, and the pass that fills it.

    python benchmarks/cached_regime.py [--repeats=5] [--cache=memory|FOLDER]
"""

import json
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from absl import app, flags
from rich.console import Console
from rich.table import Table

import keras_e2e as e2e
from keras_e2e.experiments import regimes

FLAGS = flags.FLAGS
flags.DEFINE_integer("repeats", 5, "How often each side runs; the minimum counts.")
flags.DEFINE_integer("epochs", 4, "Epochs of one run; the first one is left out.")
flags.DEFINE_integer("examples", 4096, "How many examples there are.")
flags.DEFINE_integer("batch", 128, "Batch size.")
flags.DEFINE_string("cache", regimes.MEMORY, "As in `regimes.train`.")
flags.DEFINE_string("output", "benchmarks/results", "Folder of the JSON file.")

BLOCKS, WIDTH = 8, 16


def residual() -> tuple[keras.Model, list[str]]:
    """Eight residual blocks of convolutions in four modules."""
    x = inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(WIDTH, 3, padding="same")(x)
    for i in range(BLOCKS):
        y = keras.layers.BatchNormalization()(x)
        y = keras.layers.Conv2D(WIDTH, 3, padding="same", activation="relu")(y)
        x = keras.layers.Add(name=f"block_{i}")([x, y])
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.Dense(10, activation="softmax", name="out")(x)
    return keras.Model(inputs, outputs), ["block_1", "block_3", "block_5"]


def mlp() -> tuple[keras.Model, list[str]]:
    """Eight layers of 512 in four modules."""
    names = [f"dense_{i}" for i in range(8)]
    dense = [keras.layers.Dense(512, activation="relu", name=name) for name in names]
    out = keras.layers.Dense(10, activation="softmax", name="out")
    return keras.Sequential([keras.Input((256,)), *dense, out]), names[1:7:2]


class Clock(keras.callbacks.Callback):
    """Notes the seconds of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch, logs=None):
        self.begin = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.begin)


def run(model: keras.Model, module: str, x, y, cache: str | None) -> dict:
    """Trains one module alone; returns the fastest epoch and what the cache takes."""
    clock, steps = Clock(), FLAGS.examples // FLAGS.batch
    begin = time.perf_counter()
    found = regimes.train(
        model,
        [regimes.Stage(mode=f"sequential:{module}")],
        x,
        y,
        steps=steps * FLAGS.epochs,
        window=steps,
        batch_size=FLAGS.batch,
        callbacks=[clock],
        cache=cache,
        verbose=0,
    )
    rest = time.perf_counter() - begin - sum(clock.seconds)
    return {
        "epoch": min(clock.seconds[1:]),
        "beside": rest,
        "mib": found.cached_bytes / 2**20,
    }


def measure(name: str, make) -> list[dict]:
    """A row for each module that has others upstream."""
    keras.utils.set_random_seed(0)
    base, boundaries = make()
    model = e2e.modularize(base, boundaries)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    rng = np.random.default_rng(0)
    x = rng.normal(size=(FLAGS.examples, *base.input_shape[1:])).astype("float32")
    y = rng.integers(0, 10, size=FLAGS.examples)
    rows = []
    for module in [*boundaries[1:], "out"]:
        sides: dict = {None: [], FLAGS.cache: []}
        for repeat in range(FLAGS.repeats):
            for cache in list(sides) if repeat % 2 else list(sides)[::-1]:
                sides[cache].append(run(model, module, x, y, cache))
        plain, cached = (min(r["epoch"] for r in runs) for runs in sides.values())
        beside = [min(r["beside"] for r in runs) for runs in sides.values()]
        rows.append(
            {
                "model": name,
                "module": module,
                "plain_ms": 1e3 * plain,
                "cached_ms": 1e3 * cached,
                "ratio": cached / plain,
                "mib": sides[FLAGS.cache][0]["mib"],
                "extra_s": beside[1] - beside[0],
            }
        )
    return rows


def main(argv):
    del argv
    rows = [row for make in (residual, mlp) for row in measure(make.__name__, make)]
    table = Table(
        "model",
        "trained alone",
        "epoch, ms",
        "cached, ms",
        "ratio",
        "cache, MiB",
        "filled, s",
    )
    for row in rows:
        numbers = (f"{row[key]:.2f}" for key in ("ratio", "mib", "extra_s"))
        times = (f"{row[key]:.0f}" for key in ("plain_ms", "cached_ms"))
        table.add_row(row["model"], row["module"], *times, *numbers)
    Console(width=100).print(table)
    path = pathlib.Path(FLAGS.output) / "cached_regime.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cache": FLAGS.cache, "rows": rows}, indent=1))


if __name__ == "__main__":
    app.run(main)

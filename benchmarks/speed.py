"""What a user should set so that `fit` is fast: milliseconds per step, side by side.

Stock `fit`, stock `fit` with heads (those that ours has, as further outputs) and our `fit`
in local mode, with: arrays, which `fit` shuffles; batches of `tf.data` that are cached and
prefetched, their order shuffled; `steps_per_execution`; `jit_compile`; both. All sides
train the same layers and take turns in one process, and of each the fastest epoch counts. A
backend runs in a process of its own. "local / heads" is the time in local mode as a share
of that of stock `fit` with the heads.

    python benchmarks/speed.py [--repeats=8] [--models=mlp,convnet] [--backends=jax]
"""

import json
import os
import pathlib
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from rich.console import Console
from rich.table import Table

import keras_e2e as e2e

FLAGS = flags.FLAGS
flags.DEFINE_integer("repeats", 8, "How many turns each side has; the minimum counts.")
flags.DEFINE_integer("steps", 60, "Steps of an epoch; a multiple of 10.")
flags.DEFINE_integer("batch", 128, "Batch size.")
flags.DEFINE_list("models", ["mlp", "convnet"], "Which models.")
flags.DEFINE_list("backends", ["tensorflow", "jax"], "Which backends.")
flags.DEFINE_bool("json", False, "Print the numbers of this process's backend as JSON.")
flags.DEFINE_string("output", "benchmarks/results", "Folder of the JSON file.")

SHAPES = {"mlp": (64,), "convnet": (28, 28, 1)}
CUTS = {"mlp": ["dense_b", "dense_d"], "convnet": ["pool_a", "pool_b"]}
# By name: whether batches are cached, and what `compile` is given.
SETTINGS: dict[str, tuple[bool, dict]] = {
    "arrays": (False, {}),
    "cached tf.data": (True, {}),
    "+ steps_per_execution=10": (True, {"steps_per_execution": 10}),
    "+ jit_compile": (True, {"jit_compile": True}),
    "+ both": (True, {"steps_per_execution": 10, "jit_compile": True}),
}
METHODS = ("stock", "stock with heads", "local")


def stock(kind: str) -> keras.Model:
    """An MLP of 4 x 64, or a small convolutional network."""
    layers = [keras.Input(SHAPES[kind])]
    if kind == "mlp":
        for name in "abcd":
            layers.append(keras.layers.Dense(64, activation="relu", name=f"dense_{name}"))
    else:
        for name, filters in (("a", 16), ("b", 32)):
            options = {"padding": "same", "activation": "relu", "name": f"conv_{name}"}
            layers.append(keras.layers.Conv2D(filters, 3, **options))
            layers.append(keras.layers.MaxPooling2D(name=f"pool_{name}"))
        layers.append(keras.layers.Flatten())
    layers.append(keras.layers.Dense(10, activation="softmax", name="digit"))
    return keras.Sequential(layers)


def with_heads(base: keras.Model, ours: keras.Model) -> keras.Model:
    """The stock model whose further outputs are those of our heads."""
    known = {layer.name for layer in base.layers}
    outputs = [base.outputs[0]]
    for name in ours.boundaries:
        x = base.get_layer(name).output
        for layer in ours.early_exit_model(name).layers:
            if layer.name not in known and not isinstance(layer, keras.layers.InputLayer):
                x = layer(x)
        outputs.append(x)
    return keras.Model(base.inputs, outputs)


def sides(kind: str) -> dict:
    """By method and setting, what trains for an epoch and returns its seconds."""
    keras.utils.set_random_seed(0)
    base = stock(kind)
    rng = np.random.default_rng(0)
    count = FLAGS.steps * FLAGS.batch
    x = rng.normal(size=(count, *SHAPES[kind])).astype("float32")
    y = rng.integers(0, 10, size=count)
    found = {}
    for setting, (cached, options) in SETTINGS.items():
        if keras.backend.backend() == "jax" and "jit_compile" in options:
            continue  # it compiles in any case
        ours = e2e.modularize(base, CUTS[kind])
        ours.training_mode = "local"
        models = (keras.Model(base.inputs, base.outputs), with_heads(base, ours), ours)
        for method, model in zip(METHODS, models, strict=True):
            targets = (y,) * len(model.outputs) if len(model.outputs) > 1 else y
            data: tuple = (x, targets)
            if cached:
                batches = tf.data.Dataset.from_tensor_slices(data).batch(FLAGS.batch)
                data = (batches.cache().shuffle(FLAGS.steps).prefetch(2),)
            model.compile("adam", "sparse_categorical_crossentropy", **options)
            found[method, setting] = (model, data)
    return found


class Clock(keras.callbacks.Callback):
    """Notes the seconds of each epoch."""

    def on_train_begin(self, logs=None):
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.begin = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.begin)


def measure(kind: str) -> list[dict]:
    """Milliseconds per step of each side."""
    found, clock = sides(kind), Clock()
    seconds: dict = {side: [] for side in found}
    for repeat in range(FLAGS.repeats + 1):
        for side in list(found) if repeat % 2 else list(found)[::-1]:
            model, data = found[side]
            # A dataset shuffles by itself.
            options = {"batch_size": FLAGS.batch} if len(data) > 1 else {"shuffle": False}
            model.fit(*data, epochs=2, verbose=0, callbacks=[clock], **options)
            seconds[side] += clock.seconds[1:]
    return [
        {
            "model": kind,
            "backend": keras.backend.backend(),
            "method": method,
            "setting": setting,
            "ms": 1e3 * min(times) / FLAGS.steps,
        }
        for (method, setting), times in seconds.items()
    ]


def of_backend(backend: str) -> list[dict]:
    """The numbers of a backend, from a process of its own."""
    flags_ = [f"--{name}={FLAGS[name].value}" for name in ("repeats", "steps", "batch")]
    run = subprocess.run(
        [sys.executable, __file__, "--json", f"--models={','.join(FLAGS.models)}", *flags_],
        env={**os.environ, "KERAS_BACKEND": backend},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(run.stdout.splitlines()[-1])


def show(rows: list[dict]) -> None:
    """A table with a row for each setting and a column for each method."""
    for kind in FLAGS.models:
        table = Table("backend", "setting", *METHODS, "local / heads", title=kind)
        for backend in FLAGS.backends:
            for setting in SETTINGS:
                here = {
                    row["method"]: row["ms"]
                    for row in rows
                    if (row["model"], row["backend"], row["setting"])
                    == (kind, backend, setting)
                }
                if here:
                    times = [f"{here[method]:.2f}" for method in METHODS]
                    ratio = here["local"] / here["stock with heads"]
                    table.add_row(backend, setting, *times, f"{ratio:.2f}")
        Console(width=100).print(table)


def main(argv):
    del argv
    if FLAGS.json:
        print(json.dumps([row for kind in FLAGS.models for row in measure(kind)]))
        return
    rows = [row for backend in FLAGS.backends for row in of_backend(backend)]
    show(rows)
    path = pathlib.Path(FLAGS.output) / "speed.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    app.run(main)

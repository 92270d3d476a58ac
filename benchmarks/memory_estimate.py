"""What `estimate_memory` says beside what is measured, each case in a process of its own.

Measured is the peak of one step beside the state, `tf.config.experimental.get_memory_info`,
which needs a TensorFlow that counts the memory of its device (on a CPU one with oneDNN on;
that one does not count tensors below 256 KiB). The largest of five steps counts.

    python benchmarks/memory_estimate.py [--cases=residual,mlp] [--output=FOLDER]
"""

import json
import os
import pathlib
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from _networks import mlp, residual, transformer
from absl import app, flags
from keras import layers
from rich.console import Console
from rich.table import Table

import keras_e2e as e2e

FLAGS = flags.FLAGS
flags.DEFINE_list("cases", None, "Which cases; by default all of them.")
flags.DEFINE_string("one", None, "The case that this process is for.")
flags.DEFINE_string("output", "benchmarks/results", "Folder of the JSON file.")

MIB, STEPS = 2**20, 5


def recurrent() -> keras.Model:
    """Two LSTMs of 256 on 64 steps."""
    inputs = keras.Input((64, 64))
    x = layers.LSTM(256, return_sequences=True)(inputs)
    return keras.Model(inputs, layers.Dense(10)(layers.LSTM(256)(x)))


def mobilenet() -> keras.Model:
    """MobileNetV2 on images of 64 x 64."""
    return keras.applications.MobileNetV2(weights=None, input_shape=(64, 64, 3), classes=10)


def half() -> keras.Model:
    """The residual network in bfloat16."""
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    return residual()


# The model, the batch size and the number of modules; 1 is end to end.
CASES = {
    "residual": (residual, 128, (1, 4, 8)),
    "residual, bfloat16": (half, 128, (1,)),
    "transformer": (transformer, 16, (1, 8)),
    "transformer, large batch": (transformer, 64, (1, 8)),
    "mlp": (mlp, 1024, (1, 8)),
    "mlp, small batch": (mlp, 128, (1, 8)),
    "recurrent": (recurrent, 512, (1,)),
    "mobilenet": (mobilenet, 32, (1,)),
}
# Where gradients are applied, and whether modules are recomputed.
APPLIED = {"apart": "boundaries", "waits": "the end", "remat": "boundaries, remat"}


def measured(model: keras.Model, batch_size: int, optimizer: object) -> float:
    """The largest peak of some steps beside the state, in MiB."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=False)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch_size, *model.input.shape[1:])).astype("float32")
    data = tf.constant(x), tf.constant(rng.integers(0, 10, batch_size))
    batches = iter(tf.data.Dataset.from_tensors(data).repeat())
    model.make_train_function()
    peaks = []
    for _ in range(STEPS + 2):
        before = tf.config.experimental.get_memory_info("CPU:0")["current"]
        tf.config.experimental.reset_memory_stats("CPU:0")
        model.train_function(batches)
        peaks.append(tf.config.experimental.get_memory_info("CPU:0")["peak"] - before)
    return max(peaks[2:]) / MIB


def one(case: str) -> dict:
    """Estimates and measures a case, `NAME/MODULES/`, one of `APPLIED`."""
    name, modules, optimizer = case.split("/")
    make, batch_size, _ = CASES[name]
    count = int(modules)
    keras.utils.set_random_seed(0)
    model = make()
    if count == 1:
        estimate = e2e.estimate_memory(model, batch_size=batch_size, modules=2).end_to_end
    else:
        remat = optimizer == "remat"
        model = e2e.modularize(model, count - 1, training_mode="local", remat=remat)
        (split,) = e2e.estimate_memory(model, batch_size=batch_size).splits
        estimate = split.local_one_apply if optimizer == "waits" else split.local
    clip = 100.0 if optimizer == "waits" else None
    peak = measured(model, batch_size, keras.optimizers.SGD(global_clipnorm=clip))
    return {"estimated": estimate / MIB, "measured": peak}


def main(_: list[str]) -> None:
    """Runs the cases."""
    if FLAGS.one:
        print(json.dumps(one(FLAGS.one)))
        return
    results = {}
    names = ("network", "batch", "modules", "applied at", "estimated", "measured", "ratio")
    table = Table(*names)
    for name in FLAGS.cases or CASES:
        for count in CASES[name][2]:
            for optimizer in ("apart",) if count == 1 else APPLIED:
                case = f"{name}/{count}/{optimizer}"
                command = [sys.executable, __file__, f"--one={case}"]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found = results[case] = json.loads(done.stdout.splitlines()[-1])
                table.add_row(
                    name,
                    str(CASES[name][1]),
                    str(count),
                    APPLIED[optimizer],
                    *(f"{found[key]:.1f}" for key in ("estimated", "measured")),
                    f"{found['measured'] / found['estimated']:.2f}",
                )
    Console().print(table)
    folder = pathlib.Path(FLAGS.output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory_estimate.json").write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    app.run(main)

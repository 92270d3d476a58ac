"""What local training costs a small language model, and what it saves.

A GPT of four blocks with one embedding at both ends, on characters of the help topics that
ship with Python. It is trained for the same number of steps end to end, with the same heads
under deep supervision, locally in K modules, and locally for the first half. Perplexity is
that of the next character on the end of the text, which nobody trains on. Memory is the
peak of a step above the state, in a process of its own; checkpointing (`keras.remat` around
each block) trains as end to end does.

    python benchmarks/language_model.py [--seeds=3] [--steps=1000] [--modules=2,4]

Every run goes to the JSON file at once, and what is in there is not run again.
"""

import math
import os
import pathlib
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _shared
import keras
import numpy as np
import tensorflow as tf
from _language import gpt, text
from _networks import Segments
from _peaks import peaks_of, step_of
from absl import app, flags
from rich.console import Console
from rich.progress import track
from rich.table import Table

import keras_e2e as e2e
from keras_e2e.callbacks import TrainingModeScheduler

FLAGS = flags.FLAGS

BLOCKS, WIDTH, HEADS = 4, 128, 4
LENGTH, BATCH = 64, 16
LEARNING_RATE = 2e-3
# Where the perplexity is looked at, as parts of the run.
LOOKS = (0.125, 0.25, 0.5, 1.0)
METHODS = (
    "end to end",
    "deep supervision",
    "local",
    "local, head of two layers",
    "local, then end to end",
)
WITHOUT_MODULES = ("end to end", "checkpointing")


def define_flags() -> None:
    """Defines the flags; not on import, for the tests import this."""
    _shared.define_sweep_flags(seeds=3)
    flags.DEFINE_integer("steps", 1000, "Training steps of a run.", lower_bound=8)
    flags.DEFINE_list("modules", ["2", "4"], "Numbers of modules.")
    flags.DEFINE_string("one", None, "The case whose memory this process is to measure.")


def windows(numbers: np.ndarray, seed: int | None = None) -> tf.data.Dataset:
    """Batches of windows and of what follows each of their characters.

    Args:
        numbers: The text.
        seed: Seed of where windows begin, endlessly; None for all of the text, once.
    """
    stream = tf.constant(numbers)
    if seed is None:
        starts = tf.data.Dataset.range(0, len(numbers) - LENGTH, LENGTH)
    else:
        starts = tf.data.Dataset.random(seed).map(
            lambda number: number % (len(numbers) - LENGTH)
        )
    both = starts.map(lambda start: stream[start : start + LENGTH + 1])
    return both.map(lambda w: (w[:-1], w[1:])).batch(BATCH, True).prefetch(4)


def made(method: str, modules: int, characters: int, steps: int) -> keras.Model:
    """A compiled model.

    Args:
        method: One of `METHODS`, or "checkpointing".
        modules: How many; 1 where there are none.
        characters: How many characters there are.
        steps: Of the whole run; the learning rate falls to 0 over them.
    """
    model = gpt(characters, LENGTH, WIDTH, BLOCKS, HEADS)
    if method == "checkpointing":
        model = Segments(model, BLOCKS)
    elif modules > 1:
        head = "mlp" if method == "local, head of two layers" else "linear"
        mode = "deep_supervision" if method == "deep supervision" else "local"
        model = e2e.modularize(
            model,
            modules - 1,
            objective=e2e.objectives.Prediction(head),
            training_mode=mode,
        )
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


class Perplexity(keras.callbacks.Callback):
    """Notes the perplexity on the held-out text at some steps.

    Args:
        data: The held-out text.
        steps: List of the steps.
    """

    def __init__(self, data: tf.data.Dataset, steps: list[int]):
        super().__init__()
        self.data, self.steps, self.found = data, steps, []

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 in self.steps:
            loss = self.model.evaluate(self.data, verbose=0, return_dict=True)["loss"]
            self.found.append(round(math.exp(loss), 4))


def trained(method: str, modules: int, seed: int, steps: int) -> list[float]:
    """The perplexities of a run."""
    train, held_out, characters = text()
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model = made(method, modules, characters, steps)
    looks = [max(round(part * steps), 1) for part in LOOKS]
    perplexity = Perplexity(windows(held_out), looks)
    callbacks = [perplexity]
    if method == "local, then end to end":
        schedule = {0: "local", steps // 2: "end_to_end"}
        callbacks.append(TrainingModeScheduler(schedule, unit="step"))
    model.fit(windows(train, seed), steps_per_epoch=steps, verbose=0, callbacks=callbacks)
    return perplexity.found


def peak(method: str, modules: int) -> float:
    """The peak of a step in MiB."""
    train, _, characters = text()
    model = made(method, modules, characters, FLAGS.steps)
    x, y = next(iter(windows(train, 0)))
    return max(peaks_of(step_of(model, x.numpy(), y.numpy())))


def peak_apart(method: str, modules: int) -> float:
    """The same, in a process of its own."""
    case = f"--one={method}/{modules}"
    done = subprocess.run(
        [sys.executable, __file__, case], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{case}: {done.stderr[-2000:]}")
    return float(done.stdout.splitlines()[-1])


def cases(methods: tuple[str, ...]) -> list[tuple[str, int]]:
    """Methods, each with its numbers of modules."""
    sizes = [int(k) for k in FLAGS.modules]
    return [(m, k) for m in methods for k in ([1] if m in WITHOUT_MODULES else sizes)]


def report(results: _shared.Results) -> Table:
    """Perplexities over the steps, and peaks."""
    table = Table(
        "training",
        "modules",
        *(f"step {round(part * FLAGS.steps):,}" for part in LOOKS),
        "peak MiB",
        title="Perplexity of the next character, mean ± deviation over seeds",
        title_justify="left",
    )
    for method, modules in cases((*METHODS, "checkpointing")):
        key = {"method": method, "modules": modules}
        runs = [
            run["perplexities"]
            for run in results.runs
            if key.items() <= run.items() and run.get("steps") == FLAGS.steps
        ]
        cells = [_shared.spread([run[i] for run in runs], 3) for i in range(len(LOOKS))]
        memory = results.find(**key, what="peak")
        table.add_row(
            method, str(modules), *cells, f"{memory['peak']:.1f}" if memory else ""
        )
    return table


def main(_: list[str]) -> None:
    """Runs what is not in the JSON file yet, and prints the table."""
    if FLAGS.one:
        method, modules = FLAGS.one.split("/")
        print(peak(method, int(modules)))
        return
    _shared.set_threads()
    path = pathlib.Path(FLAGS.output, "language_model.json")
    about = {"what": "perplexity at some steps, and the peak of a step in MiB"}
    results, until = _shared.Results(path, about), _shared.deadline()
    for method, modules in cases((*METHODS, "checkpointing")):
        if method == "local, then end to end":
            continue  # the peaks of the one and of the other
        key = {"method": method, "modules": modules, "what": "peak"}
        if not results.find(**key):
            results.put({"peak": peak_apart(method, modules)}, **key)
    train, held_out, characters = text()
    console = Console(width=120)
    console.print(
        f"{len(train):,} characters to train on and {len(held_out):,} held out, "
        f"{characters} different ones; {BLOCKS} blocks of width {WIDTH}, windows of "
        f"{LENGTH}, batch {BATCH}, Adam {LEARNING_RATE:g} with cosine decay, "
        f"{FLAGS.steps:,} steps, {FLAGS.seeds} seeds."
    )
    todo = [(*case, seed) for seed in range(FLAGS.seeds) for case in cases(METHODS)]
    for method, modules, seed in track(todo, console=Console(stderr=True)):
        key = {"method": method, "modules": modules, "seed": seed, "steps": FLAGS.steps}
        if results.find(**key) or time.monotonic() > until:
            continue
        results.put({"perplexities": trained(method, modules, seed, FLAGS.steps)}, **key)
    console.print(report(results))


if __name__ == "__main__":
    define_flags()
    app.run(main)

"""Which module should own an embedding that is used at both ends?

A small causal language model of characters, whose output layer multiplies by the matrix of
its embedding, is trained on the help topics that ship with Python (`pydoc_data.topics`):
end to end, and locally or one module after the other with the matrix owned by the first
module or by the last one. For comparison also with a matrix for each end. Same steps in
all, same data, same optimizer.

    python benchmarks/tied_embedding.py [--seeds=5] [--steps=300]
"""

import collections
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _shared
import keras
import numpy as np
from _language import gpt, text
from absl import app, flags
from rich.console import Console
from rich.table import Table

import keras_e2e as e2e

FLAGS = flags.FLAGS

CONTEXT, WIDTH, BLOCKS, HEADS, BATCH = 32, 32, 4, 2, 16
RATE = 2e-3
# Training mode, number of modules, and who owns the matrix; "untied" has one for each end.
CASES = [
    ("end_to_end", 1, "tied"),
    *(("local", 2, owner) for owner in ("first", "last", "untied")),
    *(("local", 4, owner) for owner in ("first", "last")),
    *(("sequential", 2, owner) for owner in ("first", "last")),
]


def define_flags() -> None:
    """Defines the flags; not on import, for the tests import this."""
    flags.DEFINE_integer("seeds", 5, "How many seeds, counted from 0.", lower_bound=1)
    flags.DEFINE_integer("steps", 300, "Steps of each run.", lower_bound=1)
    flags.DEFINE_integer("threads", 0, "Threads of TensorFlow; 0 leaves it to it.")


def windows(numbers: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pieces of the text, and for each of their characters the next one."""
    places = starts[:, None] + np.arange(CONTEXT)
    return numbers[places], numbers[places + 1]


def train(mode: str, count: int, owner: str, seed: int, steps: int) -> tuple[float, float]:
    """Trains one model. Returns the task losses on its last batches and on the test."""
    keras.utils.set_random_seed(seed)
    training, test, characters = text()
    model = gpt(characters, CONTEXT, WIDTH, BLOCKS, HEADS, tied=owner != "untied")
    stages = [mode]
    if count > 1:
        each = BLOCKS // count
        ends = [f"block_{n}" for n in range(each, BLOCKS, each)]
        shared = {"embed": owner} if owner in ("first", "last") else None
        model = e2e.modularize(model, ends, shared=shared)
        if mode == "sequential":
            stages = [f"sequential:{module.name}" for module in model.modules]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(RATE), loss)
    starts = np.random.default_rng(seed).integers(0, len(training) - CONTEXT, steps * BATCH)
    x, y = windows(training, starts)
    for n, stage in enumerate(stages):
        if count > 1:
            model.training_mode = stage
        part = slice(n * len(x) // len(stages), (n + 1) * len(x) // len(stages))
        model.fit(x[part], y[part], batch_size=BATCH, verbose=0, shuffle=False)
    seen = x[-64 * BATCH :], y[-64 * BATCH :]
    unseen = windows(test, np.arange(0, len(test) - CONTEXT - 1, CONTEXT))
    seen_loss, test_loss = (
        float(model.evaluate(*data, batch_size=256, verbose=0)) for data in (seen, unseen)
    )
    return seen_loss, test_loss


def main(argv):
    """Trains and prints the table."""
    del argv
    _shared.set_threads()
    console = Console(width=110)
    found = collections.defaultdict(list)
    for seed in range(FLAGS.seeds):
        for case in CASES:
            start = time.monotonic()
            found[case].append(train(*case, seed, FLAGS.steps))
            keras.backend.clear_session()
            said = ", ".join(f"{np.exp(loss):.2f}" for loss in found[case][-1])
            seconds = time.monotonic() - start
            console.print(f"seed {seed} {case}: {said} ({seconds:.0f} s)", highlight=False)
    title = f"Perplexity of characters after {FLAGS.steps} steps, {FLAGS.seeds} seeds"
    table = Table(title=title, title_justify="left")
    for column in ("mode", "modules", "owner", "seen", "test", "test, least to most"):
        table.add_column(column)
    for (mode, count, owner), runs in found.items():
        seen, test = (np.exp([run[i] for run in runs]) for i in (0, 1))
        table.add_row(
            mode,
            str(count),
            owner,
            f"{statistics.median(seen):.2f}",
            f"{statistics.median(test):.2f}",
            f"{min(test):.2f} to {max(test):.2f}",
        )
    console.print(table)


if __name__ == "__main__":
    define_flags()
    app.run(main)

"""Is the demo's verdict right, whatever the seed?

Trains the end-to-end runs of the demo for each seed, and holds the verdict on the module
"symbols" to the test accuracy: starved where it is that of guessing, healthy or converged
where the parity was learned.

    python benchmarks/demo_seeds.py [--seeds=20]
"""

import collections
import os
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from absl import app, flags
from rich.console import Console
from rich.table import Table

from keras_e2e.experiments import demo
from keras_e2e.experiments.demo_settings import Settings

FLAGS = flags.FLAGS

# Guessing is .5; between these the parity was learned in part, and any verdict will do.
GUESSED, LEARNED = 0.6, 0.75


def define_flags() -> None:
    """Defines the flags; not on import, for the tests import this."""
    flags.DEFINE_integer("seeds", 20, "How many seeds, counted from 0.", lower_bound=1)


def right(run: demo.Run) -> bool:
    """Whether the verdict is the one that the test accuracy asks for."""
    if run.accuracy < GUESSED:
        return run.verdict.state == "starved"
    return run.accuracy < LEARNED or run.verdict.state in ("healthy", "converged")


def main(argv):
    """Trains and prints the table."""
    del argv
    console = Console(width=110)
    found = collections.defaultdict(list)
    for seed in range(FLAGS.seeds):
        with tempfile.TemporaryDirectory() as folder:
            settings = Settings(seed=seed, output_dir=folder)
            schedules = {"end to end": demo.regimes(settings.epochs)["end to end"]}
            for run in demo.train_all(settings, schedules, Console(quiet=True)):
                found[run.k].append(run)
        keras.backend.clear_session()
        console.print(f"seed {seed} done", highlight=False)
    title = f"The demo's verdicts end to end, seeds 0 to {FLAGS.seeds - 1}"
    table = Table(title=title, title_justify="left")
    for column in ("k", "test accuracy", "verdicts", "right"):
        table.add_column(column)
    for k, runs in found.items():
        states = collections.Counter(run.verdict.state for run in runs).most_common()
        accuracies = sorted(run.accuracy for run in runs)
        table.add_row(
            str(k),
            f"{accuracies[0]:.3f} to {accuracies[-1]:.3f}",
            ", ".join(f"{count} {state}" for state, count in states),
            f"{sum(map(right, runs))}/{len(runs)}",
        )
    console.print(table)
    for k, runs in found.items():
        for seed, run in enumerate(runs):
            if not right(run):
                console.print(f"wrong: k={k} seed {seed}, test {run.accuracy:.3f}:")
                console.print(run.verdict.message, highlight=False)


if __name__ == "__main__":
    define_flags()
    app.run(main)

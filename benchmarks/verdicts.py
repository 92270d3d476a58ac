"""Do verdicts hold? Healthy trainings and planted faults, judged along the way.

Trains a zoo of small networks (`_zoo_settings.py`) as it is, and with faults planted in a
random module (`_zoo_faults.py`), and judges all modules at steps 100, 300, 1,000 and at
the end. Runs are kept: a command that was ended goes on where it was. Settings marked
`unseen` were not looked at while thresholds were chosen; they are reported apart.

    python benchmarks/verdicts.py [--seeds=10] [--update_freq=10] [--only=...]
"""

import gc
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from _zoo_faults import FAULTS
from _zoo_record import Reused, record
from _zoo_report import report
from _zoo_settings import SETTINGS
from absl import app, flags
from rich.console import Console

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags; not on import, for the tests import this."""
    flags.DEFINE_integer("seeds", 10, "How many seeds, counted from 0.", lower_bound=1)
    flags.DEFINE_integer("update_freq", 10, "Steps between measurements.", lower_bound=1)
    flags.DEFINE_list("only", None, "Names of settings and faults; by default all.")
    flags.DEFINE_bool("train", True, "Whether to train what is missing.")
    flags.DEFINE_string("output", "benchmarks/results", "Folder of the results.")


def main(argv):
    """Trains what is missing and prints the tables."""
    del argv
    console = Console(width=120)
    folder = pathlib.Path(FLAGS.output, f"verdicts_{FLAGS.update_freq}")
    folder.mkdir(parents=True, exist_ok=True)
    names = [("healthy", name) for name in SETTINGS] + [("fault", name) for name in FAULTS]
    for kind, name in names if FLAGS.train else ():
        if FLAGS.only and name not in FLAGS.only:
            continue
        reused = Reused()
        for seed in range(FLAGS.seeds):
            record(kind, name, seed, folder, FLAGS.update_freq, reused)
        console.print(f"trained: {kind} {name}", highlight=False)
        del reused
        keras.backend.clear_session()
        gc.collect()
    report(folder, FLAGS.seeds, console)


if __name__ == "__main__":
    define_flags()
    app.run(main)

"""Do the verdicts tell planted faults from healthy models? A confusion table over seeds.

Each fault is planted in a small network on real data (digits of scikit-learn), at a place
that is known; the healthy controls are a plain MLP, a residual convolutional network and
a small transformer. Goal: each fault gets its verdict on 19 of 20 seeds at least, and on
as many a control gets no alarm, at no time, for none of its modules.

    python benchmarks/verdicts.py [--seeds=20] [--steps=300] [--only=...]
"""

import collections
import json
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from _verdict_cases import CASES, Case
from absl import app, flags
from rich.console import Console
from rich.progress import track
from rich.table import Table

from keras_e2e.callbacks import ModuleDiagnostics

FLAGS = flags.FLAGS

BATCH, UPDATE_FREQ, EXPENSIVE_UPDATE_FREQ, GOAL = 64, 5, 30, 0.95


def define_flags() -> None:
    """Defines the flags; not on import, for the tests import this."""
    flags.DEFINE_integer("seeds", 20, "How many seeds, counted from 0.", lower_bound=1)
    flags.DEFINE_integer(
        "steps", 300, "Training steps of a run.", lower_bound=10 * UPDATE_FREQ
    )
    flags.DEFINE_list("only", None, "Names of cases; by default all.")
    flags.DEFINE_string("output", "benchmarks/results", "Folder of the JSON file.")


class Watched(ModuleDiagnostics):
    """Judges at every tenth measurement, and notes each alarm."""

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self.alarms: set[tuple[str, str]] = set()

    def on_measurement(self, step, measurements):
        if len(self.steps) % 10 == 0:
            for name, verdict in self.verdicts().items():
                if verdict.alarm:
                    self.alarms.add((name, verdict.state))


class Stop(keras.callbacks.Callback):
    """Ends a run after so many steps."""

    def on_train_begin(self, logs=None):
        self.left = FLAGS.steps

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        self.model.stop_training = self.left <= 0


def run(case: Case, seeds: int) -> list[dict]:
    """The verdicts of a case over the seeds; one model is traced for all of them."""
    model, found = None, []
    for seed in range(seeds):
        made, x, y = case.make(seed)
        if model is None:
            model, optimizer = made, made.optimizer
            optimizer.build(model.trainable_variables)
            fresh = [keras.ops.convert_to_numpy(v) for v in optimizer.variables]
        else:
            model.set_weights(made.get_weights())
            for variable, value in zip(optimizer.variables, fresh, strict=True):
                variable.assign(value)
        model.training_mode = case.mode
        keras.utils.set_random_seed(seed)
        watch = Watched(UPDATE_FREQ, "full", EXPENSIVE_UPDATE_FREQ)
        model.fit(
            x, y, batch_size=BATCH, epochs=FLAGS.steps, verbose=0, callbacks=[watch, Stop()]
        )
        verdicts = watch.verdicts()
        found.append(
            {
                "seed": seed,
                "verdicts": {
                    n: [v.state, v.confidence, v.numbers] for n, v in verdicts.items()
                },
                "alarms": sorted(watch.alarms),
            }
        )
    return found


def right(case: Case, one: dict) -> bool:
    """Whether a run got the verdict it should have."""
    if case.module is None:
        return not one["alarms"]
    return one["verdicts"][case.module][0] in case.states


def main(argv):
    """Runs all cases and prints the table."""
    del argv
    chosen = FLAGS.only or list(CASES)
    results, seconds = {}, {}
    for name in track(chosen, "cases"):
        begin = time.perf_counter()
        keras.backend.clear_session()
        results[name] = run(CASES[name], FLAGS.seeds)
        seconds[name] = time.perf_counter() - begin
    table = Table(title=f"{FLAGS.seeds} seeds, {FLAGS.steps} steps", title_justify="left")
    for column in ("case", "looked at", "should be", "was", "right", "goal"):
        table.add_column(column, justify="right" if column in ("right", "goal") else "left")
    for name, runs in results.items():
        case = CASES[name]
        if case.module is None:
            seen = collections.Counter(
                "no alarm" if not one["alarms"] else " ".join(map(str, one["alarms"][0]))
                for one in runs
            )
        else:
            seen = collections.Counter(one["verdicts"][case.module][0] for one in runs)
        hits = sum(right(case, one) for one in runs)
        table.add_row(
            name,
            case.module or "all modules, all along",
            " or ".join(case.states) or "no alarm",
            ", ".join(f"{state} {count}" for state, count in seen.most_common()),
            f"{hits}/{len(runs)}",
            "met" if hits >= GOAL * len(runs) else "missed",
        )
    console = Console(width=120)
    console.print(table)
    out = pathlib.Path(FLAGS.output)
    out.mkdir(parents=True, exist_ok=True)
    (out / "verdicts.json").write_text(json.dumps({"runs": results, "seconds": seconds}))


if __name__ == "__main__":
    define_flags()
    app.run(main)

"""Does AutoMode repair what end-to-end training cannot learn, and leave alone what it can?

Parity of k images and their sum modulo ten, trained for the same number of steps end to
end, locally, locally for the first half, and with AutoMode. A run succeeds when its test
accuracy is above halfway between chance and 1. Goals: AutoMode succeeds on every seed on
which any of the others does, and where end to end succeeds on all seeds it costs at most
half a point of accuracy, and at most a tenth more steps until the training accuracy is
above the same mark.

    python benchmarks/auto_mode.py [--seeds=20] [--steps=3000] [--tasks=parity_4,sum_3]
        [--data=digits] [--minutes=...]
"""

import os
import pathlib
import statistics
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _shared
from absl import app, flags
from rich.console import Console
from rich.progress import track
from rich.table import Table

from keras_e2e.callbacks import AutoMode, TrainingModeScheduler
from keras_e2e.experiments import tasks

FLAGS = flags.FLAGS

BATCH, WINDOW = 128, 100
TASKS: dict[str, Any] = {
    **{f"parity_{k}": (tasks.parity, k) for k in range(1, 7)},
    **{f"sum_{k}": (tasks.sum_mod_10, k) for k in range(1, 4)},
}
REGIMES = ("end to end", "local", "local, then end to end", "AutoMode")


def define_flags() -> None:
    """Defines the flags; not on import, for the tests import this."""
    _shared.define_sweep_flags(seeds=20)
    flags.DEFINE_integer("steps", 3000, "Training steps of a run.", lower_bound=2 * WINDOW)
    flags.DEFINE_list("tasks", None, "Which tasks; by default all of them.")
    flags.DEFINE_enum("data", "digits", ["digits", "fashion_mnist"], "Images.")


def callbacks(regime: str) -> list:
    """What makes a regime out of plain `fit`."""
    if regime == "AutoMode":
        return [AutoMode()]
    schedules: dict[str, dict[int, str]] = {
        "end to end": {0: "end_to_end"},
        "local": {0: "local"},
        "local, then end to end": {0: "local", FLAGS.steps // 2: "end_to_end"},
    }
    return [TrainingModeScheduler(schedules[regime], unit="step")]


def run(models: _shared.Traced, task: tasks.Task, regime: str, seed: int) -> dict[str, Any]:
    """Trains from a seed's weights; the test accuracy and what else came of it."""
    model = models.start(task, seed, regime == "AutoMode")
    used = callbacks(regime)
    logs = model.fit(
        task.train.batches(BATCH, seed),
        steps_per_epoch=WINDOW,
        epochs=FLAGS.steps // WINDOW,
        callbacks=used,
        verbose=0,
    ).history
    found = model.evaluate(
        task.test.x, task.test.y, batch_size=1000, verbose=0, return_dict=True
    )
    above = [i for i, v in enumerate(logs["accuracy"]) if v >= task.success]
    return {
        "accuracy": found["accuracy"],
        "success": bool(found["accuracy"] >= task.success),
        "reached": (above[0] + 1) * WINDOW if above else None,
        "decisions": [[d.step, str(d.mode)] for d in getattr(used[0], "decisions", [])],
    }


def rows(runs: list[dict], chosen: list[str]) -> tuple[list[list[str]], list[list[str]]]:
    """The rows of the table of rates, and of that of the goals."""
    rates, goals = [], []
    for name in chosen:
        mine = [r for r in runs if r["task"] == name]
        by = {
            regime: {r["seed"]: r for r in mine if r["regime"] == regime}
            for regime in REGIMES
        }
        seeds = sorted(set.intersection(*(set(found) for found in by.values())))
        if not seeds:
            continue
        cells = []
        for regime in REGIMES:
            found = [by[regime][seed] for seed in seeds]
            wins = sum(r["success"] for r in found)
            middle = statistics.median(r["accuracy"] for r in found)
            cells.append(f"{wins}/{len(found)} ({middle:.3f})")
        rates.append([name, *cells])
        auto, plain = by["AutoMode"], by["end to end"]
        missed = [
            seed
            for seed in seeds
            if any(by[r][seed]["success"] for r in REGIMES) and not auto[seed]["success"]
        ]
        switched = sum(bool(auto[seed]["decisions"]) for seed in seeds)
        goal = [name, str(len(missed)), "met" if not missed else "missed", str(switched)]
        if all(plain[seed]["success"] for seed in seeds):
            cost = statistics.mean(
                plain[s]["accuracy"] - auto[s]["accuracy"] for s in seeds
            )
            longer = statistics.mean(auto[s]["reached"] or FLAGS.steps for s in seeds)
            longer /= statistics.mean(plain[s]["reached"] or FLAGS.steps for s in seeds)
            kept = cost <= 0.005 and longer <= 1.1
            goal += [f"{100 * cost:+.2f}", f"{longer:.2f}", "met" if kept else "missed"]
        goals.append([*goal, *[""] * (7 - len(goal))])
    return rates, goals


def report(runs: list[dict], chosen: list[str]) -> tuple[Table, Table]:
    """The table of success rates and the one of the goals."""
    rates, goals = rows(runs, chosen)
    first = Table(
        title=f"{FLAGS.data}, {FLAGS.steps} steps: seeds that succeed (median accuracy)",
        title_justify="left",
    )
    for column in ("task", *REGIMES):
        first.add_column(column, justify="left" if column == "task" else "right")
    second = Table(title="AutoMode against its goals", title_justify="left")
    columns = ["task", "seeds lost", "", "seeds switched", "points lost", "steps", ""]
    for column in columns:
        second.add_column(column, justify="left" if column == "task" else "right")
    for table, lines in ((first, rates), (second, goals)):
        for line in lines:
            table.add_row(*line)
    return first, second


def main(argv):
    """Runs what is not in the JSON file yet and prints the tables."""
    del argv
    chosen = FLAGS.tasks or list(TASKS)
    unknown = sorted(set(chosen) - set(TASKS))
    if unknown:
        raise app.UsageError(f"--tasks: {unknown} not among {list(TASKS)}")
    _shared.set_threads()
    about = {"what": "test accuracy, success, and the step where training accuracy passed"}
    path = pathlib.Path(FLAGS.output, f"auto_mode_{FLAGS.data}.json")
    results = _shared.Results(path, about)
    until = float("inf") if FLAGS.minutes is None else time.monotonic() + 60 * FLAGS.minutes
    trained: dict[str, _shared.Traced] = {}
    for seed in track(range(FLAGS.seeds), "seeds"):
        for name in chosen:
            make, k = TASKS[name]
            keys = [
                {"task": name, "regime": regime, "seed": seed, "steps": FLAGS.steps}
                for regime in REGIMES
            ]
            left = [key for key in keys if results.find(**key) is None]
            if not left or time.monotonic() > until:
                continue
            task = make(k, FLAGS.data, seed=seed)
            if name not in trained:
                trained[name] = _shared.Traced(task)
            for key in left:
                results.put(run(trained[name], task, key["regime"], seed), **key)
    runs = [
        r for r in results.runs if r["steps"] == FLAGS.steps and r["seed"] < FLAGS.seeds
    ]
    Console(width=110).print(*report(runs, chosen), f"JSON: {path}")


if __name__ == "__main__":
    define_flags()
    app.run(main)

"""Systems of several networks: what does each way of training make of task and modules?

Two systems of three networks each: scenes of digits (figure and ground, objects, reading)
and a key-value memory (encoder, addressing, answer). All ways train for the same number of
steps from the same weights; end to end sees no intermediate labels. Measured on test
examples, mean and standard deviation over the seeds: the task, and what the modules in the
middle have become.

    python benchmarks/systems.py [--seeds=5] [--steps=2000] [--tasks=scenes,memory]
        [--threads=1] [--minutes=...] [--output=benchmarks/results] [--figure]

`--figure` trains seed 0 end to end and locally and draws what comes out (docs/systems.png).
"""

import itertools
import os
import pathlib
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _shared
import keras
import numpy as np
from absl import app, flags
from rich.console import Console
from rich.progress import track
from rich.table import Table

from keras_e2e.callbacks import AutoMode
from keras_e2e.experiments import regimes, tasks
from keras_e2e.experiments.limits.results import purity
from keras_e2e.experiments.tasks.scenes import INK, NONE, SLOTS

FLAGS = flags.FLAGS

WINDOW = 100
# What makes the task of a seed, and the batch size.
TASKS: dict[str, Any] = {
    "scenes": (lambda seed: tasks.scenes(seed=seed), 64),
    "memory": (lambda seed: tasks.memory(m=4, seed=seed), 128),
}
REGIMES = {
    "end to end": "end_to_end",
    "deep supervision": "deep_supervision",
    "greedy": "greedy",
    "local": "local",
    "local, then end to end": "local_then_end_to_end",
    "AutoMode": "auto",
}
FIGURE = pathlib.Path(__file__).parents[1] / "docs" / "systems.png"


def define_flags() -> None:
    """Defines the flags; not on import, for the tests import this."""
    _shared.define_sweep_flags(seeds=5)
    flags.DEFINE_integer("steps", 2000, "Training steps of a run.", lower_bound=3 * WINDOW)
    flags.DEFINE_list("tasks", None, "Which tasks; by default all of them.")
    flags.DEFINE_bool("figure", False, "Draw the figure from seed 0, and nothing else.")


class Trained(_shared.Traced):
    """Those of a system, and what is seen of its inside."""

    def __init__(self, task: tasks.Task, batch: int):
        super().__init__(task)
        self.batch = batch
        plain = task.build(0)
        middle = {name: plain.get_layer(name).output for name in task.cuts}
        self.seen = keras.Model(
            plain.input, {**middle, plain.output_names[0]: plain.output}
        )

    def run(
        self, task: tasks.Task, regime: str, seed: int, steps: int
    ) -> tuple[dict[str, np.ndarray], list]:
        """Trains from a seed's weights.

        Returns:
            What output and cut points say of the test examples; what AutoMode decided.
        """
        plan, auto = REGIMES[regime], AutoMode()
        model = self.start(task, seed, plan == "auto")
        labels = {} if plan == "end_to_end" else task.train.labels
        regimes.train(
            model,
            [regimes.Stage(callbacks=lambda: [auto])] if plan == "auto" else plan,
            task.train.x,
            {**task.train.y, **labels},
            steps=steps,
            batch_size=self.batch,
            seed=seed,
            window=WINDOW,
            verbose=0,
        )
        self.seen.set_weights(model.get_weights())
        found = self.seen.predict(task.test.x, batch_size=500, verbose=0)
        return found, [[d.step, str(d.mode)] for d in auto.decisions]


def of_scenes(test: tasks.Split, found: dict[str, np.ndarray]) -> dict[str, float]:
    """Shares of scenes and of objects that are read right; mean IoU of the objects."""
    right = found["reading"].argmax(-1) == test.y["reading"]
    masks = found["segmentation"].argmax(-1)
    return {
        "scenes": float(right.all(axis=1).mean()),
        "objects": float(right[test.y["reading"] != NONE].mean()),
        "mean IoU": mean_iou(masks, test.labels["segmentation"], test.x[..., 0] > INK),
    }


def mean_iou(masks: np.ndarray, labels: np.ndarray, bright: np.ndarray) -> float:
    """Intersection over union of the objects, up to the names of the masks.

    Over the bright pixels of all scenes: a mask is multiplied by the image, so what it is
    where the image is dark matters to nobody. Of all ways to name the masks the best.
    """
    table = np.zeros((SLOTS + 1, SLOTS + 1))
    np.add.at(table, (masks[bright], labels[bright]), 1)
    unions = table.sum(axis=0) + table.sum(axis=1, keepdims=True) - table
    values = (table / np.maximum(unions, 1))[:, 1:]
    orders = itertools.permutations(range(SLOTS + 1), SLOTS)
    return float(max(values[list(rows), range(SLOTS)].mean() for rows in orders))


def of_memory(test: tasks.Split, found: dict[str, np.ndarray]) -> dict[str, float]:
    """Shares of right answers and of slots that get the most attention rightly; purity.

    Purity: the share of keys and queries of the most frequent class of their symbol.
    """
    answers, slots = found["answer"].argmax(-1), found["attention"].argmax(-1)
    return {
        "answers": float((answers == test.y["answer"]).mean()),
        "slots": float((slots == test.labels["attention"]).mean()),
        "purity": purity(found["symbols"].argmax(-1), test.labels["symbols"]),
    }


MEASURES = {"scenes": of_scenes, "memory": of_memory}


def report(runs: list[dict], name: str) -> Table:
    """Mean and deviation of each measure, of the seeds that all regimes have."""
    by = {
        regime: {r["seed"]: r for r in runs if (r["task"], r["regime"]) == (name, regime)}
        for regime in REGIMES
    }
    seeds = sorted(set.intersection(*(set(found) for found in by.values())))
    table = Table(
        title=f"{name}, {FLAGS.steps} steps, {len(seeds)} seeds", title_justify="left"
    )
    table.add_column("training")
    measures = list(by["end to end"][seeds[0]]["found"]) if seeds else []
    for measure in measures:
        table.add_column(measure, justify="right")
    for regime in REGIMES:
        cells = [
            _shared.spread([by[regime][seed]["found"][measure] for seed in seeds], 3)
            for measure in measures
        ]
        table.add_row(regime, *cells)
    return table


def draw() -> None:
    """Trains what the figure shows, and draws it."""
    from _systems_figure import draw

    shown = {}
    for name, (make, batch) in TASKS.items():
        task = make(0)
        trained = Trained(task, batch)
        shown[name] = (
            task.test,
            {r: trained.run(task, r, 0, FLAGS.steps)[0] for r in ("end to end", "local")},
        )
    draw(shown, FIGURE)
    print(f"Figure: {FIGURE}")


def main(argv):
    """Runs what is not in the JSON file yet and prints the tables, or draws the figure."""
    del argv
    chosen = FLAGS.tasks or list(TASKS)
    unknown = sorted(set(chosen) - set(TASKS))
    if unknown:
        raise app.UsageError(f"--tasks: {unknown} not among {list(TASKS)}")
    _shared.set_threads()
    if FLAGS.figure:
        return draw()
    path = pathlib.Path(FLAGS.output, "systems.json")
    results = _shared.Results(path, {"what": "shares of the test examples, mean IoU"})
    until = float("inf") if FLAGS.minutes is None else time.monotonic() + 60 * FLAGS.minutes
    trained: dict[str, Trained] = {}
    for seed in track(range(FLAGS.seeds), "seeds"):
        for name in chosen:
            make, batch = TASKS[name]
            keys = [
                {"task": name, "regime": regime, "seed": seed, "steps": FLAGS.steps}
                for regime in REGIMES
            ]
            left = [key for key in keys if results.find(**key) is None]
            if not left or time.monotonic() > until:
                continue
            task = make(seed)
            if name not in trained:
                trained[name] = Trained(task, batch)
            for key in left:
                if time.monotonic() > until:
                    break
                begin = time.perf_counter()
                found, decided = trained[name].run(task, key["regime"], seed, FLAGS.steps)
                run = {
                    "found": MEASURES[name](task.test, found),
                    "decisions": decided,
                    "seconds": round(time.perf_counter() - begin, 1),
                }
                results.put(run, **key)
    runs = [
        r for r in results.runs if r["steps"] == FLAGS.steps and r["seed"] < FLAGS.seeds
    ]
    Console(width=92).print(*(report(runs, name) for name in chosen), f"JSON: {path}")


if __name__ == "__main__":
    define_flags()
    app.run(main)

"""Three published breakdowns, in the settings in which they were published.

Shalev-Shwartz, Shamir & Shammah 2017, "Failures of Gradient-Based Deep Learning": tuples of
lines (section 3.1), stocks (3.2) and random parity (2.1), with their networks, losses,
optimizers, batch sizes and numbers of steps. "Decomposition" is, as there, the sum of both
losses for the lines and the intermediate label alone for the stocks; random parity has no
intermediate labels. What differs from theirs is said in the docstrings of the tasks.

| task | sizes | steps | batch | optimizer |
|---|---|---|---|---|
| lines | k = 1, 2, 3 | 20,000 | 200 | Adam .001, .9, .99, 1e-5 |
| stocks | k = 10, 1000, 2000 | 2,500 | 100 | Adam .1, .9, .99, 1e-5 |
| random parity | d = 5, 10, 30 | 50,000 | 128 | gradient descent .01 |

A run on lines ends early, after the first window of steps in which the accuracy on the
batches was above .75: they take long.

    python benchmarks/failures.py [--seeds=5] [--tasks=lines,stocks,random_parity]
        [--sizes=...] [--threads=1] [--minutes=...] [--output=benchmarks/results]
"""

import os
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _shared
import keras
import numpy as np
from absl import app, flags
from rich.console import Console
from rich.table import Table

import keras_e2e as e2e
from keras_e2e.experiments import tasks
from keras_e2e.utils.data import endless

FLAGS = flags.FLAGS


class Experiment(NamedTuple):
    """One of the three: what is trained, and how."""

    make: Callable[[int, int], tasks.Task]
    sizes: tuple[int, ...]
    decomposition: str | None
    optimizer: Callable[[], keras.Optimizer]
    batch: int
    steps: int
    window: int
    stops: bool = False


def adam(rate: float) -> keras.Optimizer:
    """Adam as the authors' code sets it."""
    return keras.optimizers.Adam(rate, beta_1=0.9, beta_2=0.99, epsilon=1e-5)


EXPERIMENTS = {
    "lines": Experiment(
        lambda k, seed: tasks.lines(k, n=500_000, seed=seed),
        (1, 2, 3),
        "deep_supervision",
        lambda: adam(1e-3),
        200,
        20_000,
        500,
        stops=True,
    ),
    "stocks": Experiment(
        # As many examples as are seen, so none is seen twice on average.
        lambda k, seed: tasks.stocks(k, n=250_000, seed=seed),
        (10, 1000, 2000),
        "local",
        lambda: adam(0.1),
        100,
        2_500,
        500,
    ),
    "random_parity": Experiment(
        lambda d, seed: tasks.random_parity(d, n=500_000, seed=seed),
        (5, 10, 30),
        None,
        lambda: keras.optimizers.SGD(0.01),
        128,
        50_000,
        1_000,
    ),
}


def define_flags() -> None:
    """Defines the flags; not on import, for the tests import this."""
    _shared.define_sweep_flags(seeds=5)
    flags.DEFINE_list("tasks", None, "Which tasks; by default all of them.")
    flags.DEFINE_list("sizes", None, "Which k or d; by default those of the paper.")


class StopAbove(keras.callbacks.Callback):
    """Ends a training after an epoch whose metric was above a mark."""

    def __init__(self, metric: str, mark: float):
        super().__init__()
        self.metric, self.mark = metric, mark

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = logs[self.metric] > self.mark


def train(
    experiment: Experiment, task: tasks.Task, mode: str, seed: int, steps: int
) -> dict[str, Any]:
    """Trains a task from a seed's weights.

    Returns:
        The metric on test examples; on the batches of each window of steps; the step at
        which that was above halfway between chance and 1 first, or None; the steps.
    """
    keras.utils.set_random_seed(seed)
    model, targets = task.build(seed), task.train.y
    if not task.cuts:
        (targets,) = targets.values()  # a stock model with one output takes no dict
    else:
        objectives = {
            n: e2e.objectives.IntermediateTarget(c.loss) for n, c in task.cuts.items()
        }
        model = e2e.modularize(model, objectives)
        model.training_mode = mode
        if mode != "end_to_end":
            targets = task.train.targets()
    metric = task.metrics[0].__name__
    model.compile(
        experiment.optimizer(), task.loss, metrics=task.metrics, steps_per_execution=100
    )
    batches = endless((task.train.x, targets), experiment.batch, seed)
    curve = model.fit(
        batches,
        steps_per_epoch=experiment.window,
        epochs=steps // experiment.window,
        shuffle=False,
        callbacks=[StopAbove(metric, task.success)] if experiment.stops else [],
        verbose=0,
    ).history[metric]
    y = task.test.y if task.cuts else next(iter(task.test.y.values()))
    test = model.evaluate(task.test.x, y, batch_size=500, verbose=0, return_dict=True)
    above = np.flatnonzero(np.array(curve) > task.success)
    return {
        "test": test[metric],
        "curve": [round(float(value), 4) for value in curve],
        "reached": experiment.window * int(above[0] + 1) if above.size else None,
        "steps": experiment.window * len(curve),
    }


def report(runs: list[dict]) -> Table:
    """A line for each task, size and way: the test metric of each seed, and how soon."""
    table = Table(title="Test metric of each seed", title_justify="left")
    for column in ("task", "size", "training"):
        table.add_column(column)
    for column in ("above halfway", "after steps (median)", "test metric"):
        table.add_column(column, justify="right")
    keys = dict.fromkeys((r["task"], r["size"], r["mode"]) for r in runs)
    for key in sorted(keys, key=lambda key: (list(EXPERIMENTS).index(key[0]), *key[1:])):
        found = [r for r in runs if (r["task"], r["size"], r["mode"]) == key]
        reached = [r["reached"] for r in found if r["reached"] is not None]
        table.add_row(
            key[0],
            str(key[1]),
            "end to end" if key[2] == "end_to_end" else "decomposition",
            f"{len(reached)}/{len(found)}",
            f"{np.median(reached):.0f}" if reached else "never",
            " ".join(f"{r['test']:.3f}" for r in found),
        )
    return table


def main(argv):
    """Runs what is not in the JSON file yet and prints the table."""
    del argv
    _shared.set_threads()
    chosen = FLAGS.tasks or list(EXPERIMENTS)
    unknown = sorted(set(chosen) - set(EXPERIMENTS))
    if unknown:
        raise app.UsageError(f"--tasks: {unknown} not among {list(EXPERIMENTS)}")
    path = pathlib.Path(FLAGS.output, "failures.json")
    results = _shared.Results(path, {"what": "test metric of each run"})
    until = _shared.deadline()
    for name in chosen:
        experiment = EXPERIMENTS[name]
        for seed in range(FLAGS.seeds):
            for size in map(int, FLAGS.sizes or experiment.sizes):
                modes = [m for m in (experiment.decomposition, "end_to_end") if m]
                keys = [
                    {"task": name, "size": size, "mode": mode, "seed": seed}
                    for mode in modes
                ]
                missing = [key for key in keys if results.find(**key) is None]
                if not missing or time.monotonic() > until:
                    continue
                task = experiment.make(size, seed)
                for key in missing:
                    keras.backend.clear_session()
                    begin = time.perf_counter()
                    run = train(experiment, task, key["mode"], seed, experiment.steps)
                    run["seconds"] = round(time.perf_counter() - begin, 1)
                    results.put(run, **key)
                    print(*key.values(), run["test"], run["reached"], flush=True)
    Console(width=110).print(
        report([run for run in results.runs if run["seed"] < FLAGS.seeds]),
        "Metric: accuracy; for stocks the share of situations whose hidden stock gets the "
        f"most money. JSON: {path}",
    )


if __name__ == "__main__":
    define_flags()
    app.run(main)

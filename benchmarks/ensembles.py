"""Independent predictors that vote, or one system trained jointly: which is worth more?

Small networks on Fashion-MNIST, all ways at equal total compute: each makes as many passes
of one example through one member, forward and back (the wide network, with as many weights
as all members together, makes fewer and larger ones). All members of a seed begin from the
same weights in each way; Adam, without early stopping. Measured on the 10,000 test images,
mean and standard deviation over the seeds.

| training | epochs | of |
|---|---|---|
| one member | members x epochs | a network 784-128-64-10 |
| one wide network | epochs | one with as many weights as all members |
| independent | epochs | each member on its own, in an order of its own |
| independent, bagged | epochs | each member on a bootstrap sample of its own |
| joint | epochs | the ensemble, end to end: the loss of the mean |
| joint and own | epochs | the ensemble by the loss of the mean and the mean of the losses |
| independent, then joint | epochs | half of them each |

    python benchmarks/ensembles.py [--seeds=5] [--members=4] [--epochs=10] [--threads=1]
        [--minutes=...] [--output=benchmarks/results]
"""

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

import keras_e2e as e2e
from keras_e2e.experiments import tasks
from keras_e2e.models.ensembles import bootstrap_indices, ensemble, scores
from keras_e2e.models.ensembles.evaluation import evaluate_ensemble

FLAGS = flags.FLAGS

UNITS, PIXELS, CLASSES = (128, 64), 784, 10
BATCH = 128
SINGLE = ("one member", "one wide network")
WAYS = (
    *SINGLE,
    "independent",
    "independent, bagged",
    "joint",
    "joint and own",
    "independent, then joint",
)


def define_flags() -> None:
    """Defines the flags; not on import, for the tests import this."""
    _shared.define_sweep_flags(seeds=5)
    flags.DEFINE_integer("members", 4, "Members of an ensemble.", lower_bound=2)
    flags.DEFINE_integer("epochs", 10, "Epochs of each member.", lower_bound=2)


def network(units: tuple[int, ...] = UNITS) -> keras.Model:
    """A classifier with hidden layers of these units."""
    hidden = [keras.layers.Dense(width, activation="relu") for width in units]
    last = keras.layers.Dense(CLASSES, activation="softmax")
    return keras.Sequential([keras.Input((PIXELS,)), *hidden, last], name="member")


def wide(members: int) -> keras.Model:
    """A network of one member's shape with at most as many weights as all of them."""

    def units(width: int) -> tuple[int, ...]:
        return tuple(width * each // UNITS[0] for each in UNITS)

    def weights(sizes: tuple[int, ...]) -> int:
        ins, outs = (PIXELS, *sizes), (*sizes, CLASSES)
        return sum((a + 1) * b for a, b in zip(ins, outs, strict=True))

    width = members * UNITS[0]
    while weights(units(width)) > members * weights(UNITS):
        width -= 1
    return network(units(width))


def fit(model: keras.Model, x: Any, y: Any, epochs: int, order: int) -> None:
    """Trains a network or an ensemble; `order` is the seed of the batches."""
    model.compile(
        keras.optimizers.Adam(1e-3),
        "sparse_categorical_crossentropy",
        steps_per_execution=10,
    )
    # Not the arrays: after a global seed Keras shuffles each epoch of each fit alike.
    batches = _shared.batches(x, y, BATCH, order)
    model.fit(batches, epochs=epochs, shuffle=False, verbose=0)


def train(
    way: str, x: np.ndarray, y: np.ndarray, members: int, epochs: int, seed: int
) -> keras.Model:
    """Trains one of the ways from a seed: a network or an ensemble."""
    keras.utils.set_random_seed(seed)
    if way == "one wide network":
        model = wide(members)
        fit(model, x, y, epochs, seed)
        return model
    each = [network() for _ in range(members)]
    if way == "one member":
        fit(each[0], x, y, members * epochs, seed)
        return each[0]
    model = ensemble(each)
    if way in ("joint", "joint and own"):
        if way == "joint and own":
            weights = dict.fromkeys(model.boundaries, 1.0 / members)
            model.training_mode = e2e.TrainingMode("deep_supervision", weights=weights)
        fit(model, x, y, epochs, seed)
        return model
    bags = [slice(None)] * members
    if way == "independent, bagged":
        bags = bootstrap_indices(len(x), members, seed)
    later = epochs // 2 if way == "independent, then joint" else 0
    for i, (one, rows) in enumerate(zip(each, bags, strict=True)):
        fit(one, x[rows], y[rows], epochs - later, order=1000 * (i + 1) + seed)
    if later:
        fit(model, x, y, later, seed)
    return model


def measure(model: keras.Model, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Scores of what was trained: error, NLL and ECE, and the diversity."""
    if not isinstance(model, e2e.ModularModel):
        return {"mean": scores(model.predict(x, batch_size=1000, verbose=0), y)}
    found = evaluate_ensemble(model, x, y, batch_size=1000)
    return {
        "each": list(found.members.values()),
        "mean": found.mean,
        "majority": found.majority,
        "disagreement": found.disagreement,
        "oracle error": found.oracle_error,
    }


def report(runs: list[dict]) -> Table:
    """Mean and deviation of each measure, of the seeds that all ways have."""
    by = {way: {r["seed"]: r for r in runs if r["training"] == way} for way in WAYS}
    seeds = sorted(set.intersection(*(set(found) for found in by.values())))
    table = Table(title=f"Test images, {len(seeds)} seeds", title_justify="left")
    table.add_column("training")
    columns = ("a member", "mean", "majority", "disagree", "none right", "ECE", "NLL")
    for column in columns:
        table.add_column(column, justify="right")
    for way in WAYS:
        found = [by[way][seed] for seed in seeds]
        joined = way not in SINGLE
        cells = [
            [100 * np.mean([m[0] for m in r["each"]]) for r in found if joined],
            [100 * r["mean"][0] for r in found],
            [100 * r["majority"][0] for r in found if joined],
            [100 * r["disagreement"] for r in found if joined],
            [100 * r["oracle error"] for r in found if joined],
            [100 * r["mean"][2] for r in found],
        ]
        nll = _shared.spread([r["mean"][1] for r in found], 3)
        table.add_row(way, *map(_shared.spread, cells), nll)
    return table


def main(argv):
    """Runs what is not in the JSON file yet and prints the table."""
    del argv
    _shared.set_threads()
    path = pathlib.Path(FLAGS.output, "ensembles.json")
    results = _shared.Results(path, {"what": "scores on test images: error, NLL, ECE"})
    until = _shared.deadline()
    (x, y), test = tasks.load_fashion_mnist()
    setting = {"members": FLAGS.members, "epochs": FLAGS.epochs}
    for seed in track(range(FLAGS.seeds), "seeds"):
        for way in WAYS:
            key = {"training": way, "seed": seed, **setting}
            if results.find(**key) is not None or time.monotonic() > until:
                continue
            keras.backend.clear_session()
            begin = time.perf_counter()
            model = train(way, x, y, FLAGS.members, FLAGS.epochs, seed)
            seconds = round(time.perf_counter() - begin, 1)
            results.put({**measure(model, *test), "seconds": seconds}, **key)
    runs = [
        r
        for r in results.runs
        if r["seed"] < FLAGS.seeds and all(r[k] == v for k, v in setting.items())
    ]
    Console(width=110).print(
        report(runs),
        f"{FLAGS.members} members, {FLAGS.epochs} epochs each. Error of a member, of "
        "the mean and of the majority, disagreement, no member right, and ECE in %; NLL in "
        f"nats. ECE and NLL are those of the mean. JSON: {path}",
    )


if __name__ == "__main__":
    define_flags()
    app.run(main)

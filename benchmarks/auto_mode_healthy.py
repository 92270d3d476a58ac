"""Does AutoMode leave healthy trainings alone?

The healthy settings of the zoo of `verdicts.py`, each boundary with an objective of its
own: reconstruction where no label is given, else prediction. Where AutoMode makes no
switch a run is that of plain end-to-end training, to the bit; where it makes one, the
setting is trained without AutoMode as well, and the losses on held-out examples stand side
by side. Goal: switches in at most 1 % of the runs.

    python benchmarks/auto_mode_healthy.py [--seeds=3] [--steps=1000] [--minutes=...]
"""

import os
import pathlib
import sys
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _shared
import keras
from _zoo_record import HeldOut
from _zoo_settings import SETTINGS
from absl import app, flags
from rich.console import Console
from rich.table import Table

import keras_e2e as e2e
from keras_e2e.callbacks import AutoMode

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags; not on import, for the tests import this."""
    _shared.define_sweep_flags(seeds=3)
    flags.DEFINE_integer("steps", 1000, "Training steps of a run.", lower_bound=1)
    flags.DEFINE_list("settings", None, "Which settings; by default all of them.")


def trained(name: str, seed: int, steps: int, auto: bool) -> dict[str, Any]:
    """Trains a setting; the loss on held-out examples, and AutoMode's decisions."""
    setting = SETTINGS[name]
    keras.backend.clear_session()
    keras.config.set_dtype_policy(setting.policy)
    keras.utils.set_random_seed(seed)
    data = setting.data(seed)
    objective = "reconstruction" if setting.loss is None else "prediction"
    model = e2e.modularize(setting.network(), setting.cuts, objective=objective)
    model.compile(setting.optimizer(), setting.loss)
    test = HeldOut(data, setting, (steps,))
    callback = AutoMode()
    keras.utils.set_random_seed(seed)
    model.fit(
        data.x,
        data.y,
        setting.batch,
        steps,  # epochs: `test` ends the run
        verbose=0,
        callbacks=[callback, test] if auto else [test],
    )
    keras.config.set_dtype_policy("float32")
    decisions = [[d.step, str(d.mode)] for d in callback.decisions] if auto else []
    return {"loss": test.losses[steps], "decisions": decisions}


def report(runs: list[dict], names: list[str]) -> Table:
    """How many runs were switched, and what it cost."""
    table = Table(title="Healthy settings under AutoMode", title_justify="left")
    for column in ("setting", "runs", "switched", "held-out loss, with and without"):
        table.add_column(column)
    count = switched = 0
    for name in names:
        mine = [r for r in runs if r["setting"] == name and r["auto"]]
        changed = {r["seed"]: r for r in mine if r["decisions"]}
        count, switched = count + len(mine), switched + len(changed)
        plain = {r["seed"]: r for r in runs if r["setting"] == name and not r["auto"]}
        pairs = [
            f"{run['loss']:.4f} / {plain[seed]['loss']:.4f}"
            for seed, run in changed.items()
            if seed in plain
        ]
        table.add_row(name, str(len(mine)), str(len(changed) or ""), ", ".join(pairs))
    table.add_row("all", str(count), str(switched), "")
    return table


def main(argv):
    """Runs what is not in the JSON file yet and prints the table."""
    del argv
    names = FLAGS.settings or list(SETTINGS)
    if unknown := sorted(set(names) - set(SETTINGS)):
        raise app.UsageError(f"--settings: {unknown} not among {list(SETTINGS)}")
    _shared.set_threads()
    about = {"what": "loss on held-out examples, and the decisions of AutoMode"}
    path = pathlib.Path(FLAGS.output, "auto_mode_healthy.json")
    results, until = _shared.Results(path, about), _shared.deadline()
    for seed in range(FLAGS.seeds):
        for name in names:
            for auto in (True, False):
                key = {"setting": name, "seed": seed, "steps": FLAGS.steps, "auto": auto}
                if results.find(**key) or time.monotonic() > until:
                    continue
                with_auto = results.find(**{**key, "auto": True})
                if not auto and not (with_auto and with_auto["decisions"]):
                    continue  # to the bit the run with AutoMode
                results.put(trained(name, seed, FLAGS.steps, auto), **key)
                print(results.find(**key), file=sys.stderr, flush=True)
    runs = [r for r in results.runs if r["steps"] == FLAGS.steps]
    Console(width=100).print(report(runs, names), f"JSON: {path}")


if __name__ == "__main__":
    define_flags()
    app.run(main)

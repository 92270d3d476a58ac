"""Does a training with AutoMode that is killed at random resume as if it had not been?

For `save_freq="epoch"` and 7 of `keras.callbacks.BackupAndRestore`, and either order of the
two callbacks, a training on the parity of four digits is killed (SIGKILL) at a random
moment, resumed and killed again, until the kills are spent; then it is resumed to its end.
Weights, optimizer, random states, mode, decisions, measurements and what the quantities
keep must equal those of a training that was never killed. Keras keeps no place within an
epoch: with 7 there is one epoch, and the data begin at the optimizer's iteration.

    python benchmarks/kill_resume.py [--kills=20] [--steps=600] [--seed=0]
"""

import contextlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags
from rich.console import Console
from rich.table import Table

FLAGS = flags.FLAGS

BATCH, PER_EPOCH, CUT = 64, 20, "symbols"


def define_flags() -> None:
    """Defines the flags; not on import, for the tests import this."""
    flags.DEFINE_integer("kills", 20, "Kills for each save_freq.", lower_bound=0)
    flags.DEFINE_integer("steps", 600, "Training steps.", lower_bound=PER_EPOCH)
    flags.DEFINE_integer("seed", 0, "Seed of the moments.")
    flags.DEFINE_string("output", "benchmarks/results", "Folder of the JSON file.")
    flags.DEFINE_string("worker", None, "For this script itself: the folder to train in.")
    flags.DEFINE_string("save_freq", "epoch", "For the worker.")
    flags.DEFINE_bool("backup_first", False, "For the worker: the order of the callbacks.")
    flags.DEFINE_float("seconds", None, "For the worker: when it kills itself.")


def data_and_model(scope: Any = None):
    """The examples, and a model that end-to-end training alone does not teach.

    Args:
        scope: The scope of the strategy to make the model in. Defaults to `None`.
    """
    import keras

    import keras_e2e as e2e
    from keras_e2e.experiments import tasks

    task = tasks.parity(4, n=3000, seed=0)
    keras.utils.set_random_seed(0)
    with scope or contextlib.nullcontext():
        model = e2e.modularize(task.build(0), {CUT: e2e.objectives.IntermediateTarget()})
        model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    return task.train.x, task.train.targets(), model


def batches(x: Any, y: dict, model: Any) -> Any:
    """Batches that begin at the optimizer's iteration, or at the epoch's first."""
    import keras
    import numpy as np

    class Data(keras.utils.PyDataset):
        first = 0

        def on_epoch_begin(self):
            whole = FLAGS.save_freq == "epoch"
            self.first = 0 if whole else int(np.asarray(model.optimizer.iterations))

        def __len__(self):
            return PER_EPOCH if FLAGS.save_freq == "epoch" else FLAGS.steps

        def __getitem__(self, index):
            rows = np.arange((self.first + index) * BATCH, (self.first + index + 1) * BATCH)
            rows = rows % 3000
            return x[rows], {name: values[rows] for name, values in y.items()}

    return Data()


def watch() -> Any:
    """Stops at the last step; sets the clock when the first one was traced."""
    import keras
    import numpy as np

    class Watch(keras.callbacks.Callback):
        clock = threading.Timer(
            FLAGS.seconds or 0.0, os.kill, (os.getpid(), signal.SIGKILL)
        )

        def on_train_batch_end(self, batch, logs=None):
            if FLAGS.seconds is not None and batch == 0 and not self.clock.ident:
                self.clock.start()
            if int(np.asarray(self.model.optimizer.iterations)) >= FLAGS.steps:
                self.model.stop_training = True

    return Watch()


def train(folder: pathlib.Path, number: int = 0, scope: Any = None, other: Any = None):
    """Trains, or resumes training; kills itself if it is told to.

    Args:
        folder: Where the backup is.
        number: Integer, that of this worker, which what it finds goes by. Defaults to 0.
        scope: As in `data_and_model`. Defaults to `None`.
        other: Another callback in place of AutoMode. Defaults to `None`.
    """
    import keras

    from keras_e2e.callbacks import AutoMode

    x, y, model = data_and_model(scope)
    auto = other or AutoMode(update_freq=2, warmup=10, patience=10)
    freq = FLAGS.save_freq if FLAGS.save_freq == "epoch" else int(FLAGS.save_freq)
    kept = keras.callbacks.BackupAndRestore(folder / "backup", freq)
    order = [kept, auto] if FLAGS.backup_first else [auto, kept]
    epochs = FLAGS.steps // PER_EPOCH if freq == "epoch" else 1
    data, options = batches(x, y, model), {"verbose": 0, "shuffle": False}
    begin = time.perf_counter()
    model.fit(data, epochs=epochs, callbacks=[*order, watch()], **options)
    (folder / f"seconds{number}").write_text(str(time.perf_counter() - begin))
    note(folder / f"done{number}", model, None if other else auto)


def note(path: pathlib.Path, model: Any, auto: Any) -> None:
    """Writes what must be the same after a crash."""
    import numpy as np

    variables, said = [*model.variables, *model.optimizer.variables], {}
    if auto is not None:
        kept = model._modular.recorder.kept
        variables += [v for row in kept for each in row for v in each]
        state = auto.get_state()
        placed = ("auto_mode", "next_epoch")  # where in an epoch: not kept by Keras
        config = {key: value for key, value in state.config.items() if key not in placed}
        decisions = [decision.get_config() for decision in auto.decisions]
        said = {"config": config, "decisions": decisions, "history": auto.history}
    np.savez(f"{path}.npz", *[np.asarray(v) for v in variables])
    path.with_suffix(".json").write_text(
        json.dumps({**said, "mode": str(model.training_mode)})
    )


def start(folder: pathlib.Path, freq: str, order: bool, seconds: float | None) -> str:
    """Runs a worker; what it wrote to the terminal. Raises if it failed."""
    command = [sys.executable, __file__, f"--worker={folder}", f"--save_freq={freq}"]
    command += [f"--backup_first={order}", f"--steps={FLAGS.steps}"]
    if seconds is not None:
        command.append(f"--seconds={seconds}")
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(found.stderr[-3000:])
    return "killed" if found.returncode else "done"


def compare(found: pathlib.Path, whole: pathlib.Path, number: int = 0) -> dict:
    """What of two trainings is equal, as the worker of a number has noted it."""
    import numpy as np

    name = f"done{number}"
    ours, theirs = (np.load(folder / f"{name}.npz") for folder in (found, whole))
    said = [json.loads((folder / f"{name}.json").read_text()) for folder in (found, whole)]
    same = [np.array_equal(ours[k], theirs[k], equal_nan=True) for k in theirs.files]
    texts = [{k: json.dumps(v) for k, v in each.items()} for each in said]
    decisions = said[0].get("decisions", ())
    return {
        "variables": f"{sum(same)}/{len(same)}",
        "equal": all(same) and ours.files == theirs.files and texts[0] == texts[1],
        "switches": [[d["step"], d["mode"]["stop"]] for d in decisions],
        **{k: texts[0][k] == texts[1][k] for k in texts[0]},
    }


def measure(freq: str, order: bool, kills: int, random_moment: random.Random) -> dict:
    """Kills and resumes; compares with the training that was never killed."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        whole, cut = folder / "whole", folder / "cut"
        whole.mkdir(), cut.mkdir()
        start(whole, freq, order, None)
        seconds = float((whole / "seconds0").read_text())
        times = kept = 0
        while times < kills:
            # A training begins anew when it is through.
            moment = random_moment.uniform(0.0, 0.7 * seconds)
            if start(cut, freq, order, moment) == "done":
                kept += 1  # it was through; begin another one
                if not compare(cut, whole)["equal"]:
                    break
                (cut / "done0.npz").unlink()
                continue
            times += 1
        if not (cut / "done0.npz").exists():
            start(cut, freq, order, None)
        return {"kills": times, "trainings": kept + 1, **compare(cut, whole)}


def main(argv):
    """Prints the table and writes the JSON file."""
    del argv
    if FLAGS.worker:
        train(pathlib.Path(FLAGS.worker))
        return
    table = Table(title="Killed and resumed, against never killed", title_justify="left")
    for column in ("save_freq", "first", "kills", "trainings", "switches", "variables"):
        table.add_column(column, justify="right")
    for column in ("decisions equal", "history equal", "all equal"):
        table.add_column(column)
    rows = []
    moments = random.Random(FLAGS.seed)
    for freq in ("epoch", "7"):
        halves = FLAGS.kills - FLAGS.kills // 2, FLAGS.kills // 2
        for order, kills in zip((False, True), halves, strict=True):
            found = measure(freq, order, kills, moments)
            print(freq, "backup first" if order else "AutoMode first", found, flush=True)
            rows.append({"save_freq": freq, "backup_first": order, **found})
            first = "BackupAndRestore" if order else "AutoMode"
            counts = [found["kills"], found["trainings"], len(found["switches"])]
            yes = ["yes" if found[k] else "NO" for k in ("decisions", "history", "equal")]
            table.add_row(freq, first, *map(str, counts), found["variables"], *yes)
    path = pathlib.Path(FLAGS.output, "kill_resume.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"seed": FLAGS.seed, "rows": rows}, indent=1))
    Console(width=110).print(table, f"JSON: {path}")


if __name__ == "__main__":
    define_flags()
    app.run(main)

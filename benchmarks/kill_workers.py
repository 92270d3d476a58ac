"""Do two workers, one of which is killed at random, resume as if it had not been?

As `kill_resume.py`, with a `MultiWorkerMirroredStrategy` of processes on this machine: for
`save_freq="epoch"` and 7, with AutoMode and with a TrainingModeScheduler, one of them is
killed (SIGKILL) at a random moment. The other is left to itself: it must come to its end
because the first is gone. Then both are started again, as a supervisor on each host does,
until the kills are spent, and once more. What each worker then has must equal what it has
after a training that was never killed.

    python benchmarks/kill_workers.py [--kills=10] [--steps=600] [--workers=2] [--seed=0]
"""

import contextlib
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import kill_resume
from absl import app, flags
from rich.console import Console
from rich.table import Table

FLAGS = flags.FLAGS
# Seconds after which a worker that is left alone counts as one that waits for ever.
LONGEST = 120


def define_flags() -> None:
    """Defines the flags; not on import, for the tests import this."""
    kill_resume.define_flags()
    flags.FLAGS.set_default("kills", 10)
    flags.DEFINE_integer("workers", 2, "How many workers.", lower_bound=2)
    flags.DEFINE_integer("number", 0, "For a worker: its number.")
    flags.DEFINE_list("addresses", None, "For a worker: the addresses of all.")
    flags.DEFINE_bool("scheduler", False, "For a worker: not AutoMode.")
    flags.DEFINE_list("only", None, "Which cases, such as epoch/AutoMode; by default all.")


def train(folder: pathlib.Path) -> None:
    """Trains as one of the workers, or resumes."""
    place = {"type": "worker", "index": FLAGS.number}
    cluster = {"worker": FLAGS.addresses}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": place})
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()

    from keras_e2e.callbacks import TrainingModeScheduler

    unit, size = "step", kill_resume.PER_EPOCH
    if FLAGS.save_freq == "epoch":
        unit, size = "epoch", 1
    modes = {0: "local", 5 * size: "end_to_end", 9 * size: "local", 17 * size: "end_to_end"}
    other = TrainingModeScheduler(modes, unit) if FLAGS.scheduler else None
    kill_resume.train(folder, FLAGS.number, strategy.scope(), other)


def addresses(count: int) -> str:
    """As many addresses of this machine that nobody listens on."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("localhost", 0))
        return ",".join(f"localhost:{probe.getsockname()[1]}" for probe in probes)


def run(
    folder: pathlib.Path, freq: str, scheduler: bool, victim: int, seconds: float | None
) -> float | None:
    """Runs all workers; the victim kills itself after so many seconds.

    Returns:
        The seconds that the last of the others took to come to its end; None if they had
        come to the end of the training before.

    Raises:
        RuntimeError: If workers fail of themselves, or wait longer than `LONGEST`.
    """
    command = [sys.executable, __file__, f"--worker={folder}", f"--save_freq={freq}"]
    command += [f"--steps={FLAGS.steps}", f"--addresses={addresses(FLAGS.workers)}"]
    command += [f"--scheduler={scheduler}"]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    workers = []
    with contextlib.ExitStack() as files:
        for number in range(FLAGS.workers):
            own = [f"--number={number}"]
            if number == victim and seconds is not None:
                own.append(f"--seconds={seconds}")
            log = files.enter_context(open(folder / f"log{number}", "w"))
            workers.append(
                subprocess.Popen([*command, *own], env=env, stdout=log, stderr=log)
            )
        try:
            status = workers[victim].wait()
            killed = time.perf_counter()
            ends = [w.wait(LONGEST) for w in workers]
        finally:
            for worker in workers:
                worker.kill()
    took, others = time.perf_counter() - killed, [s for s in ends if s != -signal.SIGKILL]
    if status == -signal.SIGKILL and any(others):
        return took
    if any(others):
        logs = [(folder / f"log{n}").read_text()[-2000:] for n in range(FLAGS.workers)]
        raise RuntimeError("\n\n".join(logs))
    return None


def equal_everywhere(cut: pathlib.Path, whole: pathlib.Path) -> list[dict]:
    """What is equal, by worker; what they noted is removed, so that they train anew.

    A worker that was killed when the training was over may have noted nothing.
    """
    noted = [n for n in range(FLAGS.workers) if (cut / f"done{n}.json").exists()]
    found = [kill_resume.compare(cut, whole, number) for number in noted]
    for number in noted:
        (cut / f"done{number}.json").unlink()
    return found


def measure(freq: str, scheduler: bool, moments: random.Random) -> dict:
    """Kills one worker after the other and resumes; compares with no kill."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        whole, cut = folder / "whole", folder / "cut"
        whole.mkdir(), cut.mkdir()
        run(whole, freq, scheduler, 0, None)
        longest = float((whole / "seconds0").read_text())
        victims: list[int] = []
        waited, found, trainings = [], [], 1
        while len(victims) < FLAGS.kills:
            victim = moments.randrange(FLAGS.workers)
            took = run(cut, freq, scheduler, victim, moments.uniform(0.0, 0.7 * longest))
            if took is None:  # they were through
                trainings += 1
                found += equal_everywhere(cut, whole)
                continue
            victims.append(victim)
            waited.append(took)
        if run(cut, freq, scheduler, 0, None) is None:
            found += equal_everywhere(cut, whole)
        return {
            "victims": victims,
            "waited": waited,
            "trainings": trainings,
            "equal": all(each["equal"] for each in found),
            "variables": sorted({each["variables"] for each in found}),
            "switches": found[-1]["switches"],
        }


def main(argv):
    """Prints the table and writes the JSON file."""
    del argv
    if FLAGS.worker:
        train(pathlib.Path(FLAGS.worker))
        return
    table = Table(title="One of several workers killed, or none", title_justify="left")
    for column in ("save_freq", "with", "kills", "of the chief", "trainings"):
        table.add_column(column)
    for column in ("others ended after", "variables", "all equal"):
        table.add_column(column)
    rows, moments = [], random.Random(FLAGS.seed)
    for freq in ("epoch", "7"):
        for scheduler in (False, True):
            name = "TrainingModeScheduler" if scheduler else "AutoMode"
            if FLAGS.only and f"{freq}/{name}" not in FLAGS.only:
                continue
            found = measure(freq, scheduler, moments)
            print(freq, name, found, flush=True)
            rows.append({"save_freq": freq, "with": name, **found})
            ends = [f"{edge(found['waited']):.0f}" for edge in (min, max)]
            counts = len(found["victims"]), found["victims"].count(0), found["trainings"]
            table.add_row(
                *(freq, name, *map(str, counts), " to ".join(ends) + " s"),
                *(", ".join(found["variables"]), "yes" if found["equal"] else "NO"),
            )
    path = pathlib.Path(FLAGS.output, "kill_workers.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"workers": FLAGS.workers, "rows": rows}, indent=1))
    Console(width=120).print(table, f"JSON: {path}")


if __name__ == "__main__":
    define_flags()
    app.run(main)

"""Runner and workers are killed at any moment: no result is lost or counted twice."""

import random
import subprocess
import sys
import textwrap
from collections import Counter

import by_hand
import psutil
import pytest

import keras_e2e
from keras_e2e.experiments.limits.presets import Grid
from keras_e2e.experiments.limits.store import Store

KILLS = 20
SECONDS = 0.1  # of a run
MEMORY = 10**7  # bytes that a run leaves behind, if workers are to grow
GRID = Grid(k=(4,), seeds=400)

# Instead of the package: its parts, without TensorFlow, which takes long to import.
PACKAGE = f"__path__.append({keras_e2e.__path__[0]!r})"

FAKE = f"""
import os, signal, time
from keras_e2e.experiments.limits import cluster

HELD = []

def value(setting):
    return {{"accuracy": int(setting.key(), 16) / 2**64}}

def run(setting):
    with open(os.environ["BEGUN"], "a") as file:
        file.write(f"{{setting.key()}} {{os.getpid()}}\\n")
    if "GROWTH" in os.environ:
        cluster.GROWTH = int(os.environ["GROWTH"])
        HELD.append(bytes([1]) * {MEMORY})
    if str(setting.seed) == os.environ.get("DEADLY"):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep({SECONDS})
    return value(setting)
"""

RUNNER = """
import sys
import fake
from keras_e2e.experiments.limits.cluster import connected
from keras_e2e.experiments.limits.presets import Grid
from keras_e2e.experiments.limits.store import Store
from keras_e2e.experiments.limits.sweep import sweep

if __name__ == "__main__":
    path, address, seeds, workers = sys.argv[1:]
    with Store(path) as store, connected(address or None, int(workers)) as client:
        settings = Grid(k=(4,), seeds=int(seeds)).settings()
        failures = sweep(settings, store, client, run=fake.run)
    sys.exit(len(failures))
"""


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Files of a runner that needs no TensorFlow; its runs note where they begin."""
    (tmp_path / "keras_e2e").mkdir()
    (tmp_path / "keras_e2e" / "__init__.py").write_text(PACKAGE)
    (tmp_path / "fake.py").write_text(textwrap.dedent(FAKE))
    (tmp_path / "runner.py").write_text(textwrap.dedent(RUNNER))
    (tmp_path / "begun").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("BEGUN", str(tmp_path / "begun"))
    return tmp_path


def runner(bench, address, seeds, workers=2):
    arguments = [bench / "results", address, str(seeds), str(workers)]
    with open(bench / "shown", "w") as shown:
        return subprocess.Popen(
            [sys.executable, bench / "runner.py", *arguments],
            stdout=shown,
            stderr=subprocess.STDOUT,
        )


def begun(bench):
    return (bench / "begun").read_text().split()[::2]


def kept(bench):
    with Store(bench / "results") as store:
        return {setting.key() for setting, _ in store.rows(GRID.settings())}


def processes_of_workers(parent):
    """The processes that compute, below the one that watches over them."""
    below = psutil.Process(parent.pid).children(recursive=True)
    return [process for process in below if "spawn_main" in " ".join(process.cmdline())]


def check(bench, seeds):
    """Each setting stands there once, with the value that one process gives it."""
    names: dict = {}
    exec(FAKE, names)
    settings = Grid(k=(4,), seeds=seeds).settings()
    with Store(bench / "results") as store:
        assert not store.notices
        assert len(store) == len(settings)
        expected = [(setting, names["value"](setting)) for setting in settings]
        assert store.rows(settings) == expected


@pytest.mark.slow
def test_nothing_is_lost_or_counted_twice(bench):
    draw = random.Random(7)
    kills = {"runner": 0, "worker": 0}
    stored, marks = [set()], [0]  # at each kill of the runner
    with by_hand.cluster(bench, workers=2) as (address, _, workers):
        running = runner(bench, address, GRID.seeds)
        while sum(kills.values()) < KILLS:
            enough = len(begun(bench)) + draw.randint(1, 20)
            by_hand.until(
                lambda enough=enough, running=running: (
                    len(begun(bench)) >= enough or running.poll() is not None
                )
            )
            assert running.poll() is None, "The sweep ended before the last kill."
            if draw.random() < 0.5:
                running.kill()
                running.wait()
                kills["runner"] += 1
                stored.append(kept(bench))
                marks.append(len(begun(bench)))
                running = runner(bench, address, GRID.seeds)
            else:
                found = processes_of_workers(workers)
                if found:
                    draw.choice(found).kill()
                    kills["worker"] += 1
        assert min(kills.values()) >= 5
        assert running.wait(timeout=1800) == 0
    check(bench, GRID.seeds)
    found = begun(bench)
    for before, after, mark in zip(stored, stored[1:], marks[1:], strict=False):
        assert before <= after
        assert not after & set(found[mark:]), "What was stored was begun again."
    # Only what was on its way is begun again, not all since the kill before.
    assert 0 < len(found) - GRID.seeds <= 8 * KILLS


@pytest.mark.slow
def test_workers_of_its_own_end_with_a_runner_that_is_killed(bench):
    running = runner(bench, "", 60)
    by_hand.until(lambda: len(begun(bench)) > 4)
    workers = processes_of_workers(running)
    assert len(workers) == 2
    running.kill()
    running.wait()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    assert runner(bench, "", 60).wait(timeout=1800) == 0
    check(bench, 60)


@pytest.mark.slow
def test_a_run_that_kills_its_workers_is_named_and_the_others_go_on(bench, monkeypatch):
    monkeypatch.setenv("DEADLY", "1")
    running = runner(bench, "", 4)
    assert running.wait(timeout=1800) == 1
    shown = (bench / "shown").read_text()
    assert "seed=1: 4 workers died with it" in " ".join(shown.split())
    settings = Grid(k=(4,), seeds=4).settings()
    with Store(bench / "results") as store:
        assert [s.seed for s, _ in store.rows(settings)] == [0, 2, 3]
    monkeypatch.delenv("DEADLY")
    assert runner(bench, "", 4).wait(timeout=1800) == 0
    check(bench, 4)


@pytest.mark.slow
@pytest.mark.sampled(1)
@pytest.mark.parametrize(("workers", "seeds"), [(1, 6), (2, 10)])
def test_workers_that_have_grown_start_anew_between_runs(
    bench, monkeypatch, workers, seeds
):
    monkeypatch.setenv("GROWTH", str(5 * MEMORY // 2))
    assert runner(bench, "", seeds, workers).wait(timeout=1800) == 0
    check(bench, seeds)
    assert len(begun(bench)) == seeds, "A run was begun twice."
    processes = Counter((bench / "begun").read_text().split()[1::2])
    assert max(processes.values()) <= 4  # three after its first


@pytest.mark.slow
def test_a_scheduler_that_goes_away_is_said(bench):
    with by_hand.cluster(bench, workers=1) as (address, scheduler, _):
        running = runner(bench, address, GRID.seeds)
        by_hand.until(lambda: len(begun(bench)) > 4)
        by_hand.kill(scheduler)
        assert running.wait(timeout=1800) == 1
    assert "CommandError: The scheduler is gone" in (bench / "shown").read_text()
    with Store(bench / "results") as store:
        # Four were done; how many of them had come in, the load of the machine decides.
        assert len(store) > 0

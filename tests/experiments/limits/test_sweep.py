"""The runner of sweeps, on workers in this process and on others started by hand."""

import io
import re

import pytest
from distributed import Client, LocalCluster
from rich.console import Console

from keras_e2e.experiments import progress
from keras_e2e.experiments.command import CommandError
from keras_e2e.experiments.limits import cluster
from keras_e2e.experiments.limits.presets import Grid
from keras_e2e.experiments.limits.setting import Setting
from keras_e2e.experiments.limits.store import Store
from keras_e2e.experiments.limits.sweep import sweep, words

SETTINGS = Grid(k=(4,), seeds=6).settings()
BEGUN = []
LOCAL = {
    "threads_per_worker": 1,
    "processes": False,  # threads of this one need not start
    "dashboard_address": "127.0.0.1:0",
}


def fake(setting):
    return {"accuracy": setting.seed / 10}


def noted(setting):
    BEGUN.append(setting)
    return fake(setting)


@pytest.fixture(scope="module")
def client():
    """Two workers."""
    with LocalCluster(n_workers=2, **LOCAL) as local, Client(local) as client:
        yield client


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "results.sqlite") as store:
        yield store


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200)


def test_a_sweep_stores_each_run_and_shows_how_far_it_is(client, store, console):
    assert sweep(SETTINGS, store, client, run=fake, console=console) == []
    assert store.rows(SETTINGS) == [(setting, fake(setting)) for setting in SETTINGS]
    assert "Runs" in console.file.getvalue() and "6/6" in console.file.getvalue()


def test_where_there_is_no_terminal_a_line_now_and_then_says_so(monkeypatch, console):
    monkeypatch.setattr(progress, "BETWEEN_LINES", 0.0)
    with progress.BarOrLines(console=console) as bar:
        task = bar.add_task("Runs", total=3)
        for _ in range(3):
            bar.advance(task)
    lines = [line.strip() for line in console.file.getvalue().splitlines()]
    for done, line in enumerate(lines[:2], start=1):
        assert re.fullmatch(rf"Runs: {done} of 3 after \d+ s", line)
    assert lines[2].startswith("Runs") and len(lines) == 3


def test_only_what_is_missing_is_run_and_once(client, store, console):
    BEGUN.clear()
    sweep(SETTINGS[:2], store, client, run=noted, console=console)
    sweep([*SETTINGS, *SETTINGS], store, client, run=noted, console=console)
    assert sorted(BEGUN, key=lambda setting: setting.seed) == SETTINGS


def test_a_run_that_raises_stops_no_other_and_is_tried_again(client, store, console):
    def fragile(setting):
        if setting.seed == 2:
            raise RuntimeError("no [luck]")
        return fake(setting)

    # Its workers may hold what others computed under the key of the setting.
    held = client.submit(fake, SETTINGS[2], key=f"run-{SETTINGS[2].key()}")
    held.result()
    (failure,) = sweep(SETTINGS, store, client, run=fragile, console=console)
    assert failure == (SETTINGS[2], "RuntimeError: no [luck]")
    shown = "task=parity k=4 regime=end_to_end seed=2: RuntimeError: no [luck]"
    assert shown in console.file.getvalue()
    assert len(store) == 5 and SETTINGS[2] not in store
    assert sweep(SETTINGS, store, client, run=fake, console=console) == []
    assert len(store) == 6


def test_a_result_that_is_no_json_is_a_failure(client, store, console):
    def infinite(setting):
        return {"accuracy": float("inf")}

    (failure,) = sweep(SETTINGS[:1], store, client, run=infinite, console=console)
    assert "its result cannot be stored" in failure.why and len(store) == 0


def test_a_full_disk_ends_the_sweep_with_a_message(client, store, console):
    store._connection.execute("PRAGMA max_page_count = 3")
    large = lambda setting: {"curve": [0.5] * 10000}  # noqa: E731
    with pytest.raises(
        CommandError, match="cannot be read or written: database or disk is"
    ):
        sweep(SETTINGS, store, client, run=large, console=console)


def test_words_leave_out_what_is_as_by_default():
    assert words(Setting("parity", 4, "auto")) == "task=parity k=4 regime=auto"
    assert words(Setting("parity", 4, "auto", labels=10, seed=3)).endswith(
        "labels=10 seed=3"
    )


def test_no_scheduler_at_the_address_is_said(monkeypatch):
    monkeypatch.setattr(cluster, "TIMEOUT", 0.5)
    for address in ("tcp://127.0.0.1:9", "nonsense://x"):
        with (
            pytest.raises(CommandError, match=f"--scheduler={address}: no Dask scheduler"),
            cluster.connected(address),
        ):
            pass

"""The command `keras-e2e limits`: what its flags mean, and what it refuses."""

import contextlib
import json
import sqlite3
import sys

import by_hand
import pytest

from keras_e2e.experiments import cli
from keras_e2e.experiments.limits import arguments, cluster, command, report, sweep
from keras_e2e.experiments.limits.presets import FIRST_TUNING_SEED, PRESETS
from keras_e2e.experiments.limits.setting import Setting

TINY = ["--k=1", "--regimes=local", "--seeds=2", "--steps=200", "--examples=500"]


def call(flags):
    """The exit status of the command."""
    return cli.main(["limits", *flags])


def wanted(*flags):
    values = arguments.flag_values()
    values(["keras-e2e limits", *flags])
    return arguments.wanted(values)


@pytest.fixture
def fake(monkeypatch):
    """Runs of no time in place of a cluster; what was run, and what was reported on."""
    ran, reported = [], []

    def run(settings, store, client, *, title="Runs"):
        missing = [setting for setting in settings if setting not in store]
        ran.extend(missing)
        for setting in missing:
            if setting.seed != 13:
                store.add(setting, {"validation": setting.learning_rate, "accuracy": 0.5})
        return [setting for setting in missing if setting.seed == 13]

    monkeypatch.setattr(sweep, "sweep", run)
    monkeypatch.setattr(cluster, "connected", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(report, "write", lambda rows, folder: reported.append(rows))
    return ran, reported


# What the flags ask for.


def test_flags_make_all_combinations_seed_by_seed():
    found = wanted("--k=2,3", "--regimes=deep_supervision,auto", "--seeds=2", "--steps=600")
    assert len(found) == 8 and len(set(found)) == 8
    assert found[:3] == [
        Setting("parity", 2, "deep_supervision", steps=600),
        Setting("parity", 2, "deep_supervision", seed=1, steps=600),
        Setting("parity", 2, "auto", steps=600),
    ]


def test_every_flag_of_a_run_reaches_its_setting():
    (found,) = wanted(
        *(
            "--task=sum_mod_10",
            "--k=2",
            "--data=fashion_mnist",
            "--regimes=deep_supervision",
        ),
        *("--labels=100", "--seeds=1", "--steps=400", "--batch_size=32"),
        *("--learning_rate=0.01", "--examples=700"),
    )
    assert found == Setting(
        "sum_mod_10", 2, "deep_supervision", "fashion_mnist", 100, 0, 400, 32, 0.01, 700
    )


def test_what_is_the_same_run_is_run_once():
    assert len(wanted("--k=3,3", "--seeds=1")) == len(wanted("--k=3", "--seeds=1"))
    # End to end no label is used, so how many there are makes no other run.
    found = wanted(
        "--k=3", "--seeds=1", "--labels=10,all", "--regimes=end_to_end,deep_supervision"
    )
    assert [(s.regime, s.labels) for s in found] == [
        ("end_to_end", None),
        ("deep_supervision", 10),
        ("deep_supervision", None),
    ]


def test_without_flags_it_is_the_quick_preset():
    found = wanted()
    assert found == wanted("--preset=quick") and len(found) == 100
    assert {setting.k for setting in found} == {3, 4}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_can_be_run(preset):
    found = wanted(f"--preset={preset}")
    assert len({setting.key() for setting in found}) == len(found)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--k=0"], "--k=0: expected an integer of at least 1"),
        (["--k=x"], "--k=x: expected numbers, as in --k=1,4"),
        (["--k=-1"], "--k=-1: expected numbers"),
        (["--k="], "--k=: expected numbers"),
        (["--task=sudoku"], "--task=sudoku: expected one of parity"),
        (["--regimes=gredy"], "Did you mean 'greedy'?"),
        (["--regimes=magic"], "--regimes=magic: expected one of end_to_end"),
        (["--regimes=auto,"], "--regimes=auto,: expected names"),
        (["--data=cats"], "--data=cats: expected one of digits"),
        (
            ["--task=parity_by_reward", "--steps=4096"],
            "--regimes='greedy': expected one of",
        ),
        (["--labels=10", "--regimes=independent"], "--labels=10: independent trains on"),
        (["--labels=few"], "--labels=few: expected numbers, or all"),
        (["--seeds=many"], "flag --seeds=many"),
        (["--seeds=0"], "flag --seeds=0"),
        ([f"--seeds={FIRST_TUNING_SEED + 1}"], "flag --seeds"),
        (["--steps=150"], "--steps=150: expected a multiple of 100"),
        (["--learning_rate=0"], "learning_rate=0.0"),
        (["--preset=slow"], "quick"),
        (["--epochs=3"], "unknown flag --epochs."),
        (["all"], "takes flags alone, found 'all'"),
        (["--scheduler=tcp://x:1", "--workers=2"], "Leave one of the two out"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(
    flags, message, tmp_path, capsys
):
    folder = tmp_path / "out"
    assert call([*flags, f"--output_dir={folder}"]) == 2
    assert message in capsys.readouterr().err
    assert not folder.exists()


# What is done.


def test_the_same_command_goes_on_and_reports_on_all(fake, tmp_path):
    ran, reported = fake
    out = f"--output_dir={tmp_path / 'out'}"
    assert call([*TINY, out]) == 0
    assert len(ran) == 2 and [s for s, _ in reported[0]] == ran
    assert call([*TINY, "--seeds=3", out]) == 0
    assert [setting.seed for setting in ran] == [0, 1, 2]
    assert [setting.seed for setting, _ in reported[1]] == [0, 1, 2]


def test_nothing_is_started_where_nothing_is_missing(fake, tmp_path, monkeypatch):
    out = f"--output_dir={tmp_path}"
    assert call([*TINY, out]) == 0
    monkeypatch.setattr(cluster, "connected", None)
    assert call([*TINY, out]) == 0
    assert len(fake[1]) == 2


def test_runs_that_fail_show_in_the_exit_status_and_the_others_are_reported(
    fake, tmp_path, capsys
):
    assert call([*TINY, "--seeds=14", f"--output_dir={tmp_path}"]) == 1
    assert "1 of the runs failed" in capsys.readouterr().err
    assert len(fake[1][0]) == 13


def test_tuned_rates_are_used_and_the_runs_of_tuning_not_reported(fake, tmp_path, capsys):
    ran, reported = fake
    flags = [*TINY, "--tune", "--trials=3", f"--output_dir={tmp_path}"]
    assert call(flags) == 0
    tuning = [setting for setting in ran if setting.seed >= FIRST_TUNING_SEED]
    best = max(setting.learning_rate for setting in tuning)
    assert len(tuning) == 3 * 2 and best > 1e-3
    assert [setting for setting, _ in reported[0]] == ran[6:]
    assert [(s.seed, s.learning_rate) for s in ran[6:]] == [(0, best), (1, best)]
    assert f"learning_rate={best}" in capsys.readouterr().out
    # An interrupted tuning goes on: what is stored is not run again.
    assert call(flags) == 0 and len(ran) == 8


def test_a_damaged_file_is_reported_and_another_version_refused(fake, tmp_path, capsys):
    (tmp_path / command.RESULTS).write_bytes(b"no database" * 100)
    assert call([*TINY, f"--output_dir={tmp_path}"]) == 0
    assert "was damaged. It is kept as" in capsys.readouterr().err
    with contextlib.closing(sqlite3.connect(tmp_path / command.RESULTS)) as connection:
        connection.execute("PRAGMA user_version = 99")
    assert call([*TINY, f"--output_dir={tmp_path}"]) == 2
    assert "has the version 99" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_refused(fake, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert call([*TINY, f"--output_dir={tmp_path}/file/out"]) == 2
    assert (
        "file/out: no such folder can be made (Not a directory)" in capsys.readouterr().err
    )


def test_an_interrupt_says_that_the_same_command_goes_on(
    fake, tmp_path, capsys, monkeypatch
):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "sweep", interrupted)
    assert call([*TINY, f"--output_dir={tmp_path}"]) == 130
    assert "the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["distributed", "optuna"])
def test_a_missing_package_is_named(tmp_path, capsys, monkeypatch, package):
    for module in ("cluster", "sweep", "tuning"):
        monkeypatch.delitem(
            sys.modules, f"keras_e2e.experiments.limits.{module}", raising=False
        )
        monkeypatch.delattr(f"keras_e2e.experiments.limits.{module}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    assert call([*TINY, "--tune", f"--output_dir={tmp_path}"]) == 2
    message = capsys.readouterr().err
    assert repr(package) in message and "pip install 'keras-e2e[limits]'" in message


@pytest.mark.slow
def test_workers_started_by_hand_give_the_numbers_of_one_process(tmp_path):
    found = []
    with by_hand.cluster(tmp_path, workers=2) as (address, *_):
        for where in (f"--scheduler={address}", "--workers=1"):
            folder = tmp_path / where[2:6]
            assert call([*TINY, where, f"--output_dir={folder}"]) == 0
            found.append(json.loads((folder / "runs.json").read_text()))
    for run in (*found[0], *found[1]):
        assert run["result"]["spent"].pop("seconds") > 0
    assert found[0] == found[1] and len(found[0]) == 2


def test_no_scheduler_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cluster, "TIMEOUT", 0.5)
    flags = [*TINY, "--scheduler=tcp://127.0.0.1:9", f"--output_dir={tmp_path}"]
    assert call(flags) == 2
    assert "no Dask scheduler answers there" in capsys.readouterr().err

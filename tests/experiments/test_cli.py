"""The keras-e2e command, as a user calls it."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from tensorboard.backend.event_processing import event_accumulator

TINY = ["--k=1", "--epochs=2", "--tuples=1920", "--batch_size=64", "--every=1"]
REGIMES = ["end to end", "deep supervision", "local", "local, then end to end"]


def call(*arguments, cwd=None):
    """Runs the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "keras_e2e", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100", "MPLBACKEND": "agg"},
        timeout=300,
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A small demo run: its process and its folder."""
    folder = tmp_path_factory.mktemp("demo")
    return call("demo", *TINY, "--output_dir=out", cwd=folder), folder / "out"


def test_the_demo_prints_a_table_and_a_verdict(demo):
    process, _ = demo
    assert process.returncode == 0, process.stderr[-2000:]
    for regime in REGIMES:
        assert regime in process.stdout
    assert "k=1" in process.stdout
    assert "gradient SNR" in process.stdout


def test_the_demo_writes_what_it_measured(demo):
    process, folder = demo
    found = json.loads((folder / "demo.json").read_text())
    assert [run["regime"] for run in found["runs"]] == REGIMES
    for run in found["runs"]:
        assert f"{run['accuracy']:.3f}" in process.stdout
        assert len(run["losses"]) == len(run["snrs"]) == len(run["steps"]) > 0
    # 2 epochs of 30 steps, so the schedule's change comes with step 30.
    assert [run["switch"] for run in found["runs"]] == [None, None, None, 30]
    assert (folder / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_the_demo_logs_each_run_for_tensorboard(demo):
    _, folder = demo
    logs = sorted(path.name for path in (folder / "logs").iterdir())
    assert logs == [
        "k1_deep_supervision",
        "k1_end_to_end",
        "k1_local",
        "k1_local_then_end_to_end",
    ]
    for path in (folder / "logs").iterdir():
        events = event_accumulator.EventAccumulator(str(path / "modules")).Reload()
        tags = events.Tags()["tensors"]
        assert any(tag.startswith("e2e_gradient_snr/") for tag in tags)


def test_the_demo_can_be_reported_on(demo):
    _, folder = demo
    process = call("report", "logs", cwd=folder)
    assert process.returncode == 0, process.stderr[-2000:]
    assert process.stdout == "report.html: 4 runs.\n"
    assert "k1_local_then_end_to_end/modules" in (folder / "report.html").read_text()


def test_the_demo_gives_the_same_numbers_twice(demo, tmp_path):
    _, folder = demo
    call("demo", *TINY, f"--output_dir={tmp_path}")
    first, second = (
        [
            (run["accuracy"], run["losses"], run["snrs"])
            for run in json.loads(pathlib.Path(path, "demo.json").read_text())["runs"]
        ]
        for path in (folder, tmp_path)
    )
    assert first == second


def test_help_names_each_flag():
    process = call("--help")
    assert process.returncode == 0
    for flag in (
        "--data",
        "--k",
        "--epochs",
        "--every",
        "--seed",
        "--output_dir",
        "--output:",
        "--preset",
        "--regimes",
        "--scheduler",
    ):
        assert flag in process.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Expected the command 'demo', 'report' or 'limits', found nothing"),
        (["demo", "--k=0,x"], "--k=0,x: expected numbers from 1 on"),
        (["demo", "--epochs=0"], "epochs"),
        (["demo", "--data=cats"], "digits"),
        (["--k=1", "limits"], "limits comes first and its flags after it"),
        (["limits", "--k=0"], "k=0: expected 1 or more"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(
    arguments, message, tmp_path
):
    process = call(*arguments, cwd=tmp_path)
    assert process.returncode != 0
    assert message in process.stdout + process.stderr
    assert "Traceback" not in process.stderr
    assert not list(tmp_path.iterdir())

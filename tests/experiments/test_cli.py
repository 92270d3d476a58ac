"""The keras-e2e command, as a user calls it."""

import importlib.metadata
import json
import logging
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import warnings

import absl.logging
import keras
import pytest
from keras import layers
from tensorboard.backend.event_processing import event_accumulator

from keras_e2e.experiments import cli
from keras_e2e.experiments import demo as demo_module
from keras_e2e.experiments.demo_settings import Settings

TINY = ["--k=1", "--epochs=2", "--tuples=1920", "--batch_size=64", "--update_freq=1"]
REGIMES = ["end to end", "deep supervision", "local", "local, then end to end"]


def call(*arguments, cwd=None):
    """Runs the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "keras_e2e", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100", "MPLBACKEND": "agg"},
        timeout=1800,
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A small demo run: its process and its folder."""
    folder = tmp_path_factory.mktemp("demo")
    return call("demo", *TINY, "--output_dir=out", cwd=folder), folder / "out"


@pytest.mark.slow
def test_the_demo_prints_a_table_and_a_verdict(demo):
    process, _ = demo
    assert process.returncode == 0, process.stderr[-2000:]
    for regime in REGIMES:
        assert regime in process.stdout
    assert "k=1" in process.stdout
    assert "What end-to-end training made of the module 'symbols'" in process.stdout
    assert re.search("k=1 .*(Healthy|Converged|Unclear)", process.stdout)
    # As it goes, also where there is no terminal to draw a progress bar in.
    assert re.search(r"^k=1 local: test 0\.\d+ after \d+ s$", process.stdout, re.MULTILINE)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_demo_can_be_reported_on(demo):
    _, folder = demo
    process = call("report", "logs", cwd=folder)
    assert process.returncode == 0, process.stderr[-2000:]
    assert process.stdout == "report.html: 4 runs.\n"
    assert "k1_local_then_end_to_end/modules" in (folder / "report.html").read_text()


@pytest.mark.slow
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


def test_the_terminal_is_quiet_and_errors_are_the_last_line(capsys, monkeypatch):
    fail = "first line\n\n  second line"

    def run(values, words):
        logging.getLogger("tensorflow").warning("a log")
        absl.logging.warning("a log")
        warnings.warn("of\nours", UserWarning, stacklevel=1)
        raise RuntimeError(fail)

    failing = cli.COMMANDS["demo"]._replace(run=run)
    monkeypatch.setitem(cli.COMMANDS, "demo", failing)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", _as_python_shows)
        assert cli.main(["demo"]) == 1
        quiet = capsys.readouterr().err
        assert cli.main(["demo", "--verbose"]) == 1
        loud = capsys.readouterr().err
    last = "keras-e2e demo: RuntimeError: first line second line (--verbose shows where.)"
    assert quiet.splitlines() == ["Warning: of ours", last]
    assert "Traceback" in loud and loud.splitlines()[-1] == last


def _as_python_shows(message, category, filename, lineno, file=None, line=None):
    """What `warnings.showwarning` does; pytest has one of its own."""
    print(
        warnings.formatwarning(message, category, filename, lineno), end="", file=sys.stderr
    )


COMPLETED = {
    "": {"diagnose", "report", "memory", "demo", "limits", "completion"},
    "dia": {"diagnose"},
    "limits --pre": {"--preset="},
    "limits --preset = p": {"paper"},
    "limits --preset =": {"paper", "quick"},
    "demo --ji": {"--jit"},
    "report lo": set(),  # files are the shell's
}


def test_bash_completes_commands_flags_and_values(capsys):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash")
    assert cli.main(["completion"]) == 0
    lines = [capsys.readouterr().out, "compopt() { :; }"]
    for typed in COMPLETED:
        words = ["keras-e2e", *(typed.split() or [""])]
        lines += [
            f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}",
            'COMPREPLY=(); _keras_e2e; echo "${COMPREPLY[*]}"',
        ]
    run = subprocess.run([bash, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert run.stderr == ""
    for (typed, expected), found in zip(
        COMPLETED.items(), run.stdout.splitlines(), strict=True
    ):
        assert expected <= set(found.split()), typed
        assert expected or not found


def test_a_reader_that_goes_away_is_no_error():
    code = "import sys; from keras_e2e.experiments.cli import main; sys.exit(main())"
    read, write = os.pipe()
    os.close(read)
    run = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv[0] = 'keras-e2e'; " + code, "--help"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        timeout=600,
    )
    os.close(write)
    assert run.returncode == 141 and run.stderr == ""


HEAVY = ("keras", "tensorflow", "jax", "tensorboard", "matplotlib", "dask")


def call_noting_imports(*arguments):
    """Runs the command; what it printed, its exit status, and the packages loaded."""
    code = (
        "import sys; sys.argv[0] = 'bin/keras-e2e'\n"
        "from keras_e2e.experiments.cli import main\n"
        "status = main()\n"
        "print('loaded', *{name.split('.')[0] for name in sys.modules})\n"
        "sys.exit(status)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=600,
    )
    printed, _, loaded = process.stdout.rpartition("loaded ")
    return printed, process.stderr, process.returncode, set(loaded.split())


# Flags that no other command has.
FLAGS = {
    "diagnose": {"--boundaries", "--mode", "--loss", "--optimizer"},
    "demo": {"--epochs", "--tuples", "--[no]jit"},
    "report": {"--output"},
    "memory": {"--modules", "--balance", "--input_shape"},
    "limits": {"--preset", "--regimes", "--scheduler", "--[no]tune"},
}


@pytest.mark.parametrize("command", FLAGS)
def test_help_of_a_command_has_its_flags_alone_and_loads_no_keras(command):
    printed, _, status, loaded = call_noting_imports(command, "--help")
    assert status == 0 and not loaded & set(HEAVY)
    found = re.findall(r"^  (--\S+):", printed, re.MULTILINE)
    for other, flags in FLAGS.items():
        assert flags & set(found) == (flags if other == command else set())
    assert "--[no]verbose" in found


@pytest.mark.parametrize("flag", ["--help", "-h", "help", "--version", "version"])
def test_help_and_version_of_the_whole_are_short_and_load_no_keras(flag):
    printed, _, status, loaded = call_noting_imports(flag)
    assert status == 0 and not loaded & set(HEAVY)
    assert len(printed.splitlines()) < 28
    if "version" in flag:
        assert printed == f"keras-e2e {importlib.metadata.version('keras-e2e')}\n"
    else:
        assert all(f"keras-e2e {command}" in printed for command in FLAGS)
        assert "Exit status: 0" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dmo"], "found 'dmo'. Did you mean 'demo'?"),
        (["Report"], "found 'Report'. Did you mean 'report'?"),
        (
            ["demo", "--output-dir=x"],
            "unknown flag --output-dir. Did you mean --output_dir?",
        ),
        (["diagnose"], "expected one model, found none"),
        (["diagnose", "nothing.keras"], "expected the training data, found no --data"),
        (["diagnose", "a", "--data=no.npz"], "--data=no.npz: there is no such file"),
        (["diagnose", "a", f"--data={__file__}"], "there is no 'a'"),
        (["diagnose", "a", f"--data={__file__}", "--optimizer=sgd"], "goes with --loss"),
        (["demo", "--epoch=3"], "unknown flag --epoch. Did you mean --epochs?"),
        (["demo", "--epochs"], "Missing value for flag --epochs"),
        (["demo", "--epochs=1"], "flag --epochs=1"),
        (["demo", "3"], "takes flags alone, found '3'"),
        (["report", "--html=x", "logs"], "unknown flag --html."),
        (["report"], "expected one log directory, found none"),
        (["memory"], "expected one model, found none"),
        (["memory", "nothing.keras"], "there is no 'nothing.keras'"),
        (["memory", "a.keras", "b.keras"], "found 2 of them: a.keras b.keras"),
        (["memory", "--modules=1", "a"], "--modules=1: expected numbers from 2 on"),
        (["memory", "--input_shape=3,x", "a"], "--input_shape=3,x: expected numbers"),
        (["memory", "--module=2", "a"], "unknown flag --module. Did you mean --modules?"),
        (["limits", "--regime=auto"], "unknown flag --regime. Did you mean --regimes?"),
    ],
)
def test_a_typo_is_answered_by_one_line_without_loading_keras(arguments, message):
    printed, errors, status, loaded = call_noting_imports(*arguments)
    assert status == 2 and printed == "" and not loaded & set(HEAVY)
    assert message in errors and len(errors.splitlines()) == 1
    # What to do: see the help, or do what it says.
    assert re.search("--help|[Gg]ive|as in", errors)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model that leaves the number of its steps open, as a file."""
    x = inputs = keras.Input((None, 8), name="tokens")
    for number in range(4):
        x = layers.Dense(16, activation="relu", name=f"d{number}")(x)
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    keras.Model(inputs, layers.Dense(1)(x), name="net").save(path)
    return path


@pytest.mark.slow
def test_memory_is_told_of_a_saved_model(saved):
    asked = ["--batch_size=128", "--modules=2,4", "--input_shape=500,8"]
    process = call("memory", str(saved), *asked)
    assert process.returncode == 0, process.stderr[-2000:]
    assert "Peak of a step of 'net' at batch size 128, in MiB" in process.stdout
    said = " ".join(process.stdout.split())
    assert "modularize(model, 3): boundaries after d0, d1, d2" in said
    process = call("memory", str(saved), *asked, "--json")
    found = json.loads(process.stdout)
    # Four layers of 16 numbers, and one number of the last.
    assert found["activations"] == 128 * 500 * (4 * 16 + 1) * 4
    assert [len(split["modules"]) for split in found["splits"]] == [2, 4]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "The input 'tokens' of 'net' has the shape (None, 8)"),
        (["--input_shape=5,8", "--modules=9"], "'net' can be cut into at most 5 modules"),
    ],
)
def test_memory_that_cannot_be_told_is_refused(saved, arguments, message):
    process = call("memory", str(saved), *arguments)
    assert process.returncode == 2 and message in process.stderr
    assert "Traceback" not in process.stderr


@pytest.mark.slow
def test_what_is_no_model_is_refused(tmp_path):
    path = tmp_path / "x.keras"
    path.write_text("no model")
    process = call("memory", str(path))
    assert process.returncode == 2 and "cannot be loaded" in process.stderr
    assert "Traceback" not in process.stderr


def test_python_m_keras_e2e_is_the_command_and_as_quick():
    process = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "keras_e2e", "limits", "--help"],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0 and "--regimes" in process.stdout
    assert "| keras_e2e.experiments.cli" in process.stderr
    assert not re.search(r"\| +(keras|tensorflow)$", process.stderr, re.MULTILINE)


def test_a_missing_package_is_named_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"Matplotlib.*pip install 'keras-e2e\[demo\]'"):
        demo_module.run(Settings(output_dir=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [],
            "expected a command, one of diagnose, report, memory, demo, limits, completion",
        ),
        (["demo", "--k=0,x"], "--k=0,x: expected numbers from 1 on"),
        (["demo", "--epochs=0"], "epochs"),
        (["demo", "--data=cats"], "digits"),
        (["--k=1", "limits"], "Flags follow their command, as in keras-e2e limits --k=1"),
        (["limits", "--k=0"], "k=0: expected an integer of at least 1"),
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

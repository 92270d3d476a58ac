"""The command `keras-e2e diagnose`: what it prints, writes and refuses."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e
from keras_e2e.experiments import cli

STEPS = ["--steps=20", "--update_freq=2", "--batch_size=16"]


def call(path, *flags):
    """The exit status of the command, run in this process."""
    return cli.main(["diagnose", str(path), *STEPS, *map(str, flags)])


def stack(*, units=2, **compiled):
    model = keras.Sequential(
        [
            keras.Input((6,), name="features"),
            layers.Dense(8, activation="relu", name="one"),
            layers.Dropout(0.2, name="drop"),
            layers.Dense(8, activation="relu", name="two"),
            layers.Dense(units, activation="softmax", name="out"),
        ],
        name="net",
    )
    if compiled:
        model.compile(**compiled)
    return model


def joined():
    """A modular model of two inputs, with an optimizer for each module."""
    left, right = keras.Input((3,), name="left"), keras.Input((3,), name="right")
    x = layers.Dense(8, activation="relu", name="both")(layers.Concatenate()([left, right]))
    base = keras.Model([left, right], layers.Dense(1, name="out")(x), name="joined")
    model = e2e.modularize(base, {"both": "prediction"}, training_mode="local")
    model.compile(e2e.ModuleOptimizers("sgd", {"both": "adam"}), "mse")
    return model


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 6)).astype("float32")
    return {"x": x, "y": (x[:, 0] > 0).astype(int), "sample_weight": rng.uniform(size=64)}


@pytest.fixture(scope="module")
def files(tmp_path_factory, arrays):
    """A folder with models and data as a user may have saved them."""
    folder = tmp_path_factory.mktemp("saved")
    compiled = stack(optimizer="adam", loss="sparse_categorical_crossentropy")
    compiled.train_on_batch(arrays["x"], arrays["y"])
    compiled.save(folder / "compiled.keras")
    stack().save(folder / "plain.keras")
    np.savez(folder / "data.npz", **arrays)
    return folder


def diagnosed(path, arrays, compiled=None, **arguments):
    """What `e2e.diagnose` says of the same."""
    model = keras.saving.load_model(path)
    if compiled:
        model.compile(*compiled)
    keras.utils.set_random_seed(0)
    sizes = {"steps": 20, "update_freq": 2, "batch_size": 16, "verbose": 0}
    return e2e.diagnose(model, **arrays, **sizes, **arguments)


def test_it_prints_what_diagnose_says_and_the_file_stays(files, arrays, capsys):
    path = files / "compiled.keras"
    before = path.read_bytes()
    assert call(path, f"--data={files / 'data.npz'}") == 0
    printed, said = capsys.readouterr()
    assert printed == f"{diagnosed(path, arrays)}\n"
    assert said.splitlines()[0] == f"Loading {path}."
    assert "diagnose: 20 training steps of" in said and "20 steps in" in said
    assert path.read_bytes() == before


def test_what_it_is_asked_for_reaches_diagnose(files, arrays, capsys):
    path = files / "plain.keras"
    flags = [f"--data={files / 'data.npz'}", "--loss=sparse_categorical_crossentropy"]
    flags += ["--optimizer=sgd", "--boundaries=one,two", "--json"]
    assert call(path, *flags) == 0
    found = json.loads(capsys.readouterr().out)
    compiled = ("sgd", "sparse_categorical_crossentropy")
    assert found == diagnosed(path, arrays, compiled, boundaries=["one", "two"]).to_dict()
    assert len(found["verdicts"]) == 3


@pytest.mark.parametrize(("rate", "status"), [(0.0, 3), (0.05, 0)])
def test_an_alarm_fails_where_that_is_asked_for(arrays, tmp_path, capsys, rate, status):
    """A model that stands still has one, a model that learns has none."""
    keras.utils.set_random_seed(0)
    model = stack(
        loss="sparse_categorical_crossentropy", optimizer=keras.optimizers.SGD(rate)
    )
    model.save(tmp_path / "m.keras")
    np.savez(tmp_path / "data.npz", x=arrays["x"], y=arrays["y"])
    data = f"--data={tmp_path / 'data.npz'}"
    assert call(tmp_path / "m.keras", data) == 0
    assert call(tmp_path / "m.keras", data, "--fail_on_alarm") == status
    assert ("Frozen" in capsys.readouterr().out) == (status == 3)


def test_it_writes_a_page_and_the_numbers(files, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    flags = [f"--data={files / 'data.npz'}", f"--output_dir={out}", "--boundaries=1"]
    assert call(files / "compiled.keras", *flags) == 0
    page = (out / "diagnosis.html").read_text()
    numbers = json.loads((out / "diagnosis.json").read_text())
    assert len(numbers["verdicts"]) == 2 and "Diagnosis of net" in page
    assert all(name in page for name in numbers["verdicts"]) and "Plotly" in page
    assert f"Written: {out / 'diagnosis.html'}" in capsys.readouterr().err


@pytest.mark.slow
def test_a_modular_model_in_a_process_of_the_command(tmp_path):
    """There `import keras_e2e` loads nothing, and TensorFlow has begun no log yet."""
    joined().save(tmp_path / "joined.keras")
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, 64, 3)).astype("float32")
    data = {"x/left": left, "x/right": right, "y": left[:, :1] - right[:, :1]}
    np.savez(tmp_path / "data.npz", **data)
    code = (
        "import sys; sys.argv[0] = 'bin/keras-e2e'\n"
        "from keras_e2e.experiments.cli import main\n"
        "status = main()\n"
        "import keras\n"
        "print('registered', *keras.saving.get_custom_objects())\n"
        "sys.exit(status)"
    )
    quiet = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    process = subprocess.run(
        [sys.executable, "-c", code, "diagnose", "joined.keras", "--data=data.npz", *STEPS],
        cwd=tmp_path,
        env={**quiet, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert process.returncode == 0, process.stderr
    first, *others = process.stderr.splitlines()
    assert first == "Loading joined.keras."
    assert all(line.startswith("diagnose: ") for line in others), process.stderr
    printed, _, registered = process.stdout.rpartition("registered")
    assert "Modules after 20 steps" in printed and "both" in printed
    ours = {
        name
        for name, of_name in keras.saving.get_custom_objects().items()
        if of_name.__module__.startswith("keras_e2e.")
        and not of_name.__module__.startswith("keras_e2e.experiments.")
    }
    assert ours <= {*registered.split()}


def test_a_training_that_fails_is_said_on_the_last_line(files, arrays, tmp_path, capsys):
    path = tmp_path / "data.npz"
    np.savez(path, **{**arrays, "y": arrays["y"] + 7})
    assert call(files / "compiled.keras", f"--data={path}") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(
        "keras-e2e diagnose: InvalidArgumentError: Received a label value"
    )


# What is refused, before anything is trained.


def refuse(capsys, *arguments):
    """The one line that a command prints which cannot be run."""
    assert call(*arguments) == 2
    printed, said = capsys.readouterr()
    first, *others = said.splitlines()
    assert printed == "" and len(others) <= 1
    return (others or [first])[0]


def test_a_model_that_is_not_compiled_needs_a_loss(files, capsys):
    said = refuse(capsys, files / "plain.keras", f"--data={files / 'data.npz'}")
    assert "plain.keras is not compiled" in said
    assert "--loss=sparse_categorical_crossentropy --optimizer=adam" in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--loss=msee"], "--loss=msee --optimizer=adam: expected names that Keras knows"),
        (["--boundaries=thre"], "'thre'"),
        (["--boundaries=0"], "boundaries=0"),
        (["--mode=local"], "has no local objectives"),
        (["--update_freq=5"], "diagnose(steps=20, update_freq=5): expected steps enough"),
    ],
)
def test_what_the_model_cannot_do_is_said_on_one_line(files, capsys, flags, message):
    data = f"--data={files / 'data.npz'}"
    said = refuse(capsys, files / "compiled.keras", data, *flags)
    assert said.startswith("keras-e2e diagnose: ") and message in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": None}, "found the arrays ['x', 'sample_weight'], expected 'y', too"),
        ({"labels": np.ones(64)}, "unknown array 'labels'."),
        ({"y": np.ones(60)}, "{'x': 64, 'y': 60, 'sample_weight': 64}"),
        ({"x": np.array(3.0)}, "'x': 0"),
        ({"x": np.array([{}] * 64)}, "expected a .npz file of numbers"),
        ({"x/features": np.ones((64, 6))}, "found 'x' and ['x/features']"),
    ],
)
def test_arrays_that_do_not_do_are_named(files, arrays, tmp_path, capsys, changes, message):
    path = tmp_path / "data.npz"
    given = {name: array for name, array in {**arrays, **changes}.items()}
    np.savez(path, **{name: array for name, array in given.items() if array is not None})
    said = refuse(capsys, files / "compiled.keras", f"--data={path}")
    assert f"--data={path}: " in said and message in said
    assert "savez" in said or "Leave one out" in said


def test_what_is_no_npz_is_refused(files, capsys):
    said = refuse(capsys, files / "compiled.keras", f"--data={files / 'plain.keras'}")
    assert "expected" in said and "savez" in said
    path = files / "one.npy"
    np.save(path, np.ones(3))
    assert "expected a .npz file" in refuse(capsys, path, f"--data={path}")


def test_code_in_a_file_is_not_run(files, capsys):
    model = keras.Sequential([keras.Input((6,)), layers.Lambda(lambda x: x + 1)])
    path = files / "code.keras"
    model.save(path)
    said = refuse(capsys, path, f"--data={files / 'data.npz'}", "--loss=mse")
    assert "code.keras cannot be loaded" in said
    assert "keras_e2e.diagnose(model, x, y)" in said

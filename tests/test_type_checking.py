"""A user's file is type-checked against the package as it is installed."""

import pathlib
import re
import subprocess
import sys

import pytest

pytest.importorskip("mypy")

RIGHT = """
import keras
import numpy as np

import keras_e2e as e2e
from keras_e2e import TrainingMode
from keras_e2e.callbacks import ModuleDiagnostics, TrainingModeScheduler
from keras_e2e.objectives import PredSim

base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="a")])
model = e2e.modularize(base)
e2e.modularize(base, 2, objective=PredSim(), training_mode=TrainingMode("local"))
e2e.modularize(base, np.int64(2), objective=None)
e2e.modularize(base, ["a"], objective={"pred": 0.1, "sim": 0.9})
e2e.modularize(base, ("a",), objective="predsim")
e2e.modularize(base, {"a", "b"})
e2e.modularize(base, {"a": "predsim", "b": PredSim(), "c": None})
model.training_mode = "local"
model.training_mode = TrainingMode("sequential", module="a")
mode: e2e.ModeName = "local"
ModuleDiagnostics(quantities="full")
ModuleDiagnostics(quantities=[*e2e.diagnostics.default_quantities()])
TrainingModeScheduler({0: mode}, unit="step")
model.training_mode = TrainingMode.get("sequential:a")
TrainingModeScheduler({0: "local", 10: TrainingMode("sequential", module="a")})
reveal_type(model)  # Revealed type is ".*ModularModel | .*ModularWrapper"
reveal_type(model.training_mode)  # Revealed type is ".*TrainingMode"
reveal_type(model.boundaries)  # Revealed type is "dict.str, .*ModuleBoundary."
"""

WRONG = """
import keras

import keras_e2e as e2e
from keras_e2e.callbacks import ModuleDiagnostics, TrainingModeScheduler

base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="a")])
model = e2e.modularize(base, ["a"])
model.training_mode = "lokal"  # error
e2e.modularize(base, training_mode="lokal")  # error
e2e.modularize(base, objective="predsimm")  # error
e2e.modularize(base, {"a": "predsimm"})  # error
e2e.modularize(base, 1.5)  # error
e2e.TrainingMode("lokal")  # error
e2e.ModuleBoundary("predsimm")  # error
e2e.ensemble([base, base], training_mode="lokal")  # error
TrainingModeScheduler({0: "lokal"})  # error
TrainingModeScheduler({0: "local"}, unit="steps")  # error
ModuleDiagnostics(quantities="ful")  # error
"""


def checked(folder: pathlib.Path, text: str) -> dict[int, str]:
    """What mypy says of a file, by line; it looks for packages where Python does."""
    file = folder / "user.py"
    file.write_text(text)
    options = ["--ignore-missing-imports", f"--cache-dir={folder / 'cache'}"]
    run = subprocess.run(
        [sys.executable, "-m", "mypy", *options, file.name],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert run.returncode in (0, 1), run.stderr
    found = re.findall(r"^user\.py:(\d+): \w+: (.*)$", run.stdout, re.MULTILINE)
    return {int(line): message for line, message in reversed(found)}


@pytest.mark.slow
def test_what_is_right_passes_and_has_types(tmp_path):
    found = checked(tmp_path, RIGHT)
    expected = {
        number: line.split("#")[1].strip()
        for number, line in enumerate(RIGHT.splitlines(), start=1)
        if "#" in line
    }
    assert found.keys() == expected.keys(), found
    for number, message in expected.items():
        assert re.match(message.replace("|", r"\|"), found[number]), found[number]


@pytest.mark.slow
def test_a_mode_or_an_alias_that_does_not_exist_is_refused(tmp_path):
    lines = enumerate(WRONG.splitlines(), start=1)
    assert sorted(checked(tmp_path, WRONG)) == [n for n, line in lines if "# error" in line]

"""Promise 5: `strip` gives a stock model, which loads without keras_e2e."""

import json
import pathlib
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

import keras_e2e as e2e

from . import cases, models

KINDS = sorted(models.BUILDERS)

LOADER = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "keras_e2e":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
sys.path.insert(0, sys.argv[1])
import keras, models, numpy as np
for kind in sys.argv[3:]:
    model = keras.models.load_model(f"{sys.argv[2]}/{kind}.keras")
    found = models.flat(model.predict(models.inputs(kind, 7), verbose=0))
    np.savez(f"{sys.argv[2]}/{kind}.npz", *found)
assert not [name for name in sys.modules if name.startswith("keras_e2e")]
"""


@pytest.fixture(scope="module")
def stripped(tmp_path_factory):
    """For each kind what the modular model predicts and its stripped model's folder."""
    folder = tmp_path_factory.mktemp("stripped")
    predicted = {}
    for kind in KINDS:
        base = models.build(kind)
        model = e2e.modularize(base, list(models.CUTS), training_mode="local")
        model.compile(keras.optimizers.Adam(0.01), **models.losses(kind))
        x = models.inputs(kind, 16)
        cases.fit(model, x, models.targets(kind, 16))
        plain = e2e.strip(model)
        some = models.inputs(kind, 7)
        predicted[kind] = models.flat(model.predict(some, verbose=0))
        assert models.same(predicted[kind], plain.predict(some, verbose=0)), kind
        assert not any(
            type(layer).__module__.startswith("keras_e2e") for layer in plain.layers
        )
        plain.save(folder / f"{kind}.keras")
    return folder, predicted


@pytest.mark.slow
def test_a_stripped_model_predicts_the_same_where_keras_e2e_is_not_installed(stripped):
    folder, predicted = stripped
    here = str(pathlib.Path(__file__).parent)
    run = subprocess.run(
        [sys.executable, "-c", LOADER, here, str(folder), *KINDS],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    for kind in KINDS:
        with np.load(folder / f"{kind}.npz") as file:
            assert models.same(list(file.values()), predicted[kind]), kind


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_name_of_keras_e2e_is_in_the_saved_config(stripped, kind):
    folder, _ = stripped
    with zipfile.ZipFile(folder / f"{kind}.keras") as file:
        config = json.loads(file.read("config.json"))
    assert "keras_e2e" not in json.dumps(config)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stripped_model_shares_the_weights_and_trains_as_stock(kind):
    base = models.build(kind)
    model = e2e.modularize(base, list(models.CUTS))
    plain = e2e.strip(model)
    assert {id(v) for v in plain.weights} == {id(v) for v in base.weights}
    plain.compile("sgd", **models.losses(kind))
    before = cases.values(base.weights)
    cases.fit(plain, models.inputs(kind, 8), models.targets(kind, 8))
    assert not models.same(before, cases.values(base.weights))

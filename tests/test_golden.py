"""Files that earlier versions saved are loaded by this one, and predict the same.

`python -m tests.golden.make VERSION` makes the files of a version, once; they stay.
"""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_e2e as e2e
from tests.golden import make

GOLDEN = pathlib.Path(__file__).parent / "golden"
FILES = sorted(GOLDEN.glob("*/*.keras"))
ids = [f"{path.parent.name}-{path.stem}" for path in FILES]


def test_each_kind_of_model_has_a_file():
    assert {path.stem for path in FILES} == set(make.MODELS)


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_a_golden_file_is_loaded_predicts_the_same_and_trains_on(path):
    model = keras.saving.load_model(path)
    expected = np.load(path.parent / "predictions.npz")[path.stem]
    x, y = make.inputs_of(path.stem), np.arange(4) % 3
    low = path.stem == "mixed_precision"
    tolerance = {"rtol": 1e-2, "atol": 1e-3} if low else {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, **tolerance)
    fresh = make.MODELS[path.stem]()
    assert model.training_mode == fresh.training_mode
    assert [m.name for m in model.modules] == [m.name for m in fresh.modules]
    kinds = [[type(m.objective) for m in each.modules] for each in (model, fresh)]
    assert kinds[0] == kinds[1]
    assert model.dtype_policy == fresh.dtype_policy
    before = model.get_weights()
    model.train_on_batch(x, {"out": y, "code": y} if path.stem == "labels" else y)
    pairs = zip(before, model.get_weights(), strict=True)
    assert low or any(not np.array_equal(a, b) for a, b in pairs)
    assert low == isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)


SCRIPT = """
import sys, keras, keras_e2e
model = keras.saving.load_model(sys.argv[1])
print(type(model).__name__, [m.name for m in model.modules])
"""


def test_a_golden_file_is_loaded_in_a_fresh_process():
    (path,) = [p for p in FILES if p.stem == "functional"][-1:]
    root = pathlib.Path(e2e.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    names = [*"abcdef", "out"]
    assert done.stdout.strip().endswith(f"ModularModel {names}")

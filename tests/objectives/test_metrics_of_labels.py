"""`IntermediateTarget(metrics=)`: how well a module answers labels of its own."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e
from keras_e2e.objectives import IntermediateTarget

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 5)).astype("float32")
LABELS = RNG.integers(0, 3, 40)
LABELS[::4] = -1
Y = {"out": np.zeros((40, 1), "float32"), "code": LABELS}


def network(mode, metrics=("accuracy",), ending="softmax", **options):
    keras.utils.set_random_seed(3)
    base = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(3, activation=ending, name="code"),
            layers.Dense(1, name="out"),
        ]
    )
    objective = IntermediateTarget(metrics=list(metrics), **options)
    model = e2e.modularize(base, {"code": objective}, training_mode=mode)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


@pytest.mark.parametrize("mode", ["local", "end_to_end", "deep_supervision"])
def test_the_logs_have_the_accuracy_over_the_labels_that_are_there(mode):
    model = network(mode)
    expected = np.mean(
        model.early_exit_model("code").predict(X, verbose=0).argmax(-1)[LABELS >= 0]
        == LABELS[LABELS >= 0]
    )
    logs = model.fit(X, Y, batch_size=10, verbose=0, validation_data=(X, Y)).history
    assert logs["code_accuracy"][0] == pytest.approx(expected)
    assert logs["val_code_accuracy"][0] == pytest.approx(expected)
    assert "accuracy" not in logs


def test_each_module_is_evaluated_on_labels_of_its_own():
    model = network("local")
    found = model.evaluate_modules(X, Y, batch_size=7, verbose=0)
    logs = model.evaluate(X, Y, batch_size=10, verbose=0, return_dict=True)
    assert found["code"]["accuracy"] == pytest.approx(logs["code_accuracy"])
    assert set(found["out"]) == {"loss"}
    without = model.evaluate_modules(X, Y["out"], verbose=0)
    assert "accuracy" not in without["code"]
    missing = {**Y, "code": np.full(40, -1)}
    assert "accuracy" not in model.evaluate_modules(X, missing, verbose=0)["code"]


def test_numbers_and_heads_have_metrics_too():
    labels = RNG.normal(size=(40, 2)).astype("float32")
    labels[3:9, 0] = np.nan
    options = {"loss": "mse", "head": "linear", "units": 2}
    model = network("local", ["mae"], "tanh", **options)
    head = model.early_exit_model("code").predict(X, verbose=0)
    there = np.isfinite(labels).all(-1)
    expected = np.abs(head - labels).mean(-1)[there].mean()
    given = {**Y, "code": labels}
    assert model.fit(X, given, verbose=0).history["code_mae"][0] == pytest.approx(
        expected, rel=1e-5
    )
    found = model.evaluate_modules(X, given, verbose=0)["code"]
    assert found["mae"] == pytest.approx(expected, rel=1e-5)


def test_metrics_are_saved_with_the_objective(tmp_path):
    model = network("local")
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.boundaries["code"].objective.asked.given == ["accuracy"]
    before, after = (m.evaluate_modules(X, Y, verbose=0)["code"] for m in (model, loaded))
    assert before == pytest.approx(after)


def test_what_is_no_metric_is_refused():
    with pytest.raises(ValueError, match=r"IntermediateTarget\(metrics='accuracy'\)"):
        IntermediateTarget(metrics="accuracy")

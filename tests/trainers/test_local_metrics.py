"""Metrics of a module's own head in the logs of `fit` and `evaluate`."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_e2e as e2e
from keras_e2e.objectives import Mixture, Prediction, Reconstruction
from tests.conformance import cases, models

X, Y = models.inputs("dense", 24), models.targets("dense", 24)
LOSSES = ("first_loss", "out_loss", "second_loss")


def modular(mode="local", metrics=("accuracy",), **compiled):
    objectives = {"first": Prediction("mlp", metrics=list(metrics)), "second": "pred"}
    model = e2e.modularize(models.build("dense"), objectives, training_mode=mode)
    model.compile(
        keras.optimizers.SGD(0.1),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        **compiled,
    )
    return model


def by_hand(model, x=X, y=Y):
    """The accuracy of the first module's head, from stock layers."""
    code = model.get_layer("first")(x)
    (head,) = model.boundaries["first"].objective.networks
    return float(np.mean(np.argmax(head(code), axis=1) == y))


@pytest.mark.parametrize("jit", [False, True])
def test_they_are_logged_by_the_boundary_s_name_and_measured_in_validation(jit):
    model = modular(jit_compile=jit)
    history = model.fit(X, Y, validation_data=(X, Y), epochs=2, verbose=0).history
    assert set(history) == {
        *("accuracy", "loss", "val_accuracy", "val_loss"),
        *("first_accuracy", "val_first_accuracy"),
        *LOSSES,
    }
    assert history["val_first_accuracy"][-1] == pytest.approx(by_hand(model))
    assert model.evaluate(X, Y, verbose=0, return_dict=True)["first_accuracy"] == (
        pytest.approx(by_hand(model))
    )


def test_they_are_measured_before_the_step_and_anew_in_each_epoch():
    model = modular()
    for _ in range(2):
        expected = by_hand(model)
        logs = model.fit(X, Y, batch_size=24, verbose=0).history
        assert logs["first_accuracy"] == [pytest.approx(expected)]


@pytest.mark.parametrize("mode", ["end_to_end", "deep_supervision", "sequential:first"])
def test_they_are_measured_in_every_mode_that_crosses_the_boundary(mode):
    model = modular(mode)
    history = model.fit(X, Y, validation_data=(X, Y), verbose=0).history
    assert {"first_accuracy", "val_first_accuracy"} <= set(history)


def test_a_module_that_is_not_computed_shows_no_stale_number():
    objectives = {"first": "pred", "second": Prediction("mlp", metrics=["accuracy"])}
    model = e2e.modularize(models.build("dense"), objectives)
    model.compile("sgd", **models.losses("dense"))
    assert "second_accuracy" in model.fit(X, Y, verbose=0).history
    model.training_mode = "sequential:first"
    assert np.isnan(model.fit(X, Y, verbose=0).history["second_accuracy"]).all()


def test_off_by_default_nothing_is_added():
    model = modular(metrics=())
    assert set(model.fit(X, Y, verbose=0).history) == {"accuracy", "loss", *LOSSES}
    plain = e2e.modularize(models.build("dense"), ["first"])
    assert not plain.boundaries["first"].objective.metrics


def test_they_change_no_weight():
    trained = []
    for metrics in ((), ("accuracy",)):
        model = modular(metrics=metrics)
        model.fit(X, Y, epochs=2, shuffle=False, verbose=0)
        trained.append(cases.weights(model))
    assert models.same(*trained)


def test_a_saved_model_goes_on_measuring(tmp_path):
    model = modular()
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    found = loaded.evaluate(X, Y, verbose=0, return_dict=True)
    assert found["first_accuracy"] == pytest.approx(by_hand(model))


def test_other_metrics_and_their_mistakes():
    model = modular(metrics=[keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")])
    assert "first_top2" in model.fit(X, Y, verbose=0).history
    with pytest.raises(ValueError, match=r"Prediction\(metrics=\['accuracyy'\]"):
        Prediction(metrics=["accuracyy"])
    with pytest.raises(ValueError, match=r"expected a list such as \['accuracy'\]"):
        Prediction(metrics="accuracy")


def test_early_stopping_can_watch_them():
    model = modular()
    stop = keras.callbacks.EarlyStopping("val_first_accuracy", mode="max", patience=0)
    objectives = model.boundaries
    assert isinstance(objectives["first"].objective, Prediction)
    history = model.fit(
        X, Y, validation_data=(X, Y), epochs=50, verbose=0, callbacks=[stop]
    ).history
    assert len(history["loss"]) < 50


def test_only_heads_that_predict_take_them():
    with pytest.raises((TypeError, ValueError), match="metrics"):
        Reconstruction(metrics=["accuracy"])


def test_two_heads_of_one_boundary_may_not_report_under_one_name():
    heads = [Prediction(kind, metrics=["accuracy"]) for kind in ("linear", "mlp")]
    with pytest.raises(ValueError, match="a metric 'first_accuracy'"):
        e2e.modularize(models.build("dense"), {"first": Mixture(dict.fromkeys(heads, 1.0))})
    parts = {Prediction(metrics=["accuracy"]): 0.5, "reconstruction": 0.5}
    model = e2e.modularize(
        models.build("dense"), {"first": Mixture(parts), "second": "pred"}
    )
    model.compile("sgd", **models.losses("dense"))
    assert "first_accuracy" in model.fit(X, Y, verbose=0).history


ELSEWHERE = """
import contextlib, os, keras, numpy as np
scope = contextlib.nullcontext()
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    device = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        device, [tf.config.LogicalDeviceConfiguration()] * 2)
    scope = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope()
from tests.trainers.test_local_metrics import X, Y, by_hand, modular
for mode in ("local", "end_to_end", "sequential:first"):
    with scope if mode == "local" else contextlib.nullcontext():
        model = modular(mode)
    # One batch for an epoch: measured before the step, and in validation after it.
    first = by_hand(model)
    options = {"batch_size": 24, "epochs": 2, "verbose": 0}
    logs = model.fit(X, Y, validation_data=(X, Y), **options).history
    found = [logs["first_accuracy"][0], logs["val_first_accuracy"][1]]
    np.testing.assert_allclose(found, [first, by_hand(model)], rtol=1e-5)
    assert np.isnan(logs["accuracy"]).all() == (mode == "sequential:first"), logs
"""


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="starts other runs")
@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_they_tell_the_same_on_jax_and_on_two_devices(backend):
    run = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        cwd=pathlib.Path(__file__).parents[2],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]


@pytest.mark.parametrize("argument", ["metrics", "weighted_metrics", "loss_weights"])
def test_what_is_compiled_for_a_boundary_is_refused_with_what_does_it(argument):
    # Keras takes it for the only output, whatever the name.
    given = {"first": 0.5} if argument == "loss_weights" else {"first": ["accuracy"]}
    model = e2e.modularize(models.build("dense"), ["first"], training_mode="local")
    compiled = {"loss": "sparse_categorical_crossentropy", "run_eagerly": True}
    model.compile("sgd", **compiled, **{argument: given})
    for run in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match="'first'") as refused:
            run(X, Y, verbose=0)
    instead = {"weights": {"first": 0.5}} if argument == "loss_weights" else {}
    objectives = {"first": Prediction(metrics=None if instead else ["accuracy"])}
    assert all(name in str(refused.value) for name in [*instead, "['out']", argument])
    mode = e2e.TrainingMode("local", **instead)
    model = e2e.modularize(models.build("dense"), objectives, training_mode=mode)
    model.compile("sgd", **compiled)
    model.fit(X, Y, verbose=0)

"""The task loss and each local loss in the logs of `fit`."""

import csv
import math
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e
from keras_e2e import TrainingMode
from keras_e2e.callbacks import AutoMode, TrainingModeScheduler
from keras_e2e.objectives import FeedbackAlignment, Prediction, Reconstruction, VICReg
from tests.conformance import models

on_tensorflow = keras.backend.backend() == "tensorflow"
X, Y = models.inputs("dense", 41), models.targets("dense", 41)
PARTS = ["first_loss", "out_loss", "second_loss"]
CROSSENTROPY = "sparse_categorical_crossentropy"


def modular(mode="local", optimizer="sgd", objectives=None, kind="dense", **compiled):
    objectives = objectives or ["first", "second"]
    model = e2e.modularize(models.build(kind), objectives, training_mode=mode)
    compiled = {**models.losses(kind), **compiled}
    model.compile(optimizer, **compiled)
    return model


def still():
    """An optimizer that changes nothing, so that all batches see the same weights."""
    return keras.optimizers.SGD(0.0)


def by_module(model, x=X, y=Y):
    """The losses as `evaluate_modules` finds them, under their names in the logs."""
    found = model.evaluate_modules(x, y, batch_size=len(X))
    return {f"{name}_loss": logs["loss"] for name, logs in found.items()}


def logged(model, x=X, y=Y, **options):
    options = {"batch_size": 16, "verbose": 0, "shuffle": False, **options}
    return model.fit(x, y, **options).history


@pytest.mark.parametrize("mode", ["local", "deep_supervision"])
@pytest.mark.parametrize(
    "optimizer, kind", [("adam", "dense"), ("sgd", "conv"), ("adamw", "regression")]
)
def test_fit_logs_the_task_loss_and_each_local_loss(mode, optimizer, kind):
    model = modular(mode, optimizer, kind=kind)
    x, y = models.inputs(kind, 41), models.targets(kind, 41)
    history = logged(model, x, y, epochs=2, validation_data=(x, y))
    assert [*history] == sorted(["loss", "val_loss", *PARTS], key=[*history].index)
    for epoch in range(2):
        parts = sum(history[name][epoch] for name in PARTS)
        assert history["loss"][epoch] == pytest.approx(parts, rel=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"run_eagerly": True},
        {"steps_per_execution": 2},
        pytest.param({"jit_compile": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_they_are_averages_over_the_examples(options):
    """The last batch of 41 examples has 9 of them."""
    n = 32 if "jit_compile" in options else 41
    model = modular(optimizer=still(), **options)
    expected = by_module(model, X[:n], Y[:n])
    history = logged(model, X[:n], Y[:n], epochs=2)
    for name in PARTS:
        assert history[name] == pytest.approx([expected[name]] * 2, rel=1e-5), name


def test_they_are_averaged_as_keras_does_the_losses_of_several_outputs():
    """Run eagerly: in a graph of unknown batch size Keras weighs all batches alike."""
    inputs = keras.Input((6,))
    code = layers.Dense(5, name="code", kernel_initializer=keras.initializers.Ones())
    out = layers.Dense(1, name="out", kernel_initializer=keras.initializers.Ones())
    x = np.random.default_rng(0).normal(size=(21, 6)).astype("float32")
    y = {"code": x[:, :5], "out": x[:, :1]}
    both = keras.Model(inputs, {"code": code(inputs), "out": out(code(inputs))})
    target = e2e.objectives.IntermediateTarget(loss="mse")
    model = e2e.modularize(
        keras.Model(inputs, out(code(inputs))), {"code": target}, training_mode="local"
    )
    logs = []
    for each in (both, model):
        each.compile(still(), "mse", run_eagerly=True)
        logs.append(logged(each, x, y))
    assert logs[0] == logs[1]


def test_weights_and_penalties_are_in_the_loss_alone():
    base = keras.Sequential(
        [
            keras.Input((X.shape[1],)),
            layers.Dense(5, name="first", kernel_regularizer="l2"),
            layers.Dense(models.CLASSES, activation="softmax", name="out"),
        ]
    )
    objectives = {"first": Prediction(weight=0.25)}
    model = e2e.modularize(base, objectives, training_mode="local")
    model.compile(still(), CROSSENTROPY, loss_weights=[3.0])
    stock = keras.losses.SparseCategoricalCrossentropy()
    expected = {
        "out_loss": float(stock(Y, model.predict(X, verbose=0))),
        "first_loss": by_module(model)["first_loss"],
    }
    history = logged(model)
    penalty = float(model.losses[0])
    for name, value in expected.items():
        assert history[name] == pytest.approx([value], rel=1e-5)
    total = 3 * expected["out_loss"] + 0.25 * expected["first_loss"] + penalty
    assert history["loss"] == pytest.approx([total], rel=1e-5)


@pytest.mark.parametrize(
    "mode, names",
    [
        (TrainingMode("mixed", stop="second"), ["out_loss", "second_loss"]),
        (TrainingMode("deep_supervision", weights={"first": 0}), PARTS[1:]),
        pytest.param(
            TrainingMode("local", reach=2),
            PARTS,
            marks=pytest.mark.skipif(not on_tensorflow, reason="not on this backend"),
        ),
        ("end_to_end", []),
    ],
    ids=str,
)
def test_what_counts_in_the_mode_is_logged(mode, names):
    history = logged(modular(mode))
    assert {*history} == {"loss", *names}
    assert all(np.isfinite(history[name]).all() for name in names)


def test_a_signal_has_no_loss_and_two_views_have_one():
    zoom = layers.Rescaling(0.5)
    objectives = {"first": FeedbackAlignment(), "second": VICReg(zoom)}
    history = logged(modular(objectives=objectives))
    assert {*history} == {"loss", "out_loss", "second_loss"}
    objectives = {name: FeedbackAlignment() for name in ("first", "second")}
    only_the_task = logged(modular(objectives=objectives))
    assert {*only_the_task} == {"loss"}, "which is the task's"


def test_several_outputs_keep_the_names_and_numbers_of_keras():
    model = modular(kind="two_outputs", objectives=["first"])
    x, y = models.inputs("two_outputs", 41), models.targets("two_outputs", 41)
    stock = models.build("two_outputs")
    stock.compile(**{"optimizer": "sgd", **models.losses("two_outputs")})
    outputs = {*logged(stock, x, y)}
    assert {*logged(model, x, y)} == {*outputs, "first_loss"}


@pytest.mark.parametrize("y", [None, Y])
def test_without_a_compiled_loss_only_the_modules_have_one(y):
    objectives = {"first": Reconstruction(), "second": Reconstruction()}
    mode = "local" if y is not None else "sequential:first"
    model = modular(mode, objectives=objectives)
    history = logged(model, X, y)
    assert {*history} >= {"loss", "first_loss", "second_loss"}
    parts = ["first_loss"] if y is None else PARTS
    assert history["loss"] == pytest.approx(np.sum([history[p] for p in parts], axis=0))


@pytest.mark.skipif(not on_tensorflow, reason="a policy of TensorFlow")
@pytest.mark.slow
def test_in_mixed_precision_they_are_without_the_loss_scale():
    keras.config.set_dtype_policy("mixed_float16")
    model = modular(optimizer=still())
    expected = by_module(model)
    history = logged(model)
    for name in PARTS:
        assert history[name] == pytest.approx([expected[name]], rel=1e-2)


def test_evaluation_logs_none_of_them():
    model = modular(metrics=["accuracy"])
    history = logged(model, epochs=2, validation_data=(X, Y))
    names = {name for name in history if name.startswith("val_")}
    assert names == {"val_loss", "val_accuracy"}
    assert {*model.evaluate(X, Y, verbose=0, return_dict=True)} == {"loss", "accuracy"}


def test_the_batches_of_fit_have_the_logs_of_stock_keras():
    """A progress bar of one line, and nothing more to read from the device."""
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append({*logs})
    )
    logged(modular(metrics=["accuracy"]), callbacks=[watch])
    assert seen == [{"loss", "accuracy"}] * 3


@pytest.mark.parametrize("eager", [False, True])
def test_train_on_batch(eager):
    model = modular(metrics=["accuracy"], run_eagerly=eager)
    expected = by_module(model)
    logs = model.train_on_batch(X, Y, return_dict=True)
    assert [*logs] == sorted(["accuracy", "loss", *PARTS])
    for name in PARTS:
        assert logs[name] == pytest.approx(expected[name], rel=1e-5)
    assert len(model.train_on_batch(X, Y)) == 2, "a list holds what stock Keras returns"
    model.training_mode = "end_to_end"
    assert {*model.train_on_batch(X, Y, return_dict=True)} == {"loss", "accuracy"}


@pytest.mark.parametrize("last", ["metric", "loss"])
def test_a_run_end_to_end_after_a_local_one_has_the_logs_of_stock_keras(last):
    model = modular(metrics=["accuracy"])
    logged(model)
    model.training_mode = "end_to_end"
    stock = e2e.strip(model)
    stock.compile("sgd", **models.losses("dense"), metrics=["accuracy"])
    weights = model.get_weights()
    expected = logged(stock)
    model.set_weights(weights)
    assert logged(model) == expected


class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.code = layers.Dense(4, activation="relu", name="code")
        self.score = layers.Dense(models.CLASSES, activation="softmax", name="score")

    def call(self, x):
        return self.score(self.code(x))


def test_a_subclassed_model_has_a_name_for_its_output():
    model = e2e.modularize(Net(), ["code"], training_mode="local")
    model.compile("sgd", CROSSENTROPY)
    history = logged(model)
    assert {*history} == {"loss", "code_loss", "outputs_loss"}
    parts = history["code_loss"][0] + history["outputs_loss"][0]
    assert history["loss"][0] == pytest.approx(parts, rel=1e-5)


def undefined(history):
    return {name: [math.isnan(v) for v in values] for name, values in history.items()}


@pytest.mark.parametrize("first", ["end_to_end", "local", "sequential:first"])
def test_what_a_schedule_brings_is_logged_from_the_first_epoch_on(tmp_path, capsys, first):
    modes = {0: first, 1: "end_to_end", 2: "local"}
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    callbacks = [TrainingModeScheduler(modes), logger]
    model = modular()
    history = logged(model, epochs=3, callbacks=callbacks, verbose=1)
    there = {"end_to_end": [], "local": PARTS, "sequential:first": PARTS[:1]}[first]
    assert undefined(history) == {
        "loss": [False] * 3,
        **{name: [name not in there, True, False] for name in PARTS},
    }
    with open(tmp_path / "log.csv") as file:
        rows = list(csv.DictReader(file))
    for name in PARTS:
        assert [float(row[name]) for row in rows] == pytest.approx(
            history[name], nan_ok=True
        )
    assert "second_loss: nan" in capsys.readouterr().out


class Late(keras.callbacks.Callback):
    """A switch that nobody can foresee."""

    def __init__(self, mode, announced=False):
        super().__init__()
        self.mode, self.announced = mode, announced

    def on_train_begin(self, logs=None):
        if self.announced:
            self.model.training_mode = self.mode
            self.model.training_mode = "end_to_end"

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            self.model.training_mode = self.mode


@pytest.mark.parametrize("announced", [False, True])
def test_a_switch_in_a_callback_of_one_s_own_keeps_the_history_aligned(tmp_path, announced):
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    model = modular("end_to_end", metrics=["accuracy"])
    callbacks = [Late("local", announced), logger]
    before = logged(model)
    history = logged(model, epochs=4, callbacks=callbacks)
    assert {*before} == {"loss", "accuracy"}, "an earlier history stays as it was"
    stock, late = [False] * 4, [True, True, False, False]
    expected = {"loss": stock, "accuracy": stock, **{name: late for name in PARTS}}
    assert undefined(history) == expected
    with open(tmp_path / "log.csv") as file:
        header = next(csv.reader(file))
    assert (set(PARTS) <= set(header)) == announced


def test_a_switch_within_an_epoch_averages_over_the_batches_of_each_mode():
    model = modular("end_to_end", optimizer=still())
    expected = by_module(model, X[16:32], Y[16:32])
    modes = TrainingModeScheduler({0: "end_to_end", 1: "local", 2: "end_to_end"}, "step")
    history = logged(model, callbacks=[modes])
    for name in PARTS:
        assert history[name] == pytest.approx([expected[name]], rel=1e-5)


@pytest.mark.skipif(not on_tensorflow, reason="diagnostics are TensorFlow's")
@pytest.mark.slow
def test_auto_mode_and_diagnostics_change_no_number_and_keep_columns():
    histories = []
    for callbacks in ([], [e2e.callbacks.ModuleDiagnostics(update_freq=1)]):
        histories.append(logged(modular(), epochs=2, callbacks=callbacks))
    for name, values in histories[0].items():
        assert histories[1][name] == pytest.approx(values, rel=1e-6)
    history = logged(modular("end_to_end"), epochs=2, callbacks=[AutoMode(update_freq=1)])
    assert {len(values) for values in history.values()} == {2}
    assert {*history} == {"loss", *PARTS}


def test_loss_tracker_by_hand():
    from keras_e2e.trainers.loss_logs import LossTracker

    tracker = LossTracker(["a", "b", "c"])
    tracker.update_state({"a": 1.0, "b": 2.0}, 3)
    tracker.update_state({"a": 5.0}, 1)
    assert tracker.result() == pytest.approx(
        {"a": 2.0, "b": 2.0, "c": float("nan")}, nan_ok=True
    )
    tracker.reset_state()
    assert all(map(math.isnan, tracker.result().values()))


ELSEWHERE = """
import contextlib, keras, numpy as np
scope = contextlib.nullcontext
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    device = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        device, [tf.config.LogicalDeviceConfiguration()] * 2)
    scope = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope
from keras_e2e.callbacks import TrainingModeScheduler
from tests.trainers import test_loss_logs as tests
for options in ({}, {"run_eagerly": True}):
    with scope():
        model = tests.modular(optimizer=tests.still(), **options)
    expected = tests.by_module(model)
    modes = {0: "local", 1: "end_to_end", 2: "sequential:second"}
    history = tests.logged(model, epochs=3, callbacks=[TrainingModeScheduler(modes)])
    for name in tests.PARTS:
        third = expected[name] if name == "second_loss" else np.nan
        np.testing.assert_allclose(
            history[name], [expected[name], np.nan, third], rtol=1e-5)
    second = 3 * 3 + 1  # batches so far, and the first of this fit
    modes = TrainingModeScheduler({0: "end_to_end", second: "local"}, "step")
    history = tests.logged(model, callbacks=[modes])
    expected = tests.by_module(model, tests.X[16:], tests.Y[16:])
    for name in tests.PARTS:
        np.testing.assert_allclose(history[name], [expected[name]], rtol=1e-5)
    model.training_mode = "local"
    logs = model.train_on_batch(tests.X[:20], tests.Y[:20], return_dict=True)
    assert {*logs} == {"loss", *tests.PARTS}
"""


@pytest.mark.slow
@pytest.mark.skipif(not on_tensorflow, reason="starts other runs")
@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_they_are_the_same_on_jax_and_on_two_devices(backend):
    run = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        cwd=pathlib.Path(__file__).parents[2],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]

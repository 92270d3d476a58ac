"""The logs have the same names in every stage of a schedule, NaN where undefined."""

import csv
import math

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e
from keras_e2e.callbacks import TrainingModeScheduler
from keras_e2e.objectives import Prediction
from tests.test_readme import block, run

X = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
Y = (X[:, 0] > 0).astype("int32")


class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.a, self.b = layers.Dense(4, name="a"), layers.Dense(4, name="b")
        self.out = layers.Dense(2, activation="softmax", name="out")

    def call(self, x):
        return self.out(self.b(self.a(x)))


def functional():
    inputs = keras.Input((4,))
    b = layers.Dense(4, name="b")(layers.Dense(4, name="a")(inputs))
    return keras.Model(inputs, layers.Dense(2, activation="softmax", name="out")(b))


def staged(base=functional, **options):
    """One epoch in each stage, with a metric of the head of `a` besides the accuracy."""
    objectives = {"a": Prediction(metrics=["accuracy"]), "b": "prediction"}
    model = e2e.modularize(base(), objectives)
    loss = "sparse_categorical_crossentropy"
    model.compile("sgd", loss, metrics=["accuracy"], weighted_metrics=[loss])
    if base is Net:
        model.examine(X[:2])
    stages = {i: f"sequential:{module.name}" for i, module in enumerate(model.modules)}
    schedule = TrainingModeScheduler({**stages, 3: "end_to_end"})
    options = {"epochs": 4, "verbose": 0, **options}
    options["callbacks"] = [schedule, *options.get("callbacks", ())]
    return model.fit(X, Y, 8, **options).history


@pytest.mark.parametrize("base", [functional, Net])
@pytest.mark.parametrize("validation", [None, (X, Y)])
def test_the_logs_of_all_stages_have_the_same_names(tmp_path, base, validation):
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    history = staged(base, validation_data=validation, callbacks=[logger])
    assert {len(values) for values in history.values()} == {4}
    undefined = {k: [math.isnan(v) for v in values] for k, values in history.items()}
    first = [True, True, False, False]
    metric = "sparse_categorical_crossentropy"
    expected = {"loss": 0, "a_accuracy": 0, "accuracy": first, metric: first}
    if validation:
        expected |= {f"val_{name}": 0 for name in expected}
    task = "out" if base is functional else "outputs"
    for index, name in enumerate(["a", "b", task]):
        expected[f"{name}_loss"] = [stage != index for stage in range(4)]
    assert undefined == {name: each or [False] * 4 for name, each in expected.items()}
    with open(tmp_path / "log.csv") as file:
        rows = list(csv.DictReader(file))
    assert {*rows[0]} >= {"epoch", *expected}
    assert rows[3]["accuracy"] == str(history["accuracy"][3])


def test_each_batch_has_the_logs_of_the_epoch_but_for_single_losses():
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append({*logs}),
        on_epoch_end=lambda epoch, logs: seen.append(
            {*logs} - {"a_loss", "b_loss", "out_loss"}
        ),
    )
    staged(callbacks=[watch])
    assert len(seen) == 12 and all(names == seen[0] for names in seen)


def test_several_outputs_have_the_names_of_their_losses():
    inputs = keras.Input((4,))
    a = layers.Dense(4, name="a")(inputs)
    outputs = {"one": layers.Dense(2, name="one")(a), "two": layers.Dense(1, name="two")(a)}
    model = e2e.modularize(keras.Model(inputs, outputs), {"a": "reconstruction"})
    model.compile("sgd", {"one": "mse", "two": "mae"}, metrics={"two": ["mse"]})
    y = {"one": X[:, :2], "two": X[:, :1]}
    schedule = TrainingModeScheduler({0: "sequential:a", 1: "end_to_end"})
    history = model.fit(X, y, 8, 2, verbose=0, callbacks=[schedule]).history
    assert {len(values) for values in history.values()} == {2}
    assert {*history} == {"loss", "a_loss", "one_loss", "two_loss", "two_mse"}
    assert [math.isnan(value) for value in history["a_loss"]] == [False, True]
    assert math.isnan(history["one_loss"][0]) and not math.isnan(history["one_loss"][1])


def test_early_stopping_begins_where_the_task_is_trained():
    """`val_loss` is the task's in every mode: it does not fall in the first stages."""
    stop = keras.callbacks.EarlyStopping("val_loss", patience=1, start_from_epoch=2)
    history = staged(validation_data=(X, Y), callbacks=[stop])
    assert len(history["loss"]) == 4


def test_evaluation_between_stages_is_not_undefined():
    model = e2e.modularize(functional(), ["a", "b"])
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.training_mode = "sequential:a"
    logs = model.train_on_batch(X, Y, return_dict=True)
    assert math.isnan(logs["accuracy"])
    assert not math.isnan(model.evaluate(X, Y, verbose=0, return_dict=True)["accuracy"])
    assert not math.isnan(model.test_on_batch(X, Y, return_dict=True)["accuracy"])


@pytest.mark.parametrize("anew", [False, True])
def test_callbacks_that_compare_epochs_can_start_anew_with_a_stage(tmp_path, anew):
    """The first stage has the smaller loss: the second would never improve on it."""
    model = e2e.modularize(functional(), {"a": Prediction(weight=0.1), "b": "prediction"})
    model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
    schedule = {0: "sequential:a", 3: "sequential:b"}
    names = run(
        block("EarlyStopping", "docs/guides/modes.md"), keras=keras, schedule=schedule
    )
    best = keras.callbacks.ModelCheckpoint(
        tmp_path / "{epoch}.weights.h5", "loss", save_best_only=True, save_weights_only=True
    )
    best_anew = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: epoch in schedule and setattr(best, "best", None)
    )
    begin = [names["anew"], best_anew] if anew else []
    callbacks = [TrainingModeScheduler(schedule), *begin, names["stop"], best]
    options = {"verbose": 0, "shuffle": False, "callbacks": callbacks}
    history = model.fit(X, Y, batch_size=16, epochs=7, **options).history
    saved = {path.name[0] for path in tmp_path.iterdir()}
    assert len(history["loss"]) == (7 if anew else 6)
    assert saved == ({*"1234567"} if anew else {*"123"})

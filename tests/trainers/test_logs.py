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
    assert undefined == {name: each or [False] * 4 for name, each in expected.items()}
    with open(tmp_path / "log.csv") as file:
        rows = list(csv.DictReader(file))
    assert {*rows[0]} >= {"epoch", *expected}
    assert rows[3]["accuracy"] == str(history["accuracy"][3])


def test_each_batch_has_the_logs_of_the_epoch():
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append({*logs}),
        on_epoch_end=lambda epoch, logs: seen.append({*logs}),
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
    assert {*history} == {"loss", "one_loss", "two_loss", "two_mse"}
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

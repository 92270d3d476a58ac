"""`evaluate_modules` and `goodness_predict`: numbers by hand, and nothing changes."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import keras_e2e as e2e
from keras_e2e.models.goodness import goodness_predict
from keras_e2e.objectives import (
    BarlowTwins,
    DirectFeedbackAlignment,
    ForwardForward,
    InfoNCE,
    IntermediateTarget,
    Prediction,
    PredSim,
    Reconstruction,
)
from tests.conformance import models


def modular(kind, objectives, mode="end_to_end", metrics=("accuracy",), **kwargs):
    """A compiled modular model of `conformance.models`."""
    model = e2e.modularize(models.build(kind), objectives, training_mode=mode)
    model.compile("adam", **models.losses(kind), metrics=list(metrics), **kwargs)
    return model


def data(kind, n=22):
    return models.inputs(kind, n), models.targets(kind, n)


def crossentropy(probabilities, y):
    return -np.log(np.asarray(probabilities)[np.arange(len(y)), y])


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["end_to_end", "local", "sequential:first"])
def test_each_head_gets_its_loss_and_metrics_in_every_mode(mode):
    model = modular("rich", {"first": Prediction("mlp"), "second": Reconstruction()}, mode)
    x, y = data("rich")
    model.fit(x, y, batch_size=8, verbose=0)
    found = model.evaluate_modules(x, y, batch_size=8)
    told = model.early_exit_model("first").predict(x, verbose=0)
    assert list(found) == ["first", "second", "out"]
    np.testing.assert_allclose(
        found["first"]["loss"], crossentropy(told, y).mean(), rtol=1e-5
    )
    assert found["first"]["accuracy"] == pytest.approx((told.argmax(1) == y).mean())
    assert list(found["second"]) == ["loss"] and found["second"]["loss"] > 0
    stock = model.evaluate(x, y, batch_size=8, verbose=0, return_dict=True)
    assert found["out"] == pytest.approx(stock, rel=1e-5)
    assert all(type(v) is float for row in found.values() for v in row.values())


def test_weights_of_examples_weigh_losses_and_weighted_metrics():
    model = modular(
        "dense", {"first": Prediction(), "second": "pred"}, weighted_metrics=["acc"]
    )
    x, y = data("dense")
    weight = np.linspace(0, 2, len(y)).astype("float32")
    found = model.evaluate_modules(x, y, sample_weight=weight)
    told = model.early_exit_model("first").predict(x, verbose=0)
    right = told.argmax(1) == y
    assert found["first"] == pytest.approx(
        {
            "loss": (crossentropy(told, y) * weight).mean(),
            "accuracy": right.mean(),
            "acc": (right * weight).sum() / weight.sum(),
        },
        rel=1e-5,
    )
    stock = model.evaluate(x, y, sample_weight=weight, verbose=0, return_dict=True)
    assert found["out"] == pytest.approx(stock, rel=1e-5)


@pytest.mark.slow
def test_nothing_of_the_model_changes():
    objectives = {"first": Prediction("conv1"), "second": BarlowTwins()}
    model = modular("conv", objectives, "local")
    x, y = data("conv")
    model.fit(x, y, verbose=0)
    random_states = random.getstate(), np.random.get_state()[1].tolist()

    def state():
        variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
        return [v.numpy() for v in variables]

    before = state()
    model.evaluate_modules(x, y, batch_size=7, probe_data=(x, y), probe_epochs=1)
    after = state()
    assert models.same(before, after)
    assert random_states == (random.getstate(), np.random.get_state()[1].tolist())
    assert str(model.training_mode) == "local" and model.optimizer.iterations == 1


def test_heads_run_in_inference_mode():
    head = keras.Sequential([layers.Dropout(0.9, seed=1), layers.Dense(models.CLASSES)])
    model = modular("dense", {"first": Prediction(head)})
    x, y = data("dense")
    first, second = (model.evaluate_modules(x, y, batch_size=n)["first"] for n in (4, 22))
    assert first == pytest.approx(second, rel=1e-5)


class Loader(keras.utils.PyDataset):
    """Batches of 8."""

    def __init__(self, *arrays):
        super().__init__()
        self.arrays = arrays

    def __len__(self):
        return -(-len(self.arrays[0]) // 8)

    def __getitem__(self, i):
        return tuple(a[8 * i : 8 * i + 8] for a in self.arrays)


def test_datasets_are_evaluated_as_arrays_are():
    model = modular("dense", {"first": PredSim(), "second": InfoLess()})
    x, y = data("dense")
    arrays = model.evaluate_modules(x, y, batch_size=8)
    for source in (tf.data.Dataset.from_tensor_slices((x, y)).batch(8), Loader(x, y)):
        found = model.evaluate_modules(source)
        assert list(found) == list(arrays)
        for name, numbers in arrays.items():
            assert found[name] == pytest.approx(numbers, rel=1e-6)


class InfoLess(e2e.objectives.LocalObjective):
    """What a user might write: a loss without labels or head."""

    def loss(self, activation, batch):
        return ops.abs(activation)


def test_a_loss_without_its_labels_is_left_out():
    objectives = {
        "first": IntermediateTarget(head="mlp", units=4),
        "second": DirectFeedbackAlignment(),
    }
    model = modular("dense", objectives)
    x, y = data("dense")
    found = model.evaluate_modules(x, y)
    assert found["first"] == {} and found["second"] == {}
    labels = np.arange(len(y)) % 4
    found = model.evaluate_modules(x, {"out": y, "first": labels})
    told = model.early_exit_model("first").predict(x, verbose=0)
    assert found["first"] == pytest.approx({"loss": crossentropy(told, labels).mean()})
    model = modular("dense", {"first": None, "second": Reconstruction()})
    found = model.evaluate_modules(x)
    assert found["first"] == found["out"] == {} and list(found["second"]) == ["loss"]


@pytest.mark.slow
def test_several_outputs_are_told_apart_by_name():
    model = modular(
        "two_outputs",
        {"first": "pred", "second": Prediction(output_name="kind")},
        metrics=(),
    )
    model.compile(
        "adam",
        **models.losses("two_outputs"),
        metrics={"kind": ["accuracy"], "size": "mae"},
    )
    x, y = data("two_outputs")
    found = model.evaluate_modules(x, y, probe_data=(x, y), probe_epochs=1)
    metrics = {"kind_accuracy", "size_mae"}
    probes = {"probe_kind_accuracy", "probe_kind_loss", "probe_size_mae", "probe_size_loss"}
    assert set(found["first"]) == {"loss"} | metrics | probes
    assert set(found["second"]) == {"loss", "kind_accuracy"} | probes
    stock = model.evaluate(x, y, verbose=0, return_dict=True)
    last = found["outputs"]
    assert last == pytest.approx({name: stock[name] for name in last}, rel=1e-5)


@pytest.mark.slow
def test_a_probe_reads_off_what_is_there_and_the_same_each_time():
    inputs = keras.Input((4, 4, 1))
    kept = layers.Rescaling(100.0, name="kept")(inputs)
    lost = layers.Lambda(lambda t: t * 0, name="lost")(kept)
    outputs = layers.Dense(2, activation="softmax", name="out")(layers.Flatten()(lost))
    model = e2e.modularize(keras.Model(inputs, outputs), ["kept", "lost"])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    x = np.random.RandomState(0).rand(300, 4, 4, 1).astype("float32")
    y = (x.sum(axis=(1, 2, 3)) > 8).astype("int32")
    once, twice = (
        model.evaluate_modules(
            x[200:], y[200:], probe_data=(x[:200], y[:200]), probe_epochs=15
        )
        for _ in range(2)
    )
    assert once == twice
    assert once["kept"]["probe_accuracy"] > 0.9 and once["kept"]["probe_loss"] < 0.4
    assert once["lost"]["probe_accuracy"] < 0.7
    assert not [name for name in once["out"] if name.startswith("probe")]


def test_a_subclassed_model_is_evaluated():
    model = modular("subclassed", {"first": "pred", "second": Reconstruction()})
    x, y = data("subclassed")
    found = model.evaluate_modules(x, y, probe_data=(x, y), probe_epochs=1)
    assert set(found["first"]) == {"loss", "accuracy", "probe_loss", "probe_accuracy"}
    stock = model.evaluate(x, y, verbose=0, return_dict=True)
    assert found["outputs"] == pytest.approx(stock, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"probe_data": True}, "expected .x_train, y_train."),
        ({"probe_data": (1,)}, "found 1 entries"),
        ({"y": np.zeros(3)}, r"lengths \[3, 22\]"),
        ({"x": tf.data.Dataset.range(3)}, "Leave y and sample_weight out"),
        ({"y": None, "probe_data": True}, "expected"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    model = modular("dense", {"first": "pred"})
    x, y = data("dense")
    with pytest.raises(ValueError, match=message):
        model.evaluate_modules(**{"x": x, "y": y, **arguments})


def test_what_cannot_be_evaluated_is_refused():
    x, y = data("dense")
    with pytest.raises(ValueError, match="not compiled"):
        e2e.modularize(models.build("dense"), ["first"]).evaluate_modules(x, y)
    model = modular("dense", {"first": "pred"})
    with pytest.raises(ValueError, match="a probe needs targets of the output 'out'"):
        model.evaluate_modules(x, probe_data=(x, y))
    wrapped = e2e.modularize(models.Chain(name="c"), {})
    with pytest.raises(RuntimeError, match="examine"):
        wrapped.evaluate_modules(x, y)


def test_goodness_is_that_of_each_class_written_over_the_input():
    objective = {name: ForwardForward(overlay=2.0) for name in models.CUTS}
    model = e2e.modularize(models.build("dense"), objective)
    x, _ = data("dense", 5)
    found = goodness_predict(model, x, batch_size=2)
    assert found.shape == (5, models.CLASSES) and found.dtype == np.float32
    second = keras.Sequential([model.get_layer("first"), model.get_layer("second")])
    for label in range(models.CLASSES):
        written = x.copy()
        written[:, : models.CLASSES] = 2.0 * np.eye(models.CLASSES)[label]
        activation = np.asarray(second(written))
        np.testing.assert_allclose(found[:, label], (activation**2).mean(axis=1), rtol=1e-5)
    only = e2e.modularize(models.build("dense"), {"first": ForwardForward()})
    assert goodness_predict(only, x).shape == (5, models.CLASSES)
    with pytest.raises(ValueError, match=r"no boundary .* ForwardForward"):
        goodness_predict(e2e.modularize(models.build("dense"), ["first"]), x)
    with pytest.raises(ValueError, match="modular model"):
        goodness_predict(models.build("dense"), x)


def test_an_objective_that_draws_is_evaluated_the_same_each_time():
    model = modular("conv", {"first": InfoNCE(num_steps=2, num_negatives=4, seed=1)})
    x, y = data("conv")
    assert model.evaluate_modules(x, y) == model.evaluate_modules(x, y)

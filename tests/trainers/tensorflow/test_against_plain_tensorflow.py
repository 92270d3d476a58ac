"""Loss, gradients and updates of each step of `fit`, against a loop in plain TensorFlow."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import keras_e2e as e2e
from keras_e2e.callbacks import ModuleDiagnostics
from keras_e2e.diagnostics import GradRMS, ModuleLoss, UpdateRatio

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 6)).astype("float32")
Y = np.arange(24) % 3
WORDS = RNG.integers(1, 9, (24, 5))
WORDS[::2, 3:] = 0
TAGS = RNG.integers(0, 3, (24, 5))
SIZE, EPOCHS = 4, 2
LOSS = "sparse_categorical_crossentropy"


@keras.saving.register_keras_serializable("plain_tensorflow")
class Composite(layers.Layer):
    """Two Dense layers, each of which may be frozen, and a loss of their own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(8, "tanh", name="first")
        self.second = layers.Dense(8, "tanh", name="second")

    def build(self, shape):
        self.first.build(shape)
        self.second.build((None, 8))

    def call(self, x):
        x = self.second(self.first(x))
        self.add_loss(0.1 * ops.mean(ops.square(x)))
        return x


def dense(**first):
    return [
        keras.Input((6,)),
        layers.Dense(8, "relu", name="a", **first),
        layers.BatchNormalization(name="norm"),
        layers.Dense(8, "relu", kernel_regularizer="l2", name="b"),
        layers.Dense(3, "softmax", name="out"),
    ]


def tagger():
    return [
        keras.Input((5,)),
        layers.Embedding(9, 6, mask_zero=True, name="words"),
        layers.LSTM(8, return_sequences=True, name="a"),
        layers.Dense(3, "softmax", name="out"),
    ]


def composite():
    return [
        keras.Input((6,)),
        Composite(name="a"),
        layers.Dense(8, "relu", name="b"),
        layers.Dense(3, "softmax", name="out"),
    ]


def frozen(name, trainable=False):
    def change(model):
        model.get_layer(name).trainable = trainable

    return change


def partly_frozen(model):
    model.get_layer("a").trainable = False
    model.get_layer("a").second.trainable = True


def nothing(model):
    del model


@dataclasses.dataclass
class Case:
    """A network, its data, and what is frozen or thawed before each of two fits.

    Attributes:
        layers: Function that makes the layers.
        modules: Dict from module to its layers.
        data: Tuple of x, y and sample weights or None.
        before: Function applied to the model before it is compiled.
        between: Function applied to it between the fits, without `compile`.
    """

    layers: Callable
    modules: dict[str, list[str]]
    data: tuple = (X, Y, None)
    before: Callable = nothing
    between: Callable = nothing

    def model(self) -> Any:
        keras.utils.set_random_seed(2)
        model = keras.Sequential(self.layers())
        self.before(model)
        return model


TWO = {"a": ["a"], "b": ["norm", "b"], "out": ["out"]}
CASES = {
    "penalties": Case(lambda: dense(activity_regularizer="l2"), TWO),
    "sample weights": Case(dense, TWO, (X, Y, RNG.uniform(0, 2, 24).astype("float32"))),
    "masks": Case(tagger, {"a": ["words", "a"], "out": ["out"]}, (WORDS, TAGS, None)),
    "frozen": Case(dense, TWO, before=frozen("b")),
    "frozen later": Case(dense, TWO, between=frozen("a")),
    "thawed later": Case(dense, TWO, before=frozen("a"), between=frozen("a", True)),
    "composite": Case(
        composite, {"a": ["a"], "b": ["b"], "out": ["out"]}, before=partly_frozen
    ),
}


def norm(tensors):
    return np.sqrt(sum(np.sum(np.asarray(t, "float64") ** 2) for t in tensors))


def numbers(variables, gradients, before):
    """What is expected of one module; NaN where nothing of it is trained."""
    if not variables:
        return {"grad_rms": np.nan, "update_ratio": np.nan}
    size = sum(v.size for v in before)
    moved = [v.numpy() - old for v, old in zip(variables, before, strict=True)]
    dense = [tf.convert_to_tensor(g) for g in gradients]
    return {
        "grad_rms": norm(dense) / np.sqrt(size),
        "update_ratio": norm(moved) / norm(before),
    }


def by_hand(case):
    """By step and module the numbers expected; Keras's own loss is taken."""
    model = case.model()
    model.compile(loss=LOSS)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    trained = model.trainable_variables
    optimizer.build(trained)
    places = {}
    for module, names in case.modules.items():
        own = {id(v) for name in names for v in model.get_layer(name).variables}
        places[module] = [i for i, v in enumerate(trained) if id(v) in own]
    found = []
    starts = [*range(0, len(case.data[0]), SIZE)] * EPOCHS
    for number, start in enumerate(starts * 2):
        if number == len(starts):
            case.between(model)
        x, y, weight = (
            None if part is None else part[start : start + SIZE] for part in case.data
        )
        with tf.GradientTape() as tape:
            y_pred = model(x, training=True)
            loss = model.compute_loss(x, y, y_pred, weight, training=True)
        gradients = tape.gradient(loss, trained)
        before = [v.numpy() for v in trained]
        optimizer.apply_gradients(zip(gradients, trained, strict=True))
        found.append({})
        for module, own in places.items():
            parts = ([each[i] for i in own] for each in (trained, gradients, before))
            found[-1][module] = {"loss": np.nan, **numbers(*parts)}
        found[-1][module]["loss"] = float(loss)
    return found


@pytest.mark.parametrize("steps_per_execution", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_each_measurement_is_that_of_a_plain_loop(name, steps_per_execution):
    case = CASES[name]
    expected = by_hand(case)
    base = case.model()
    model = e2e.modularize(base, [*case.modules][:-1])
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(optimizer, LOSS, steps_per_execution=steps_per_execution)
    x, y, weight = case.data
    for fit in range(2):
        if fit:
            case.between(base)
        watch = ModuleDiagnostics(1, [ModuleLoss(), GradRMS(), UpdateRatio()])
        options = {"batch_size": SIZE, "epochs": EPOCHS, "shuffle": False, "verbose": 0}
        model.fit(x, y, sample_weight=weight, callbacks=[watch], **options)
        count, every = EPOCHS * len(x) // SIZE, steps_per_execution
        assert watch.steps == [*range(fit * count + every, (fit + 1) * count + 1, every)]
        for quantity, by_module in watch.history.items():
            for module, values in by_module.items():
                np.testing.assert_allclose(
                    values,
                    [expected[step - 1][module][quantity] for step in watch.steps],
                    rtol=2e-3,
                    atol=1e-6,
                    err_msg=f"{quantity} of {module}, fit {fit}",
                )

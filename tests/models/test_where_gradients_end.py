"""A diagnosis names the operations that let no gradient pass."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_e2e as e2e

# Keras warns of variables without a gradient.
pytestmark = pytest.mark.filterwarnings("ignore:Gradients do not exist")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(320, 8)).astype("float32")
Y = X[:, :3].argmax(1)

LOST = {
    "stop_gradient": ops.stop_gradient,
    "argmax": lambda t: ops.one_hot(ops.argmax(t, axis=-1), 16),
    "greater": lambda t: ops.cast(t > 0.0, "float32"),
    "round": ops.round,
    "sign": ops.sign,
}


def diagnosed(between, boundaries=("first", "second")):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    hidden = layers.Dense(16, name="first")(inputs)
    hidden = layers.Dense(16, activation="relu", name="second")(between(hidden))
    outputs = layers.Dense(3, activation="softmax", name="classes")(hidden)
    model = keras.Model(inputs, outputs)
    model.compile("adam", "sparse_categorical_crossentropy")
    ends = list(boundaries)
    return e2e.diagnose(model, X, Y, steps=60, boundaries=ends, verbose=0)


@pytest.mark.parametrize("operation", LOST)
def test_an_operation_without_gradient_is_named(operation):
    found = diagnosed(LOST[operation])
    assert found.verdicts["second"].state == "vanishing"
    assert "It is exactly 0" in found.verdicts["second"].message
    said = "second holds operations that let no gradient pass:"
    (note,) = [note for note in found.notes if note.startswith(said)]
    assert operation in note
    assert note in " ".join(str(found).split())


def test_of_a_nested_model_the_operation_is_named():
    inner = keras.Input((16,))
    nested = keras.Model(inner, ops.stop_gradient(layers.Dense(16)(inner)), name="nested")
    found = diagnosed(nested)
    assert found.notes[0].startswith("second holds operations")
    assert "stop_gradient" in found.notes[0]


def test_the_last_module_goes_by_its_name():
    found = diagnosed(ops.stop_gradient, boundaries=["first"])
    assert [note.split(" holds ")[0] for note in found.notes[:1]] == ["classes"]


def test_where_a_signal_comes_through_no_operation_is_blamed():
    """A mask is made by a comparison, beside the way of the signal."""

    def masked(tensor):
        return tensor * ops.cast(tensor > 0.0, "float32")

    found = diagnosed(masked)
    assert not any("gradient" in note for note in found.notes)


def test_a_layer_is_not_judged_by_its_name():
    class Round(layers.Layer):
        def call(self, inputs):
            return layers.Activation("relu")(inputs - 1e3)

    found = diagnosed(Round())
    assert found.verdicts["second"].numbers["signal_gain"] == 0.0
    assert not any("let no gradient pass" in note for note in found.notes)


def test_units_that_are_off_are_not_blamed_on_an_operation():
    def off(tensor):
        return layers.Activation("relu")(tensor - 1e3)

    found = diagnosed(off)
    assert found.verdicts["second"].numbers["signal_gain"] == 0.0
    assert not any("let no gradient pass" in note for note in found.notes)

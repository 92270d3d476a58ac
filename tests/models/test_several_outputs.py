"""Boundaries after layers that return several tensors."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e

X = np.random.default_rng(0).normal(size=(8, 5, 3)).astype("float32")
Y = np.ones((8, 2), "float32")


def recurrent(used):
    """The second layer takes these of the tensors that the first one returns."""
    inputs = keras.Input((5, 3))
    found = layers.LSTM(4, return_sequences=True, return_state=True, name="first")(inputs)
    state = found[1:] if "state" in used else None
    if "sequence" in used:
        x = layers.LSTM(4, name="second")(found[0], initial_state=state)
    else:
        x = layers.Dense(4, name="second")(found[2])
    return keras.Model(inputs, layers.Dense(2, name="out")(x), name="net")


@pytest.mark.parametrize("used", [["sequence"], ["cell"]])
@pytest.mark.parametrize("mode", ["local", "end_to_end"])
def test_the_boundary_is_set_on_the_one_that_is_used(used, mode):
    base = recurrent(used)
    model = e2e.modularize(base, ["first"], training_mode=mode)
    np.testing.assert_array_equal(model(X), base(X))
    assert len(model.boundaries["first"].output.shape) == (3 if "sequence" in used else 2)
    model.compile("adam", "mse")
    model.fit(X, Y, verbose=0)
    np.testing.assert_array_equal(e2e.strip(model)(X), base(X))


def test_a_number_of_boundaries_counts_it():
    assert list(e2e.modularize(recurrent(["sequence"]), 2).boundaries) == [
        "first",
        "second",
    ]


def test_end_to_end_it_trains_as_stock_keras():
    found = []
    for modular in (False, True):
        keras.utils.set_random_seed(0)
        base = model = recurrent(["sequence"])
        if modular:
            model = e2e.modularize(base, ["first"])
        model.compile("adam", "mse")
        keras.utils.set_random_seed(1)
        model.fit(X, Y, epochs=2, verbose=0)
        found.append(base.get_weights())
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_where_several_are_used_all_of_them_cross_it():
    base = recurrent(["sequence", "state"])
    model = e2e.modularize(base, ["first"], training_mode="local")
    boundary = model.boundaries["first"]
    assert boundary.tensors == ("first:0", "first:1", "first:2")
    assert boundary.seen == (0, 1, 2)  # none of them leads to another
    np.testing.assert_array_equal(model(X), base(X))
    model.compile("adam", "mse")
    model.fit(X, Y, verbose=0)
    np.testing.assert_array_equal(e2e.strip(model)(X), base(X))


def test_a_nested_model_of_several_outputs():
    inside = keras.Input((3,))
    x = layers.Dense(4, name="d0")(inside)
    inner = keras.Model(inside, [layers.Dense(3, name="d1")(x), x], name="inner")
    inputs = keras.Input((3,))
    one, two = inner(inputs)
    x, x2 = np.ones((4, 3), "float32"), np.ones((4, 2))
    base = keras.Model(inputs, layers.Dense(2)(one))
    model = e2e.modularize(base, ["inner"], training_mode="local")
    model.compile("sgd", "mse")
    model.fit(x, x2, verbose=0)
    np.testing.assert_array_equal(model(x), base(x))
    both = keras.Model(inputs, layers.Dense(2)(layers.Concatenate(name="c")([one, two])))
    assert e2e.modularize(both, ["inner"]).boundaries["inner"].tensors == (
        "inner:0",
        "inner:1",
    )

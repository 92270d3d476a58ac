"""Several tensors that one boundary cannot pass: what is said, and what works."""

import re

import keras
import pytest
from keras import layers, ops

import keras_e2e as e2e
from tests.models.test_boundaries_of_several_tensors import (
    Small,
    data,
    dense_net,
    unet,
    wide_and_deep,
)


def refused(message, function, *args, **kwargs):
    with pytest.raises(ValueError, match=message):
        function(*args, **kwargs)


def test_names_that_cannot_be():
    for bad, message in [
        ([("skip1", "skip1")], r"names layer 'skip1' 2 times"),
        ([("skip1", "pool1"), "skip1"], r"'skip1' is named twice"),
        ([("skip1", "pool1"), ("skip1", "pool1")], r"is named 2 times"),
        ([()], r"empty tuple"),
        ([("skip1", 3)], r"Found: 3"),
        ([("skip1", "pol1")], r"no layer 'pol1'. Did you mean 'pool1'"),
        ([("x", "pool1")], r"'x' is an input"),
        ([("skip1", "y")], r"stands on the model's output"),
    ]:
        refused(message, e2e.modularize, unet(), bad)
    named = list(e2e.modularize(unet(), [("cat",)], objective=None).boundaries)
    assert named == ["cat"]  # a tuple of one


def test_the_path_around_is_named_and_the_advice_works():
    base = dense_net()
    refused(
        r"'d1' is bypassed: layer 'd0' .* d0 -> .*\('d0', 'd1'\)",
        *(e2e.modularize, base, ["d1"]),
    )
    refused(
        r"'d2' is bypassed: layer 'd\d' .* \('d1', 'd0', 'd2'\)",
        *(e2e.modularize, base, [("d0", "d2")]),
    )
    for advised in (("d0", "d1"), ("d1", "d0", "d2")):
        model = e2e.modularize(base, [advised], training_mode="local")
        assert list(model.boundaries) == [advised[-1]]


def test_two_levels_are_advised_one_after_the_other():
    x = keras.Input((4,))
    skip1 = layers.Dense(4, name="skip1")(x)
    pool1 = layers.ReLU(name="pool1")(skip1)
    skip2 = layers.Dense(4, name="skip2")(pool1)
    deep = layers.Dense(4, name="deep")(layers.ReLU(name="pool2")(skip2))
    up = layers.Dense(4, name="up")(layers.Concatenate()([deep, skip2]))
    y = layers.Dense(1, name="y")(layers.Concatenate()([up, skip1]))
    base = keras.Model(x, y)
    one, both = ("skip1", "pool1"), ("skip1", "skip2", "pool2")
    for given, message in [
        (["pool1", "pool2"], r"'pool1' is bypassed.* \('skip1', 'pool1'\)\.$"),
        ([one, "pool2"], r"'pool2' is bypassed.* \('skip2', 'pool2'\)\.$"),
        ([one, both], r"'skip1' is named twice.* Name it in 'pool1' alone"),
    ]:
        refused(message, e2e.modularize, base, given)
    advised = e2e.modularize(base, [one, ("skip2", "pool2")])
    assert list(advised.boundaries) == ["pool1", "pool2"]


def test_a_layer_of_several_tensors_is_advised_too():
    x = keras.Input((3, 4))
    before = layers.Dense(4, name="before")(x)
    lstm = layers.LSTM(4, return_sequences=True, return_state=True, name="lstm")
    steps, *state = lstm(before)
    second = layers.LSTM(4, return_sequences=True, name="second")(
        steps, initial_state=state
    )
    y = layers.Dense(1, name="y")(layers.Concatenate()([second, steps, before]))
    base = keras.Model(x, y)
    for given, advised in [
        (["second"], ("before", "lstm", "second")),
        (["lstm"], ("before", "lstm")),
    ]:
        refused(rf"both paths, {re.escape(str(advised))}\.$", e2e.modularize, base, given)
        model = e2e.modularize(base, [advised])
        assert list(model.boundaries) == given
        together = [*advised[: -len(given)], *given]
        assert list(e2e.modularize(base, together).boundaries) == together


class Coded(keras.Model):
    """Wide and deep, in code; `together` is a boundary or None."""

    def __init__(self, together=None):
        super().__init__(name="coded")
        self.wide, self.deep = layers.Dense(2, name="wide"), layers.Dense(3, name="deep")
        self.last, self.together = layers.Dense(2, name="y"), together

    def call(self, x):
        found = [self.wide(x), self.deep(x)]
        found = found if self.together is None else self.together(found)
        return self.last(ops.concatenate(found, axis=-1))


def test_in_code_each_is_named_by_itself_or_one_boundary_is_applied():
    x, y = data(5), data(2)
    refused(
        r"without a tuple, boundaries=\['wide', 'deep'\]",
        *(e2e.modularize, Coded(), [("wide", "deep")]),
    )
    alone = e2e.modularize(Coded(), ["wide", "deep"], training_mode="local")
    boundary = e2e.ModuleBoundary(Small(tensors=[0, 1]), module="both")
    together = e2e.modularize(Coded(boundary), training_mode="local")
    for model, names in (alone, ["wide", "deep"]), (together, ["both"]):
        model.compile("adam", "mse", jit_compile=False)
        model.fit(x, y, verbose=0)
        assert list(model.boundaries) == names
    assert boundary.seen == (0, 1)
    assert len(together.modules[0].variables) == 4


def test_a_signal_at_one_tensor_is_for_one_that_is_named():
    given = {("wide", "deep"): "synthetic_gradient"}
    message = r"Name one of them: SyntheticGradient\(tensors='deep'\)"
    refused(message, e2e.modularize, wide_and_deep(), given)
    given = {("wide", "deep"): e2e.objectives.SyntheticGradient(tensors="deep")}
    assert e2e.modularize(wide_and_deep(), given).boundaries["deep"].seen == (1,)


def test_two_that_wait_for_each_other_are_one():
    inputs = keras.Input((5,), name="x")
    a1, b2 = layers.Dense(2, name="a1")(inputs), layers.Dense(2, name="b2")(inputs)
    b1, a2 = layers.Dense(2, name="b1")(a1), layers.Dense(2, name="a2")(b2)
    y = layers.Dense(2, name="y")(layers.Concatenate()([b1, a2]))
    base = keras.Model(inputs, y)
    refused("before the other", e2e.modularize, base, [("a1", "a2"), ("b1", "b2")])
    assert list(e2e.modularize(base, [("a1", "b2", "b1", "a2")]).boundaries) == ["a2"]


def test_a_layer_that_is_called_twice_is_refused():
    inputs, twice = keras.Input((5,), name="x"), layers.Dense(5, name="twice")
    wide = layers.Dense(2, name="wide")(inputs)
    y = layers.Concatenate(name="cat")([twice(twice(inputs)), wide])
    base = keras.Model(inputs, layers.Dense(2, name="y")(y))
    refused("'twice' is called 2 times", e2e.modularize, base, [("twice", "wide")])

"""Training modes: their spellings, and which gradients flow in each."""

import dataclasses

import keras
import numpy as np
import pytest

import keras_e2e as e2e
from keras_e2e import TrainingMode

# mode, (stops at "a", stops at "b"), (weight of "a", weight of "b")
TABLE = [
    ("end_to_end", (False, False), (0.0, 0.0)),
    ("local", (True, True), (1.0, 1.0)),
    ("deep_supervision", (False, False), (1.0, 1.0)),
    ("sequential:a", (True, True), (1.0, 0.0)),
    ("sequential:b", (True, True), (0.0, 1.0)),
    ("sequential:out", (True, True), (0.0, 0.0)),
    (TrainingMode("mixed", stop=["a"]), (True, False), (1.0, 0.0)),
    (TrainingMode("mixed", stop=["a", "b"]), (True, True), (1.0, 1.0)),
    (TrainingMode("mixed", stop="b", weights={"a": 0.5}), (False, True), (0.5, 1.0)),
    (TrainingMode("mixed", stop=["a"], weights=0.3), (True, False), (0.3, 0.0)),
    (TrainingMode("local", weights=0.3), (True, True), (0.3, 0.3)),
    (TrainingMode("local", weights={"b": 2}), (True, True), (1.0, 2.0)),
    (TrainingMode("local", weights={"a": 0}), (True, True), (0.0, 1.0)),
    (TrainingMode("deep_supervision", weights=0), (False, False), (0.0, 0.0)),
    (TrainingMode("sequential:a", weights=4.0), (True, True), (4.0, 0.0)),
    (TrainingMode("sequential:a", weights={"a": 4}), (True, True), (4.0, 0.0)),
]

MODES = [TrainingMode.get(mode) for mode, _, _ in TABLE]


@pytest.mark.parametrize(("mode", "stops", "weights"), TABLE, ids=str)
def test_each_mode_stops_and_weighs_as_its_table_says(mode, stops, weights):
    mode = TrainingMode.get(mode)
    assert (mode.stops("a"), mode.stops("b")) == stops
    assert (mode.weight("a"), mode.weight("b")) == weights


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_mode_survives_its_config(mode):
    again = TrainingMode.get(mode.get_config())
    assert again == mode
    assert hash(again) == hash(mode)


def test_all_modes_are_told_apart_by_equality_and_by_their_text():
    assert len(set(MODES)) == len(MODES)
    assert len({str(mode) for mode in MODES}) == len(MODES)


def test_the_order_of_the_weights_makes_no_other_mode():
    one = TrainingMode("local", weights={"a": 1, "b": 2})
    other = TrainingMode("local", weights={"b": 2.0, "a": 1.0})
    assert one == other
    assert hash(one) == hash(other)


def test_a_mode_cannot_be_changed():
    mode = TrainingMode("local")
    with pytest.raises(dataclasses.FrozenInstanceError):
        mode.name = "end_to_end"


def test_spellings_of_the_same_mode_are_equal():
    assert TrainingMode("sequential:a") == TrainingMode("sequential", module="a")
    assert TrainingMode("sequential:a", module="a").module == "a"
    assert TrainingMode("mixed", stop="a") == TrainingMode("mixed", stop=["a"])
    assert TrainingMode.get("local") == TrainingMode("local")
    mode = TrainingMode("local")
    assert TrainingMode.get(mode) is mode


def test_a_module_name_may_hold_a_colon():
    assert TrainingMode("sequential:block:1").module == "block:1"


def test_names_are_those_that_the_mode_mentions():
    assert TrainingMode("local", weights=2.0).names() == set()
    assert TrainingMode("local", weights={"a": 1}).names() == {"a"}
    assert TrainingMode("sequential:b").names() == {"b"}
    mixed = TrainingMode("mixed", stop=["a"], weights={"b": 1})
    assert mixed.names() == {"a", "b"}


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        (TrainingMode("local"), "local"),
        (TrainingMode("sequential:a"), "sequential (a)"),
        (TrainingMode("local", weights=0.5), "local (x0.5)"),
        (TrainingMode("mixed", stop=["a", "b"]), "mixed (stop a, b)"),
    ],
)
def test_the_text_of_a_mode_is_short(mode, text):
    assert str(mode) == text


@pytest.mark.parametrize("number", [np.float64(0.5), np.float32(0.5), 0.5, 1])
def test_any_real_number_is_a_weight(number):
    assert TrainingMode("local", weights=number).weight("a") == float(number)
    assert TrainingMode("local", weights={"a": number}).weight("a") == float(number)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("locl", {}, ["'locl'", "'local'", "'end_to_end'"]),
        ("sequential", {"stop": ["a"]}, ["stop", "'mixed'"]),
        ("local", {"stop": ["a"]}, ["stop", "'mixed'"]),
        ("mixed", {}, ["stop", "'deep_supervision'"]),
        ("local", {"module": "a"}, ["module", "'sequential'"]),
        ("end_to_end", {"weights": 0.5}, ["'end_to_end'", "'deep_supervision'"]),
        ("end_to_end", {"weights": {"a": 1}}, ["'end_to_end'", "'deep_supervision'"]),
        ("sequential:a", {"module": "b"}, ["'a'", "'b'", "give one"]),
        ("local", {"weights": -0.1}, ["-0.1", "0 or larger"]),
        ("local", {"weights": float("nan")}, ["nan", "finite"]),
        ("local", {"weights": float("inf")}, ["inf", "finite"]),
        ("local", {"weights": {"a": -1}}, ["'a'", "-1", "0 or larger"]),
        ("local", {"weights": {"a": float("nan")}}, ["'a'", "nan", "finite"]),
        ("local", {"weights": {"a": "b"}}, ["'a'", "'b'", "number"]),
        ("local", {"weights": ""}, ["''", "number"]),
        ("local", {"weights": "half"}, ["'half'", "number"]),
    ],
)
def test_a_mode_that_makes_no_sense_is_refused(name, options, said):
    with pytest.raises(ValueError) as caught:
        TrainingMode(name, **options)
    for phrase in said:
        assert phrase in str(caught.value)


@pytest.mark.parametrize("value", [None, 3, ["local"], 1.0])
def test_what_is_no_mode_is_refused_with_the_names_of_modes(value):
    with pytest.raises(ValueError, match=r"end_to_end.*local.*sequential"):
        TrainingMode.get(value)


def small_model():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(3, name="a")(inputs)
    hidden = keras.layers.Dense(3, name="b")(hidden)
    outputs = keras.layers.Dense(2, name="out")(hidden)
    return e2e.modularize(keras.Model(inputs, outputs), ["a", "b"])


def test_a_model_starts_end_to_end_and_takes_any_spelling():
    model = small_model()
    assert model.training_mode == TrainingMode("end_to_end")
    for mode in MODES:
        if mode == TrainingMode("local", weights={"a": 0}):
            continue  # nothing would train the module
        model.training_mode = mode
        assert model.training_mode == mode


def test_sequential_without_a_module_means_the_first_one():
    model = small_model()
    model.training_mode = TrainingMode("sequential", weights=0.5)
    assert model.training_mode == TrainingMode("sequential:a", weights=0.5)


def test_checking_a_mode_does_not_put_it_in_force():
    model = small_model()
    assert model.check_training_mode("local") == TrainingMode("local")
    assert model.training_mode == TrainingMode("end_to_end")


@pytest.mark.parametrize(
    "mode",
    [
        TrainingMode("local", weights={"a": 0}),
        TrainingMode("local", weights=0),
        TrainingMode("mixed", stop=["a"], weights={"a": 0.0}),
        TrainingMode("sequential:a", weights={"a": 0.0}),
        # The loss of "b" reaches "a", but that of "out" alone reaches "b".
        TrainingMode("local", reach=2, weights={"a": 0.0, "b": 0.0}),
    ],
    ids=str,
)
def test_a_weight_of_zero_that_leaves_a_module_untrained_is_refused(mode):
    model = small_model()
    with pytest.raises(ValueError, match="nothing would train the module 'a'"):
        model.training_mode = mode
    assert model.training_mode == TrainingMode("end_to_end")


@pytest.mark.parametrize(
    "mode",
    [
        TrainingMode("local", reach=2, weights={"a": 0.0}),
        TrainingMode("deep_supervision", weights={"a": 0.0}),
        TrainingMode("mixed", stop=["b"], weights={"a": 0.0}),
        TrainingMode("sequential:b", weights={"a": 0.0, "b": 1.0}),
    ],
    ids=str,
)
def test_a_weight_of_zero_is_taken_where_another_loss_trains_the_module(mode):
    model = small_model()
    model.training_mode = mode
    assert model.training_mode == mode

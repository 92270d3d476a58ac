"""How gradients flow in each mode, from the modules alone."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e
from keras_e2e import TrainingMode
from keras_e2e.modules.gradient_flow import gradient_flow
from keras_e2e.objectives import (
    DirectFeedbackAlignment,
    FeedbackAlignment,
    Prediction,
    SyntheticGradient,
)


def modules(**objectives):
    x = inputs = keras.Input((4,))
    for name in "abc":
        x = layers.Dense(3, name=name)(x)
    base = keras.Model(inputs, layers.Dense(2, name="out")(x))
    objectives = {name: objectives.get(name, Prediction()) for name in "abc"}
    return e2e.modularize(base, objectives).modules


@pytest.mark.parametrize(
    ("mode", "stopping"),
    [
        ("end_to_end", ""),
        ("deep_supervision", ""),
        ("local", "abc"),
        ("sequential:b", "abc"),
        (TrainingMode("mixed", stop=["b"]), "b"),
        (TrainingMode("local", reach=2), ""),
        (TrainingMode("local", reach="all"), ""),
    ],
    ids=str,
)
def test_where_gradients_stop(mode, stopping):
    flow = gradient_flow(modules(), TrainingMode.get(mode))
    assert flow.stopping == set(stopping)
    assert not flow.routes


def test_a_loss_trains_its_window():
    flow = gradient_flow(modules(), TrainingMode("local", reach=2))
    windows = {name: "".join(sorted(flow.windows[name])) for name in "abc"}
    assert windows == {"a": "a", "b": "ab", "c": "bc"}
    assert flow.windows["out"] == {"c", "out"}
    # Through the open boundaries these would reach further.
    assert flow.separate == ("c", "out")
    assert gradient_flow(modules(), TrainingMode("local")).separate == ()


def test_feedback_is_taken_where_the_objective_says():
    found = modules(
        a=FeedbackAlignment(), b=DirectFeedbackAlignment(), c=SyntheticGradient()
    )
    flow = gradient_flow(found, TrainingMode("local", weights={"a": 0.5}))
    ends = {end: sorted(routes) for end, routes in flow.routes.items()}
    assert ends == {"b": ["a"], "out": ["b"], "c": ["c"]}
    assert flow.routes["b"]["a"].factor() == 0.5
    assert not gradient_flow(found, TrainingMode("deep_supervision")).routes


def test_what_stands_in_for_a_gradient_does_not_count_where_the_true_one_gets_through():
    found = modules(b=SyntheticGradient(), c=FeedbackAlignment())
    flow = gradient_flow(found, TrainingMode("local", reach=2))
    # The loss of "out" reaches over "c"; none reaches over "a" and "b".
    assert flow.stopping == {"a", "b"}
    assert set(flow.windows) == {"a", "b", "out"}
    assert {end: sorted(routes) for end, routes in flow.routes.items()} == {"b": ["b"]}


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="JAX has no reach of 2")
def test_a_reach_over_what_stands_in_for_a_gradient_trains():
    x = inputs = keras.Input((4,))
    for name in "abc":
        x = layers.Dense(3, name=name)(x)
    base = keras.Model(inputs, layers.Dense(2, name="out")(x))
    objectives = {"a": "pred", "b": "synthetic_gradient", "c": "feedback_alignment"}
    model = e2e.modularize(base, objectives, training_mode=TrainingMode("local", reach=2))
    model.compile("sgd", "mse")
    before = [v.numpy() for v in model.get_layer("c").weights]
    model.fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0)
    assert not np.array_equal(before[0], model.get_layer("c").kernel)


def test_the_flow_of_a_mode_is_worked_out_once():
    x = inputs = keras.Input((4,))
    x = layers.Dense(3, name="a")(x)
    model = e2e.modularize(keras.Model(inputs, layers.Dense(2)(x)), ["a"])
    first = model._modular.flow()
    model.training_mode = "local"
    assert model._modular.flow() is not first
    model.training_mode = "end_to_end"
    assert model._modular.flow() is first

"""Outputs that are compiled without a loss have heads that nothing trains."""

import keras
import numpy as np
import pytest

import keras_e2e as e2e

X = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
Y = {"score": X[:, :1], "state": np.zeros((12, 1), "float32")}


def network(objective="prediction"):
    inputs = keras.Input((4,))
    code = keras.layers.Dense(5, activation="tanh", name="code")(inputs)
    outputs = {
        "score": keras.layers.Dense(1, name="score")(code),
        "state": keras.layers.Activation("linear", name="state")(code),
    }
    return e2e.modularize(keras.Model(inputs, outputs), {"code": objective})


def heads_moved(model, losses, **options):
    """Which heads a step moved, in the order of the outputs."""
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.1)
    model.compile(optimizer, losses, **options)
    objective = model.modules[0].objective
    networks = getattr(objective, "parts", [objective])[0].networks
    before = [[np.asarray(w) for w in network.weights] for network in networks]
    y = Y if "state" not in losses else {**Y, "state": np.ones((12, 5), "float32")}
    model.fit(X, y, epochs=2, verbose=0)
    after = [[np.asarray(w) for w in network.weights] for network in networks]
    return [
        any((w != old).any() for w, old in zip(now, was, strict=True))
        for now, was in zip(after, before, strict=True)
    ]


@pytest.mark.parametrize("mode", ["local", "deep_supervision", "sequential"])
def test_nothing_moves_the_head_of_an_output_without_a_loss(mode):
    """Keras warned, and a warning fails, that gradients do not exist for it."""
    model = network()
    model.training_mode = mode
    assert heads_moved(model, {"score": "mse"}) == [True, False]
    # Compiled with a loss for it, it is trained.
    assert heads_moved(model, {"score": "mse", "state": "mse"}) == [True, True]


def test_parts_of_a_mixture_too():
    model = network(e2e.objectives.Mixture({"prediction": 1.0}))
    model.training_mode = "local"
    assert heads_moved(model, {"score": "mse"}, run_eagerly=True) == [True, False]


def test_a_loss_of_its_own_trains_the_head_of_any_output():
    model = network(e2e.objectives.Prediction(output_name="state", loss="mae"))
    model.training_mode = "local"
    model.compile("sgd", {"score": "mse"}, run_eagerly=True)
    head = model.modules[0].objective.networks[0]
    before = np.asarray(head.weights[-1])
    model.fit(X, {**Y, "state": np.ones((12, 5), "float32")}, verbose=0)
    assert np.abs(np.asarray(head.weights[-1]) - before).max() > 0


def test_penalties_of_a_head_that_nothing_trains_do_not_count():
    def head():
        return keras.layers.Dense(5, kernel_regularizer="l2")

    model = network(e2e.objectives.Prediction(head(), output_name="state"))
    model.training_mode = "deep_supervision"
    model.compile("sgd", {"score": "mse"})
    assert len(model.losses) == 0
    model.compile("sgd", {"score": "mse", "state": "mse"})
    assert len(model.losses) == 1

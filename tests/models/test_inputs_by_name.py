"""Inputs given by name, in another order than the model's, or more of them."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e
from keras_e2e.objectives import ForwardForward, InfoPro, Reconstruction

RNG = np.random.default_rng(0)
FIRST, SECOND = (RNG.normal(size=(12, 8)).astype("float32") for _ in range(2))
Y = np.arange(12) % 3
# By the alphabet the second input comes first, and one comes before that is none.
BY_NAME = {"tokens": FIRST, "extra": SECOND}
GIVEN = {
    "by name": BY_NAME,
    "with another": {"a_note": SECOND + 1, **BY_NAME},
    "in a list": [FIRST, SECOND],
}
OBJECTIVES = {
    "reconstruction": lambda: Reconstruction("model_input"),
    "infopro": lambda: InfoPro(),
    "forward_forward": lambda: ForwardForward(seed=0),
}


def trained(objective, x):
    """The model after a local step, and what it says of its modules."""
    keras.utils.set_random_seed(0)
    tokens, extra = keras.Input((8,), name="tokens"), keras.Input((8,), name="extra")
    code = layers.Dense(6, "tanh", name="code")(layers.Add()([tokens, extra]))
    base = keras.Model([tokens, extra], layers.Dense(3, "softmax", name="out")(code))
    model = e2e.modularize(base, {"code": OBJECTIVES[objective]()}, training_mode="local")
    model.compile("sgd", "sparse_categorical_crossentropy")
    losses = model.fit(x, Y, batch_size=12, verbose=0).history["loss"]
    # Data of evaluations have the model's inputs alone.
    known = {k: x[k] for k in BY_NAME} if isinstance(x, dict) else x
    found = model.evaluate_modules(known, Y, verbose=0)["code"]["loss"]
    if objective == "forward_forward":
        found = e2e.goodness_predict(model, known)
    return model, losses, found


@pytest.mark.parametrize("given", ["by name", "with another"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_they_train_as_those_in_the_order_of_the_model(objective, given):
    expected, losses, numbers = trained(objective, GIVEN["in a list"])
    model, found, same = trained(objective, GIVEN[given])
    assert found == losses
    np.testing.assert_array_equal(same, numbers)
    for one, other in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_reconstructed_is_the_first_of_the_model():
    model, _, _ = trained("reconstruction", BY_NAME)
    code = model.get_layer("code")
    activation = code(FIRST + SECOND)
    network = model.modules[0].objective.network
    expected = np.mean((np.asarray(network(activation)) - FIRST) ** 2)
    found = model.evaluate_modules(BY_NAME, Y, verbose=0)["code"]["loss"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)

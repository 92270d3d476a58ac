"""A head ends as the model ends, so that the compiled loss means the same on both."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_e2e as e2e
from keras_e2e.objectives import Prediction
from keras_e2e.objectives.heads.output_activation import ending_of
from keras_e2e.objectives.prediction import ending_for_loss

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 5)).astype("float32")
Y = RNG.integers(0, 3, size=12)
RAW = RNG.normal(size=(4, 3)).astype("float32")

CLASSES = "sparse_categorical_crossentropy"
FROM_LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class SoftmaxDense(layers.Layer):
    """Ends in a softmax without showing it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(3)

    def call(self, x):
        return ops.softmax(self.dense(x))


def nested(*parts, width=6):
    return keras.Sequential([keras.Input((width,)), *parts])


def dense(**options):
    return layers.Dense(3, **options)


def softmax(values):
    return np.exp(values) / np.exp(values).sum(-1, keepdims=True)


# How the model ends, the compiled loss, and what that makes of raw values.
ENDINGS = {
    "logits": (lambda h: dense()(h), FROM_LOGITS, lambda r: r),
    "dense softmax": (lambda h: dense(activation="softmax")(h), CLASSES, softmax),
    "softmax layer": (lambda h: layers.Softmax()(dense()(h)), CLASSES, softmax),
    "activation layer": (
        lambda h: layers.Activation("softmax")(dense()(h)),
        CLASSES,
        softmax,
    ),
    "float32 cast": (
        lambda h: layers.Activation("linear", dtype="float32")(
            dense(activation="softmax")(h)
        ),
        CLASSES,
        softmax,
    ),
    "float32 softmax": (
        lambda h: layers.Activation("softmax", dtype="float32")(dense()(h)),
        CLASSES,
        softmax,
    ),
    "ops.softmax": (lambda h: ops.softmax(dense()(h)), CLASSES, softmax),
    "ops.cast": (
        lambda h: ops.cast(ops.softmax(dense()(h)), "float32"),
        CLASSES,
        softmax,
    ),
    "temperature": (
        lambda h: ops.softmax(dense()(h) / 2.0),
        CLASSES,
        lambda r: softmax(r / 2),
    ),
    "scale on the left": (
        lambda h: ops.softmax(3.0 * dense()(h)),
        CLASSES,
        lambda r: softmax(3 * r),
    ),
    "one minus": (
        lambda h: 1.0 - dense(activation="sigmoid")(h),
        "mse",
        lambda r: 1 - 1 / (1 + np.exp(-r)),
    ),
    "rescaled": (
        lambda h: layers.Rescaling(2.0, offset=1.0)(dense(activation="tanh")(h)),
        "mse",
        lambda r: 2 * np.tanh(r) + 1,
    ),
    "lambda": (
        lambda h: layers.Lambda(ops.softmax, output_shape=(3,))(dense()(h)),
        CLASSES,
        softmax,
    ),
    "leaky relu": (
        lambda h: layers.LeakyReLU(0.5)(dense()(h)),
        "mse",
        lambda r: np.where(r < 0, 0.5 * r, r),
    ),
    "normalized": (
        lambda h: layers.Softmax()(layers.BatchNormalization()(dense()(h))),
        CLASSES,
        softmax,
    ),
    "sum of two": (
        lambda h: layers.Softmax()(layers.Add()([dense()(h), dense()(h)])),
        CLASSES,
        softmax,
    ),
    "nested": (
        lambda h: nested(dense(activation="softmax"))(h),
        CLASSES,
        softmax,
    ),
    "nested twice": (
        lambda h: nested(nested(dense(), layers.Softmax()))(h),
        CLASSES,
        softmax,
    ),
    "nested softmax": (
        lambda h: nested(layers.Softmax(), width=3)(dense()(h)),
        CLASSES,
        softmax,
    ),
    # These do not show how they end; the compiled loss tells.
    "custom layer": (lambda h: SoftmaxDense()(h), CLASSES, softmax),
    "mean of two": (
        lambda h: layers.Average()([dense(activation="softmax")(h) for _ in "12"]),
        CLASSES,
        softmax,
    ),
}


def modular(name, **options):
    end, loss, _ = ENDINGS[name]
    inputs = keras.Input((5,))
    hidden = layers.Dense(6, activation="relu", name="code")(inputs)
    base = keras.Model(inputs, end(hidden))
    model = e2e.modularize(base, {"code": Prediction(**options)}, training_mode="local")
    model.compile("sgd", loss)
    return model


def targets(model):
    loss = model.loss
    return np.eye(3, dtype="float32")[Y] if loss == "mse" else Y


@pytest.mark.parametrize("name", ENDINGS)
def test_a_head_ends_as_the_model_ends(name):
    model = modular(name)
    objective = model.boundaries["code"].objective
    (network,) = objective.networks
    kernel, bias = network.layers[-1].weights
    kernel.assign(ops.zeros_like(kernel))
    expected = ENDINGS[name][2]
    for row in RAW:
        bias.assign(row)
        outputs = model._modular.outputs
        full = [
            e2e.objectives.Output(o.name, None, None, None, model.loss) for o in outputs
        ]
        (prediction,) = objective.predict(np.zeros((1, 6), "float32"), tuple(full))
        np.testing.assert_allclose(
            np.asarray(prediction)[0], expected(row), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("name", ENDINGS)
def test_the_local_loss_is_that_of_a_stock_model_with_the_head(name):
    model = modular(name)
    y = targets(model)
    outputs = model(X, training=True)
    total = model.compute_loss(x=X, y=y, y_pred=outputs, training=True)
    task = keras.losses.get(model.loss)(y, outputs)
    local = float(ops.mean(total) - ops.mean(task))

    (network,) = model.boundaries["code"].objective.networks
    expected = ENDINGS[name][2]
    hidden = np.maximum(X @ np.asarray(model.get_layer("code").kernel), 0)
    prediction = expected(np.asarray(network(hidden))).astype("float32")
    loss = keras.losses.get(model.loss)
    by_hand = float(ops.mean(loss(y, ops.convert_to_tensor(prediction))))
    np.testing.assert_allclose(local, by_hand, rtol=2e-4)


@pytest.mark.parametrize("name", ENDINGS)
def test_training_in_local_mode_runs_with_every_ending(name):
    model = modular(name)
    history = model.fit(X, targets(model), verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def test_an_activation_of_its_own_replaces_the_ending():
    model = modular("dense softmax", activation="tanh", loss="mse")
    objective = model.boundaries["code"].objective
    assert objective.endings == (keras.activations.tanh,)


def test_the_ending_of_an_output_is_a_function_of_raw_values():
    inputs = keras.Input((5,))
    outputs = layers.Softmax(axis=-1)(layers.Dense(3, activation="tanh")(inputs))
    ending = ending_of(outputs)
    np.testing.assert_allclose(ending(RAW), softmax(np.tanh(RAW)), rtol=1e-5)


def test_each_output_has_an_ending_of_its_own():
    inputs = keras.Input((5,))
    hidden = layers.Dense(6, name="code")(inputs)
    one = layers.Dense(3, activation="softmax", name="one")(hidden)
    two = layers.Dense(3, activation="sigmoid", name="two")(hidden)
    model = e2e.modularize(keras.Model(inputs, [one, two]), ["code"])
    endings = model.boundaries["code"].objective.endings
    sigmoid = 1 / (1 + np.exp(-RAW))
    np.testing.assert_allclose(endings[0](RAW), softmax(RAW), rtol=1e-5)
    np.testing.assert_allclose(endings[1](RAW), sigmoid, rtol=1e-5)


def test_an_ending_adds_no_variables_and_does_not_touch_the_models_graph():
    model = modular("softmax layer")
    before = [v.path for v in model.variables]
    (ending,) = model.boundaries["code"].objective.endings
    ending(ops.convert_to_tensor(RAW))
    assert [v.path for v in model.variables] == before
    assert [type(x).__name__ for x in model.layers].count("Softmax") == 1


@pytest.mark.parametrize(
    ("loss", "activation"),
    [
        ("sparse_categorical_crossentropy", keras.activations.softmax),
        ("categorical_crossentropy", keras.activations.softmax),
        ("binary_crossentropy", keras.activations.sigmoid),
        ("binary_focal_crossentropy", keras.activations.sigmoid),
        ("mse", keras.activations.linear),
        ("mean_absolute_error", keras.activations.linear),
        ("hinge", keras.activations.linear),
        (None, keras.activations.linear),
        (keras.losses.CategoricalCrossentropy(), keras.activations.softmax),
        (keras.losses.categorical_crossentropy, keras.activations.softmax),
        (keras.losses.BinaryCrossentropy(), keras.activations.sigmoid),
        (FROM_LOGITS, keras.activations.linear),
        (
            keras.losses.BinaryCrossentropy(from_logits=True),
            keras.activations.linear,
        ),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_the_compiled_loss_tells_what_it_expects(loss, activation):
    assert ending_for_loss(loss) is activation

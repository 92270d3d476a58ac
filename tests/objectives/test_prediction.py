"""`Prediction`: the compiled loss, on what a head predicts."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_e2e as e2e
from keras_e2e.objectives import IntermediateTarget, Prediction

RNG = np.random.default_rng(0)
X = RNG.normal(size=(10, 5)).astype("float32")
CLASSES = RNG.integers(0, 3, size=10)
VALUES = RNG.normal(size=(10, 2)).astype("float32")
WEIGHT = RNG.uniform(size=10).astype("float32")


def model_of(objective="prediction", outputs=("softmax",), names=("p", "q"), **compiled):
    inputs = keras.Input((5,))
    code = layers.Dense(4, name="code")(inputs)
    ends = {"softmax": (3, "softmax"), "linear": (2, None), "sigmoid": (1, "sigmoid")}
    made = [
        layers.Dense(ends[kind][0], activation=ends[kind][1], name=name)(code)
        for kind, name in zip(outputs, names, strict=False)
    ]
    base = keras.Model(inputs, made if len(made) > 1 else made[0])
    model = e2e.modularize(base, {"code": objective}, training_mode="local")
    model.compile("sgd", **compiled)
    return model


def local_loss(model, y, sample_weight=None):
    """The local loss alone: the total less the task loss."""
    outputs = model(X, training=True)
    arguments = {"x": X, "y": y, "y_pred": outputs, "sample_weight": sample_weight}
    total = float(model.compute_loss(**arguments, training=True))
    return total - float(model.compute_loss(**arguments, training=False))


def raw(model, index=0):
    """What the head for an output puts out, computed apart."""
    network = model.boundaries["code"].objective.networks[index]
    code = X @ np.asarray(model.get_layer("code").kernel)
    return np.asarray(network(code))


def cross_entropy(values, labels):
    values = values - values.max(-1, keepdims=True)
    log = values - np.log(np.exp(values).sum(-1, keepdims=True))
    return -log[np.arange(len(labels)), labels]


@pytest.mark.parametrize("head", [None, "linear", "gap_linear", "mlp"])
def test_it_is_the_cross_entropy_of_the_head(head):
    model = model_of(Prediction(head), loss="sparse_categorical_crossentropy")
    expected = cross_entropy(raw(model), CLASSES).mean()
    np.testing.assert_allclose(local_loss(model, CLASSES), expected, rtol=1e-4)


def test_the_examples_are_weighed_as_in_the_compiled_loss():
    model = model_of(loss="sparse_categorical_crossentropy")
    expected = (cross_entropy(raw(model), CLASSES) * WEIGHT).sum() / len(WEIGHT)
    np.testing.assert_allclose(local_loss(model, CLASSES, WEIGHT), expected, rtol=1e-4)


def test_labels_may_be_one_hot_and_the_loss_may_be_spelled_crossentropy():
    model = model_of(loss="crossentropy")
    expected = cross_entropy(raw(model), CLASSES).mean()
    one_hot = np.eye(3)[CLASSES]
    np.testing.assert_allclose(local_loss(model, one_hot), expected, rtol=1e-4)


def test_a_sigmoid_output_gives_a_sigmoid_head():
    model = model_of(outputs=["sigmoid"], loss="binary_crossentropy")
    y = (CLASSES > 0).astype("float32")[:, None]
    p = 1 / (1 + np.exp(-raw(model)))
    expected = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    np.testing.assert_allclose(local_loss(model, y), expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("compiled", "factors"),
    [
        ({"loss": ["sparse_categorical_crossentropy", "mse"]}, (1, 1)),
        ({"loss": {"q": "mse", "p": "sparse_categorical_crossentropy"}}, (1, 1)),
        (
            {
                "loss": {"p": "sparse_categorical_crossentropy", "q": "mse"},
                "loss_weights": {"q": 0.25, "p": 2.0},
            },
            (2, 0.25),
        ),
        (
            {
                "loss": ["sparse_categorical_crossentropy", "mse"],
                "loss_weights": [2.0, 0.25],
            },
            (2, 0.25),
        ),
        ({"loss": [None, "mse"]}, (0, 1)),
    ],
    ids=["list", "dict", "weights", "list of weights", "one of two"],
)
def test_each_output_counts_with_its_compiled_loss_and_weight(compiled, factors):
    model = model_of(outputs=["softmax", "linear"], **compiled)
    y = {"p": CLASSES, "q": VALUES}
    if isinstance(compiled["loss"], list):
        y = [CLASSES, VALUES]
    squares = ((raw(model, 1) - VALUES) ** 2).mean()
    classes = cross_entropy(raw(model, 0), CLASSES).mean()
    expected = factors[0] * classes + factors[1] * squares
    np.testing.assert_allclose(local_loss(model, y), expected, rtol=1e-4)


def test_one_output_can_be_chosen():
    losses = {"p": "sparse_categorical_crossentropy", "q": "mse"}
    y = {"p": CLASSES, "q": VALUES}
    model = model_of(
        Prediction(output_name="q"), outputs=["softmax", "linear"], loss=losses
    )
    assert len(model.boundaries["code"].objective.networks) == 1
    expected = ((raw(model) - VALUES) ** 2).mean()
    np.testing.assert_allclose(local_loss(model, y), expected, rtol=1e-4)


def _apart(y, p):
    """A loss whose name cannot be a scope of TensorFlow."""
    return ops.mean(ops.abs(y - p), axis=-1)


@pytest.mark.parametrize(
    "loss",
    [
        "mae",
        keras.losses.MeanAbsoluteError(),
        keras.losses.mean_absolute_error,
        _apart,
    ],
    ids=["name", "object", "function", "own"],
)
def test_a_loss_of_its_own_replaces_the_compiled_one(loss):
    objective = Prediction(loss=loss)
    model = model_of(objective, outputs=["linear"], loss="mse", loss_weights=0.5)
    expected = (np.abs(raw(model) - VALUES).mean(-1) * WEIGHT).sum() / len(WEIGHT)
    np.testing.assert_allclose(local_loss(model, VALUES, WEIGHT), expected, rtol=1e-4)


def test_an_activation_of_its_own_replaces_the_ending():
    objective = Prediction(activation="tanh", loss="mse")
    model = model_of(objective, outputs=["linear"], loss="mse")
    expected = ((np.tanh(raw(model)) - VALUES) ** 2).mean()
    np.testing.assert_allclose(local_loss(model, VALUES), expected, rtol=1e-4)


def test_the_compiled_loss_can_change_without_a_new_head():
    model = model_of(outputs=["linear"], loss="mse")
    head = model.boundaries["code"].objective.networks[0]
    model.compile("sgd", "mae")
    expected = np.abs(raw(model) - VALUES).mean()
    np.testing.assert_allclose(local_loss(model, VALUES), expected, rtol=1e-4)
    assert model.boundaries["code"].objective.networks[0] is head


def test_a_target_by_position_is_predicted_by_position():
    inputs = keras.Input((6, 3))
    code = layers.Dense(4, name="code")(inputs)
    base = keras.Model(inputs, layers.Dense(3, activation="softmax", name="p")(code))
    model = e2e.modularize(base, ["code"], training_mode="local")
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = RNG.normal(size=(2, 6, 3)), RNG.integers(0, 3, size=(2, 6))
    (network,) = model.boundaries["code"].objective.networks
    assert network.output_shape == (None, 6, 3)
    outputs = model(x, training=True)
    total = model.compute_loss(x=x, y=y, y_pred=outputs, training=True)
    task = model.compute_loss(x=x, y=y, y_pred=outputs, training=False)
    values = np.asarray(network(model.get_layer("code")(x))).reshape(-1, 3)
    expected = cross_entropy(values, y.ravel()).mean()
    np.testing.assert_allclose(float(total - task), expected, rtol=1e-4)


def test_an_image_is_predicted_from_a_smaller_map():
    inputs = keras.Input((8, 8, 1))
    code = layers.Conv2D(4, 3, strides=2, padding="same", name="code")(inputs)
    up = layers.Conv2DTranspose(2, 3, strides=2, padding="same", name="p")(code)
    model = e2e.modularize(keras.Model(inputs, up), ["code"], training_mode="local")
    (network,) = model.boundaries["code"].objective.networks
    assert network.output_shape == (None, 8, 8, 2)
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 8, 8, 1)), np.zeros((4, 8, 8, 2)), verbose=0)


def test_regularization_is_no_part_of_a_local_loss():
    inputs = keras.Input((5,))
    code = layers.Dense(4, kernel_regularizer="l2", name="code")(inputs)
    base = keras.Model(inputs, layers.Dense(2, name="p")(code))
    model = e2e.modularize(base, ["code"], training_mode="local")
    model.compile("sgd", "mse")
    expected = ((raw(model) - VALUES) ** 2).mean()
    outputs = model(X, training=True)
    arguments = {"x": X, "y": VALUES, "y_pred": outputs}
    total = float(model.compute_loss(**arguments, training=True))
    # Once in the total, with the task loss, as stock Keras has it.
    penalty = float(ops.sum(model.losses[0]))
    task = ((np.asarray(outputs) - VALUES) ** 2).mean()
    np.testing.assert_allclose(total, task + penalty + expected, rtol=1e-4)


def test_targets_at_other_positions_are_refused_and_the_advice_works():
    """As where the words at some masked places are to be found."""
    x, places = keras.Input((None, 5), name="x"), keras.Input((None,), dtype="int32")
    code = layers.Dense(4, name="code")(x)
    picked = ops.take_along_axis(code, ops.expand_dims(places, -1), 1)
    base = keras.Model([x, places], layers.Dense(3, name="p")(picked))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    x, y = [np.ones((4, 6, 5)), np.zeros((4, 2), "int32")], np.ones((4, 2), "int32")
    model = e2e.modularize(base, ["code"], training_mode="local")
    model.compile("sgd", loss)
    with pytest.raises(ValueError, match=r"'code': its head .*6, 3\).*'p', of .*, 2\)"):
        model.fit(x, y, verbose=0)
    advised = IntermediateTarget(head="linear", units=3, per_position=True)
    model = e2e.modularize(base, {"code": advised}, training_mode="local")
    model.compile("sgd", loss)
    model.fit(x, {"p": y, "code": np.ones((4, 6), "int32")}, verbose=0)

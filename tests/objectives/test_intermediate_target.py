"""`IntermediateTarget`: a loss on intermediate labels, some of which may be missing."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_e2e as e2e
from keras_e2e.objectives import Batch, IntermediateTarget, ModelSpec

RNG = np.random.default_rng(0)
B, C = 6, 4


def some(*shape):
    return RNG.normal(size=shape).astype("float32")


def probabilities(*shape):
    values = np.exp(some(*shape))
    return values / values.sum(-1, keepdims=True)


def classes(*shape):
    return RNG.integers(0, C, size=shape)


def batch(labels, sample_weight=None):
    return Batch(None, (), labels, sample_weight, None)


def built(objective, activation):
    spec = ModelSpec(keras.KerasTensor((None, 3)), [], ())
    objective.build_for(keras.KerasTensor(activation), spec)
    return objective


def loss_of(objective, h, labels, sample_weight=None):
    return float(objective.compute_loss(h, batch(labels, sample_weight)))


def log_loss(p, labels):
    picked = np.take_along_axis(p, labels[..., None], -1)[..., 0]
    return -np.log(picked)


# The formulas


def test_without_a_head_the_activation_is_the_prediction():
    p, labels = probabilities(B, C), classes(B)
    expected = log_loss(p, labels).mean()
    np.testing.assert_allclose(
        loss_of(IntermediateTarget(), p, labels), expected, rtol=1e-5
    )


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "float32", "float64"])
def test_labels_may_be_of_any_dtype_and_have_a_last_axis_of_one(dtype):
    p, labels = probabilities(B, C), classes(B)
    expected = log_loss(p, labels).mean()
    for given in (labels, labels[:, None]):
        value = loss_of(IntermediateTarget(), p, given.astype(dtype))
        np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_the_examples_are_weighed():
    p, labels, weight = probabilities(B, C), classes(B), RNG.uniform(size=B)
    expected = (log_loss(p, labels) * weight).sum() / B
    value = loss_of(IntermediateTarget(), p, labels, weight)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_a_head_predicts_classes_by_a_softmax():
    objective = built(IntermediateTarget(head="mlp", units=C), (None, 7))
    h, labels = some(B, 7), classes(B)
    raw = np.exp(np.asarray(objective.network(h)))
    expected = log_loss(raw / raw.sum(-1, keepdims=True), labels).mean()
    np.testing.assert_allclose(loss_of(objective, h, labels), expected, rtol=1e-5)


def test_a_head_for_another_loss_ends_in_nothing():
    objective = built(IntermediateTarget("mse", head="linear", units=2), (None, 7))
    h, labels = some(B, 7), some(B, 2)
    expected = ((np.asarray(objective.network(h)) - labels) ** 2).mean()
    np.testing.assert_allclose(loss_of(objective, h, labels), expected, rtol=1e-5)


def test_a_head_may_end_as_it_is_told():
    objective = built(
        IntermediateTarget(
            "binary_crossentropy", head="linear", units=1, activation="sigmoid"
        ),
        (None, 7),
    )
    h, labels = some(B, 7), RNG.integers(0, 2, size=B)
    p = 1 / (1 + np.exp(-np.asarray(objective.network(h))[:, 0]))
    expected = -np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p))
    np.testing.assert_allclose(loss_of(objective, h, labels), expected, rtol=1e-4)


def _apart(y, p):
    """A loss whose name cannot be a scope of TensorFlow."""
    return ops.mean(ops.abs(y - p), axis=-1)


@pytest.mark.parametrize(
    "loss",
    [
        "mean_absolute_error",
        keras.losses.MeanAbsoluteError(),
        keras.losses.mean_absolute_error,
        _apart,
    ],
    ids=["name", "object", "function", "own"],
)
def test_any_keras_loss_will_do(loss):
    h, labels = some(B, C), some(B, C)
    expected = np.abs(h - labels).mean()
    np.testing.assert_allclose(
        loss_of(IntermediateTarget(loss), h, labels), expected, rtol=1e-5
    )


def test_from_logits_is_heeded():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    h, labels = some(B, C), classes(B)
    p = np.exp(h) / np.exp(h).sum(-1, keepdims=True)
    expected = log_loss(p, labels).mean()
    np.testing.assert_allclose(
        loss_of(IntermediateTarget(loss), h, labels), expected, rtol=1e-5
    )
    head = built(IntermediateTarget(loss, head="linear", units=C), (None, 7))
    assert head.activation is keras.activations.linear


def test_labels_by_position_are_averaged_over_positions_and_examples():
    p, labels = probabilities(B, 5, C), classes(B, 5)
    expected = log_loss(p, labels).mean()
    np.testing.assert_allclose(
        loss_of(IntermediateTarget(), p, labels), expected, rtol=1e-5
    )


@pytest.mark.parametrize("shape", [(None, 5, 7), (None, 4, 3, 7)], ids=str)
def test_a_head_by_position_predicts_one_label_for_each(shape):
    objective = built(IntermediateTarget(head="linear", units=C, per_position=True), shape)
    assert objective.network.output_shape == (*shape[:-1], C)
    h, labels = some(B, *shape[1:]), classes(B, *shape[1:-1])
    raw = np.exp(np.asarray(objective.network(h)))
    expected = log_loss(raw / raw.sum(-1, keepdims=True), labels).mean()
    np.testing.assert_allclose(loss_of(objective, h, labels), expected, rtol=1e-5)


def test_a_head_for_the_whole_predicts_one_label():
    objective = built(IntermediateTarget(head="gap_linear", units=C), (None, 5, 7))
    assert objective.network.output_shape == (None, C)
    assert np.isfinite(loss_of(objective, some(B, 5, 7), classes(B)))


def test_a_single_value_is_predicted_by_an_axis_of_one():
    h, labels = some(B, 1), some(B)
    expected = ((h[:, 0] - labels) ** 2).mean()
    np.testing.assert_allclose(
        loss_of(IntermediateTarget("mse"), h, labels), expected, rtol=1e-5
    )


# Missing labels

# loss, activation, complete labels, the same with the examples of GAPS missing
GAPS = np.array([True, False, False, True, False, True])
KINDS = {
    "classes": ("sparse_categorical_crossentropy", (B, C), "int"),
    "classes as floats": ("sparse_categorical_crossentropy", (B, C), "float"),
    "one-hot": ("categorical_crossentropy", (B, C), "rows"),
    "values": ("mse", (B, C), "rows"),
    "log": ("mean_squared_logarithmic_error", (B, C), "rows"),
    "by position": ("sparse_categorical_crossentropy", (B, 5, C), "int"),
    "a value": ("mae", (B, 1), "float"),
}


def with_gaps(kind):
    """Activation, labels and the same labels with some missing."""
    loss, shape, form = KINDS[kind]
    h = probabilities(*shape)
    if form == "rows":
        labels = probabilities(*shape)
    elif loss == "mae":
        labels = some(*shape[:-1])
    else:
        labels = classes(*shape[:-1])
    labels = labels if form == "int" else labels.astype("float32")
    missing = labels.copy()
    if form == "rows":
        missing[GAPS, 1] = np.nan  # one missing number makes a label missing
    else:
        missing[GAPS] = -1 if form == "int" else np.nan
    return loss, h, labels, missing


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_label_counts_as_one_of_weight_zero(kind):
    loss, h, labels, missing = with_gaps(kind)
    weight = np.where(GAPS, 0.0, 1.0)
    expected = loss_of(IntermediateTarget(loss), h, labels, weight)
    assert expected > 0
    np.testing.assert_allclose(
        loss_of(IntermediateTarget(loss), h, missing), expected, rtol=1e-6
    )
    other = RNG.uniform(size=B)
    expected = loss_of(IntermediateTarget(loss), h, labels, weight * other)
    value = loss_of(IntermediateTarget(loss), h, missing, other)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_label_leaves_exactly_no_gradient(kind):
    import tensorflow as tf

    loss, h, labels, missing = with_gaps(kind)
    h, complete = tf.constant(h), tf.constant(h)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([h, complete])
        some_labels = IntermediateTarget(loss).compute_loss(h, batch(missing))
        all_labels = IntermediateTarget(loss).compute_loss(complete, batch(labels))
    gradient = tape.gradient(some_labels, h).numpy()
    assert np.isfinite(gradient).all()
    assert not gradient[GAPS].any()
    # An example with a label gets what it gets when all have one.
    expected = tape.gradient(all_labels, complete).numpy()
    np.testing.assert_allclose(gradient[~GAPS], expected[~GAPS], rtol=1e-6)
    assert (gradient[~GAPS] != 0).any()


@pytest.mark.parametrize("labels", [np.full(B, -1), np.full(B, np.nan)], ids=str)
def test_a_batch_without_a_label_has_no_loss(labels):
    value = loss_of(IntermediateTarget(), probabilities(B, C), labels)
    assert value == 0.0


def test_positions_may_be_missing_one_by_one():
    p, labels = probabilities(B, 5, C), classes(B, 5)
    gaps = RNG.uniform(size=(B, 5)) < 0.5
    expected = np.where(gaps, 0, log_loss(p, labels)).mean()
    value = loss_of(IntermediateTarget(), p, np.where(gaps, -1, labels))
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_a_prediction_that_is_infinite_where_a_label_is_missing_does_no_harm():
    import tensorflow as tf

    h = np.zeros((B, C), "float32")
    labels = some(B, C)
    labels[GAPS] = np.nan
    h[GAPS] = -5.0  # the logarithm of it is not a number
    h = tf.constant(h)
    with tf.GradientTape() as tape:
        tape.watch(h)
        value = IntermediateTarget("mean_squared_error").compute_loss(h, batch(labels))
    assert np.isfinite(value)
    assert np.isfinite(tape.gradient(value, h)).all()


def test_a_module_learns_its_labels():
    keras.utils.set_random_seed(0)
    x = some(128, 5)
    symbols = (x[:, 0] > 0) * 2 + (x[:, 1] > 0)
    symbols[::2] = -1
    inputs = keras.Input((5,))
    code = layers.Dense(C, activation="softmax", name="code")(inputs)
    base = keras.Model(inputs, layers.Dense(1, name="out")(code))
    model = e2e.modularize(base, {"code": IntermediateTarget()}, training_mode="local")
    model.compile(keras.optimizers.Adam(0.1), "mse")
    model.fit(x, {"out": x[:, :1], "code": symbols}, epochs=15, verbose=0)
    known = symbols >= 0
    found = np.asarray(model.get_layer("code")(x)).argmax(-1)
    assert (found[known] == symbols[known]).mean() > 0.9


# What makes no sense


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"head": "linear"}, ["'linear'", "units=None", "Give both or neither"]),
        ({"units": 3}, ["units=3", "Give both or neither"]),
        ({"head": "deep", "units": 3}, ["'deep'", "'linear'"]),
        ({"activation": "tanh"}, ["activation", "`head` and `units`"]),
        ({"per_position": True}, ["per_position", "`head` and `units`"]),
    ],
    ids=str,
)
def test_a_target_that_makes_no_sense_is_refused(arguments, said):
    with pytest.raises(ValueError) as caught:
        IntermediateTarget(**arguments)
    for phrase in said:
        assert phrase in str(caught.value)


@pytest.mark.parametrize(
    ("loss", "h", "labels", "said"),
    [
        (None, (B, C), (B, C), ["(None, 4)", "(None,)"]),
        (None, (B, 5, C), (B,), ["(None,)", "(None, 5)"]),
        (None, (B, 5, C), (B, 4), ["(None, 4)", "(None, 5)"]),
        ("mse", (B, C), (B,), ["(None,)", "(None, 4)", "'mse'"]),
        ("mse", (B, C), (B, 3), ["(None, 3)", "(None, 4)"]),
    ],
    ids=str,
)
def test_labels_of_another_shape_are_refused(loss, h, labels, said):
    objective = IntermediateTarget() if loss is None else IntermediateTarget(loss)
    with pytest.raises(ValueError) as caught:
        loss_of(objective, some(*h), np.zeros(labels))
    for phrase in [*said, "Reshape the labels"]:
        assert phrase in str(caught.value)


@pytest.mark.parametrize(
    ("loss", "ending", "labels"),
    [
        (keras.losses.CategoricalCrossentropy(name="digit"), "softmax", (B, C)),
        (keras.losses.BinaryCrossentropy(name="digit"), "sigmoid", (B, C)),
        (keras.losses.SparseCategoricalCrossentropy(name="digit"), "softmax", (B,)),
        (keras.losses.MeanSquaredError(name="no_crossentropy"), "linear", (B, C)),
        (keras.losses.BinaryCrossentropy(from_logits=True, name="x"), "linear", (B, C)),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_loss_is_known_whatever_it_is_called(loss, ending, labels):
    objective = built(IntermediateTarget(loss, head="linear", units=C), (None, 7))
    assert objective.activation is getattr(keras.activations, ending)
    found = loss_of(objective, some(B, 7), np.ones(labels, "int32"))
    assert np.isfinite(found) and found > 0

"""`SimilarityMatching` and `SupervisedContrastive` against NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_e2e.objectives import (
    Batch,
    ModelSpec,
    Output,
    OutputSpec,
    SimilarityMatching,
    SupervisedContrastive,
)

RNG = np.random.default_rng(0)
B, C = 6, 3
LABELS = np.array([0, 2, 0, 1, 1, 0])
# Two examples do not count, and the others not alike.
WEIGHT = np.array([1.0, 0.0, 0.5, 2.0, 0.0, 1.5], "float32")
FORMS = {"ints": LABELS, "column": LABELS[:, None], "one-hot": np.eye(C)[LABELS]}


def some(*shape):
    return RNG.normal(size=shape).astype("float32")


def built(objective, activation):
    output = OutputSpec("out", keras.KerasTensor((None, C)), None)
    spec = ModelSpec(keras.KerasTensor((None, 3)), [], (output,))
    objective.build_for(keras.KerasTensor(activation), spec)
    return objective


def batch(y, sample_weight=None):
    return Batch(None, (Output("out", y, sample_weight, None),), None, sample_weight, None)


def value(objective, h, y=LABELS, sample_weight=None):
    return float(objective.compute_loss(h, batch(y, sample_weight)))


def assert_gradient(objective, h, y, sample_weight=None):
    """The loss and its gradients are finite; returns the gradient of the activation."""
    h = tf.constant(h)
    with tf.GradientTape() as tape:
        tape.watch(h)
        loss = objective.compute_loss(h, batch(y, sample_weight))
    weights = objective.trainable_variables
    found = tape.gradient(loss, [h, *[w.value for w in weights]])
    assert np.isfinite(loss)
    assert len(found) == 1 + len(weights) > 1
    for gradient in found:
        assert np.isfinite(gradient).all()
    return found[0].numpy()


# The definitions, in NumPy


def convolved(h, kernel):
    """A convolution of width 3 with zero padding, over all positions."""
    axes = h.ndim - 2
    padded = np.pad(h, [(0, 0), *[(1, 1)] * axes, (0, 0)])
    out = np.zeros((*h.shape[:-1], kernel.shape[-1]))
    for shift in np.ndindex(*(3,) * axes):
        place = tuple(
            slice(s, s + size) for s, size in zip(shift, h.shape[1:-1], strict=True)
        )
        out += padded[(slice(None), *place)] @ kernel[shift]
    return out


def cosines(rows):
    rows = rows - rows.mean(1, keepdims=True)
    rows = rows / (1e-8 + np.sqrt((rows**2).sum(1, keepdims=True)))
    return rows @ rows.T


def spread(maps):
    return maps.reshape(len(maps), -1, maps.shape[-1]).std(1, ddof=1)


def sim(features, weight=None):
    """Of the examples that count: the mean over them, times the weights, by the batch."""
    weight = np.ones(len(features)) if weight is None else weight
    there = weight != 0
    apart = (cosines(features[there]) - cosines(np.eye(C)[LABELS][there])) ** 2
    return (weight[there] * apart.mean(1)).sum() / len(weight)


def supcon(z, temperature, weight=None):
    weight = np.ones(len(z)) if weight is None else weight
    z = z.astype("float64") / np.linalg.norm(z, axis=1, keepdims=True)
    total = 0.0
    for i in np.flatnonzero(weight):
        others = [j for j in np.flatnonzero(weight) if j != i]
        positives = [j for j in others if LABELS[j] == LABELS[i]]
        if positives:
            below = np.log(sum(np.exp(z[i] @ z[j] / temperature) for j in others))
            terms = [z[i] @ z[j] / temperature - below for j in positives]
            total -= weight[i] * np.mean(terms)
    return total / len(weight)


# Similarity matching


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weighed"])
@pytest.mark.parametrize("form", FORMS)
def test_sim_of_flat_activations(form, weight):
    objective = built(SimilarityMatching(), (None, 7))
    h = some(B, 7)
    (kernel,) = objective.trainable_variables
    assert kernel.shape == (7, 7)
    expected = sim(h @ kernel.numpy(), weight)
    found = value(objective, h, FORMS[form], weight)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weighed"])
@pytest.mark.parametrize(
    ("shape", "by_channel"),
    [
        ((4, 5, 6), True),
        ((4, 5, 4), True),
        ((4, 5, 3), False),  # narrow: value by value, as in the authors' code
        ((1, 5, 6), False),  # a single row: as in the authors' code too
        ((5, 6), True),
        ((3, 2, 2, 5), True),
    ],
    ids=str,
)
def test_sim_of_maps(shape, by_channel, weight):
    objective = built(SimilarityMatching(), (None, *shape))
    h = some(B, *shape)
    (kernel,) = objective.trainable_variables
    assert kernel.shape == (*(3,) * (len(shape) - 1), shape[-1], shape[-1])
    maps = convolved(h, kernel.numpy())
    expected = sim(spread(maps) if by_channel else maps.reshape(B, -1), weight)
    np.testing.assert_allclose(
        value(objective, h, sample_weight=weight), expected, rtol=1e-4
    )


def test_sim_by_hand():
    objective = built(SimilarityMatching(), (None, C))
    objective.projection.kernel.assign(np.eye(C))
    labels = np.eye(C)[LABELS].astype("float32")
    # The labels themselves, also scaled and shifted, example by example.
    places = np.arange(B, dtype="float32")[:, None]
    h = labels * (1.0 + places) + 0.5 * places
    np.testing.assert_allclose(value(objective, h), 0.0, atol=1e-10)
    # Opposite directions: -1 for 1 on the diagonal's classes, and 2/3 apart elsewhere...
    h = labels[[0, 0]] * np.float32([[1], [-1]])
    y = np.array([0, 0])
    np.testing.assert_allclose(value(objective, h, y), (2**2 + 2**2) / 4, rtol=1e-5)


@pytest.mark.parametrize(
    ("case", "shape", "h"),
    [
        ("one example", (7,), some(1, 7)),
        ("zeros", (7,), np.zeros((B, 7), "float32")),
        ("ones", (7,), np.ones((B, 7), "float32")),
        ("one dead example", (7,), np.float32([[0]] + [[1]] * 5) * some(B, 7)),
        ("zeros", (4, 4, 5), np.zeros((B, 4, 4, 5), "float32")),
        ("one example", (4, 4, 5), some(1, 4, 4, 5)),
        ("a single position", (1, 1, 5), some(B, 1, 1, 5)),
        ("a single step", (1, 5), some(B, 1, 5)),
        ("a dead channel", (4, 4, 5), np.float32([0, 1, 1, 1, 1]) * some(B, 4, 4, 5)),
    ],
    ids=str,
)
def test_sim_has_finite_gradients(case, shape, h):
    objective = built(SimilarityMatching(), (None, *shape))
    if shape == (4, 4, 5):  # leave the channels as they are
        kernel = np.zeros((3, 3, 5, 5))
        kernel[1, 1] = np.eye(5)
        objective.projection.kernel.assign(kernel)
    gradient = assert_gradient(objective, h, LABELS[: len(h)])
    if case == "zeros":
        assert not gradient.any()


def test_examples_of_weight_zero_are_taught_nothing_by_sim():
    objective = built(SimilarityMatching(), (None, 7))
    gradient = assert_gradient(objective, some(B, 7), LABELS, WEIGHT)
    assert (gradient[WEIGHT == 0] == 0).all()
    assert (np.abs(gradient[WEIGHT > 0]).max(1) > 0).all()
    gradient = assert_gradient(objective, some(B, 7), LABELS, np.zeros(B, "float32"))
    assert not gradient.any()


# Supervised contrast


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weighed"])
@pytest.mark.parametrize("form", FORMS)
def test_supcon(form, weight):
    objective = built(
        SupervisedContrastive("linear", projection_dim=4, temperature=0.5), (None, 7)
    )
    h = some(B, 7)
    z = np.asarray(objective.network(h))
    assert z.shape == (B, 4)
    found = value(objective, h, FORMS[form], weight)
    # Class 2 stands alone, and so does class 1 where one of its two has no weight.
    np.testing.assert_allclose(found, supcon(z, 0.5, weight), rtol=1e-5)


@pytest.mark.parametrize("shape", [(4, 4, 5), (6, 5)], ids=str)
def test_supcon_of_maps(shape):
    objective = built(SupervisedContrastive("gap_linear"), (None, *shape))
    h = some(B, *shape)
    z = np.asarray(objective.network(h))
    assert z.shape == (B, 128)
    np.testing.assert_allclose(value(objective, h), supcon(z, 0.07), rtol=1e-4)


@pytest.mark.parametrize(
    ("h", "y"),
    [
        (some(1, 7), LABELS[:1]),
        (some(3, 7), np.array([0, 1, 2])),
        (np.zeros((B, 7), "float32"), LABELS),
        (np.ones((B, 7), "float32"), LABELS),
        (1e4 * some(B, 7), LABELS),
    ],
    ids=["one example", "no positives", "zeros", "ones", "large"],
)
def test_supcon_has_finite_gradients(h, y):
    objective = built(SupervisedContrastive("linear", projection_dim=4), (None, 7))
    gradient = assert_gradient(objective, h, y)
    if len(h) < B:
        assert value(objective, h, y) == 0.0
        assert not gradient.any()


def test_supcon_of_equal_examples_by_hand():
    objective = built(SupervisedContrastive("linear", projection_dim=4), (None, 7))
    y = np.array([0, 0, 1, 2])
    found = value(objective, np.ones((4, 7), "float32"), y)
    np.testing.assert_allclose(found, 2 * np.log(3) / 4, rtol=1e-5)


def test_examples_of_weight_zero_are_taught_nothing_by_supcon():
    objective = built(SupervisedContrastive("linear", projection_dim=4), (None, 7))
    gradient = assert_gradient(objective, some(B, 7), LABELS, WEIGHT)
    assert (gradient[WEIGHT == 0] == 0).all()
    assert gradient.any()

"""Auxiliary heads: every kind, for every rank of activation and shape of target."""

import itertools
import math

import keras
import numpy as np
import pytest

from keras_e2e.heads import KINDS, MAX_LINEAR_INPUTS, check_kind, make_head

# Activations by rank. "conv" needs 1 to 3 spatial axes.
ACTIVATIONS = {
    2: (None, 7),
    3: (None, 5, 7),
    4: (None, 6, 5, 7),
    5: (None, 3, 4, 2, 7),
    6: (None, 2, 3, 2, 2, 7),
}
TARGETS = [(None, 3), (None, 1), (None,), (None, 2, 5), (None, 2, 3, 2)]


def head_for(kind, activation, target, dtype="float32", policy=None):
    spec = keras.KerasTensor(activation, dtype=dtype)
    return make_head(kind, spec, target, policy)


def some(shape, batch=3, size=6):
    """An activation of this shape; axes of unknown size get one."""
    shape = (batch, *[size if n is None else n for n in shape[1:]])
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def kinds_of(head):
    return [type(layer).__name__ for layer in head.layers]


FITTING = [
    (kind, rank)
    for kind, rank in itertools.product([None, *KINDS], ACTIVATIONS)
    if kind != "conv" or rank in (3, 4, 5)
]


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize(("kind", "rank"), FITTING)
def test_a_head_puts_out_the_targets_shape(kind, rank, target):
    shape = ACTIVATIONS[rank]
    head = head_for(kind, shape, target)
    assert head.output_shape == target
    outputs = head(some(shape))
    assert outputs.shape == (3, *target[1:])
    assert np.isfinite(outputs).all()


@pytest.mark.parametrize("target", [(None, 3), (None, 6, 5, 3)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_head_ends_in_raw_values(kind, target):
    last = head_for(kind, ACTIVATIONS[4], target).layers[-1]
    assert last.activation is keras.activations.linear


def test_the_kinds_are_the_layers_their_sources_say():
    shape, target = ACTIVATIONS[4], (None, 3)
    assert kinds_of(head_for("linear", shape, target)) == ["Flatten", "Dense"]
    pooled = ["GlobalAveragePooling2D", "Dense"]
    assert kinds_of(head_for("gap_linear", shape, target)) == pooled
    mlp = head_for("mlp", shape, target)
    assert kinds_of(mlp) == ["GlobalAveragePooling2D", "Dense", "Dense", "Dense"]
    assert [layer.units for layer in mlp.layers[1:]] == [7, 7, 3]
    hidden = [layer.activation for layer in mlp.layers[1:]]
    assert hidden == [*[keras.activations.relu] * 2, keras.activations.linear]
    conv = head_for("conv", shape, target)
    assert kinds_of(conv) == [
        *["Conv2D", "BatchNormalization", "ReLU", "GlobalAveragePooling2D", "Dense"]
    ]
    assert conv.layers[0].kernel.shape == (3, 3, 7, 7)


@pytest.mark.parametrize(
    ("shape", "target", "same"),
    [
        (ACTIVATIONS[2], (None, 3), "linear"),
        (ACTIVATIONS[3], (None, 3), "gap_linear"),
        (ACTIVATIONS[4], (None, 3), "gap_linear"),
        (ACTIVATIONS[3], (None, 5, 2), "linear"),
        (ACTIVATIONS[4], (None, 6, 5, 2), "linear"),
    ],
    ids=str,
)
def test_the_default_head_follows_the_activation(shape, target, same):
    chosen = head_for(None, shape, target)
    assert kinds_of(chosen) == kinds_of(head_for(same, shape, target))


def test_a_linear_head_computes_a_linear_map():
    activation = some(ACTIVATIONS[3])
    head = head_for("linear", ACTIVATIONS[3], (None, 4))
    kernel, bias = (np.asarray(v) for v in head.weights)
    expected = activation.reshape(3, -1) @ kernel + bias
    np.testing.assert_allclose(head(activation), expected, rtol=1e-5, atol=1e-6)


def test_a_gap_linear_head_averages_over_the_positions():
    activation = some(ACTIVATIONS[4])
    head = head_for("gap_linear", ACTIVATIONS[4], (None, 4))
    kernel, bias = (np.asarray(v) for v in head.weights)
    expected = activation.mean((1, 2)) @ kernel + bias
    np.testing.assert_allclose(head(activation), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "shape",
    [
        (None, 32, 32, 64),
        (None, 17, 33, 20),
        (None, 8, 8, 32),
        (None, 8, 8, 33),
        (None, 5000, 3),
        (None, 4, 4, 3000),
        (None, 9, 9, 9, 8),
        (None, 45, 45, 1),
        (None, 46, 46, 1),
    ],
    ids=str,
)
def test_a_linear_head_pools_just_enough(shape):
    head = head_for("linear", shape, (None, 10))
    seen = head.layers[-1].kernel.shape[0]
    *spatial, channels = shape[1:]

    def left(size):
        return channels * math.prod(math.ceil(n / size) for n in spatial)

    pools = [layer for layer in head.layers if hasattr(layer, "pool_size")]
    assert seen <= max(MAX_LINEAR_INPUTS, channels)
    if left(1) <= MAX_LINEAR_INPUTS:
        assert not pools
        assert seen == left(1)
        return
    (pool,) = pools
    (size,) = set(pool.pool_size)
    assert seen == left(size)
    assert left(size - 1) > MAX_LINEAR_INPUTS, "a smaller window would have done"


@pytest.mark.parametrize("kind", [None, *KINDS])
@pytest.mark.parametrize(
    ("shape", "target"),
    [
        ((None, 5, 7), (None, 5, 3)),
        ((None, None, 7), (None, None, 3)),
        ((None, 6, 5, 7), (None, 6, 5, 3)),
        ((None, None, None, 7), (None, None, None, 3)),
        ((None, 6, 4, 7), (None, 12, 9, 2)),
        ((None, 6, 6, 7), (None, 3, 3, 2)),
        ((None, 3, 4, 2, 7), (None, 3, 4, 2, 5)),
    ],
    ids=str,
)
def test_a_target_by_position_gets_a_head_by_position(kind, shape, target):
    head = head_for(kind, shape, target)
    outputs = head(some(shape))
    assert outputs.shape == some(target).shape
    assert not {"Flatten", "Reshape"} & set(kinds_of(head))


def test_the_same_values_at_two_positions_get_the_same_outputs():
    activation = np.repeat(some((None, 1, 7)), 5, axis=1)
    outputs = np.asarray(head_for("mlp", (None, 5, 7), (None, 5, 3))(activation))
    np.testing.assert_array_equal(outputs, np.repeat(outputs[:, :1], 5, axis=1))


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "conv"])
@pytest.mark.parametrize("shape", [(None, 5, 7), (None, 6, 5, 7)], ids=str)
def test_a_position_sees_no_other_position(kind, shape):
    head = head_for(kind, shape, (*shape[:-1], 3))
    activation = some(shape)
    changed = activation.copy()
    changed[:, 0] += 1.0
    one, other = np.asarray(head(activation)), np.asarray(head(changed))
    np.testing.assert_array_equal(one[:, 1:], other[:, 1:])
    assert (one[:, 0] != other[:, 0]).any()


def test_the_input_keeps_the_dtype_of_the_activation_and_the_output_is_float32():
    policy = keras.dtype_policies.DTypePolicy("mixed_float16")
    for kind, target in itertools.product(KINDS, [(None, 3), (None, 6, 5, 3), (None,)]):
        head = head_for(kind, ACTIVATIONS[4], target, "float16", policy)
        assert head.inputs[0].dtype == "float16"
        assert head.outputs[0].dtype == "float32"
        outputs = head(some(ACTIVATIONS[4]).astype("float16"))
        assert outputs.dtype == "float32"
        hidden = [layer for layer in head.layers if layer.weights][:-1]
        assert all(layer.compute_dtype == "float16" for layer in hidden)
        assert all(layer.variable_dtype == "float32" for layer in head.layers)


def test_heads_share_nothing():
    one = head_for("mlp", ACTIVATIONS[2], (None, 3))
    other = head_for("mlp", ACTIVATIONS[2], (None, 3))
    assert not {id(v) for v in one.weights} & {id(v) for v in other.weights}


@pytest.mark.parametrize(
    ("kind", "shape", "target", "said"),
    [
        ("lin", (None, 7), (None, 3), ["'lin'", *map(repr, KINDS), "None"]),
        ("", (None, 7), (None, 3), ["''", "'linear'"]),
        ("conv", (None, 7), (None, 3), ["'conv'", "(None, 7)", "'linear'", "'mlp'"]),
        ("conv", ACTIVATIONS[6], (None, 3), ["'conv'", "'linear'", "'mlp'"]),
        ("mlp", (None, None), (None, 3), ["last axis", "(None, None)"]),
        (None, (None, 5, None), (None, 3), ["last axis", "(None, 5, None)"]),
        ("linear", (None, None, 7), (None, 3), ["(None, None, 7)", "'gap_linear'"]),
        ("linear", (None, 5, None, 7), (None, 3), ["5, None, 7)", "'gap_linear'"]),
        ("mlp", (None, 7), (None, None), ["(None, 7)", "size", "objective"]),
        ("mlp", (None, 5, 7), (None, None, 3), ["(None, None, 3)", "fixed sizes"]),
    ],
    ids=str,
)
def test_a_head_that_cannot_be_is_refused(kind, shape, target, said):
    with pytest.raises(ValueError) as caught:
        head_for(kind, shape, target)
    for phrase in said:
        assert phrase in str(caught.value)


def test_check_kind_returns_what_it_checked():
    assert [check_kind(kind) for kind in (None, *KINDS)] == [None, *KINDS]

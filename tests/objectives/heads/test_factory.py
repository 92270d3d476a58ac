"""Auxiliary heads: every kind, for every rank of activation and shape of target."""

import itertools
import math

import keras
import numpy as np
import pytest

from keras_e2e.objectives import heads
from keras_e2e.objectives.heads import KINDS, MAX_LINEAR_INPUTS, make_head

# Activations by rank: dense, sequence, image, video, and one that no convolution takes.
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
    if kind not in ("conv1", "conv_mlp") or rank in (3, 4, 5)
]


@pytest.mark.parametrize(("kind", "rank"), FITTING)
def test_a_head_puts_out_the_targets_shape(kind, rank):
    shape = ACTIVATIONS[rank]
    for target in TARGETS:
        head = head_for(kind, shape, target)
        assert head.output_shape == target
        outputs = head(some(shape), training=True)
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
    block = ["BatchNormalization", "ReLU"]
    conv = head_for("conv1", shape, target)
    assert kinds_of(conv) == ["Conv2D", *block, *pooled]
    assert conv.layers[0].kernel.shape == (3, 3, 7, 7)
    decoder = head_for("decoder", shape, (None, 12, 12, 2))
    assert kinds_of(decoder) == ["Resizing", "Conv2D", *block, "Conv2D"]
    assert decoder.layers[1].kernel.shape == (3, 3, 7, 12)
    assert decoder.layers[-1].kernel.shape == (3, 3, 12, 2)
    assert decoder.layers[0].interpolation == "bilinear"
    assert kinds_of(head_for("decoder", (None, 7), (None, 4, 2))) == ["Dense", "Reshape"]


@pytest.mark.parametrize(
    ("shape", "pools", "width"),
    [
        ((None, 30, 17, 7), [(4, 4), (4, 3)], 28),  # 8 x 5 positions, then 2 x 2
        ((None, 3, 8, 7), [(3, 4)], 14),  # 1 x 2 positions
        ((None, 9, 7), [(4,), (2,)], 14),
        ((None, 5, 1, 9, 7), [(4, 1, 4), (1, 1, 2)], 28),
    ],
    ids=str,
)
def test_conv_mlp_pools_as_dgl_does(shape, pools, width):
    head = head_for("conv_mlp", shape, (None, 3))
    assert [x.pool_size for x in head.layers if hasattr(x, "pool_size")] == pools
    convs = [x for x in head.layers if hasattr(x, "kernel_size")]
    ones = (1,) * (len(shape) - 2)
    assert [x.kernel.shape for x in convs] == [(*ones, 7, 7)] * 3
    assert kinds_of(head).count("BatchNormalization") == 5
    dense = [x.kernel.shape for x in head.layers if isinstance(x, keras.layers.Dense)]
    assert dense == [(width, width), (width, width), (width, 3)]
    flat = head_for("conv_mlp", (None, 7), (None, 3))
    assert kinds_of(flat) == kinds_of(head_for("mlp", (None, 7), (None, 3)))


def test_a_linear_head_starts_from_zero_where_it_predicts_one_vector():
    for shape, target in [((None, 7), (None, 3)), (ACTIVATIONS[4], (None,))]:
        head = head_for("linear", shape, target)
        np.testing.assert_array_equal(head(some(shape)), np.zeros((3, *target[1:])))
    for shape, target in [((None, 7), (None, 4, 2)), (ACTIVATIONS[3], (None, 5, 3))]:
        assert np.abs(head_for("linear", shape, target)(some(shape))).max() > 0.01
    assert np.abs(head_for("gap_linear", (None, 7), (None, 3))(some((None, 7)))).max() > 0


@pytest.mark.parametrize(
    ("shape", "target", "kept"),
    [
        # Repeated to 6 positions, of which the first 5 stay.
        ((None, 3, 1), (None, 5, 1), lambda x: np.repeat(x, 2, 1)[:, :5]),
        # Repeated to 9, of which 2 go at either end.
        ((None, 3, 1), (None, 5 + 2, 1), lambda x: np.repeat(x, 3, 1)[:, 1:8]),
        # Averaged over pairs; the odd one out is left over.
        ((None, 7, 1), (None, 3, 1), lambda x: x[:, :6].reshape(3, 3, 2, 1).mean(2)),
        (
            (None, 2, 4, 2, 1),
            (None, 4, 2, 2, 1),
            lambda x: np.repeat(x.reshape(3, 2, 2, 2, 2, 1).mean(3), 2, 1),
        ),
    ],
    ids=["up", "up_and_cropped", "down", "both"],
)
def test_a_decoder_resizes_sequences_and_videos(shape, target, kept):
    activation = some(shape)
    resizing = head_for("decoder", shape, target).layers[:-4]
    values = activation
    for layer in resizing:
        values = layer(values)
    np.testing.assert_allclose(values, kept(activation), rtol=1e-6)


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
    head.set_weights([some((None, 4), batch=35), some((None,), batch=4)])
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


@pytest.mark.parametrize("kind", ["linear", "gap_linear", "mlp", "conv_mlp"])
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
        ("lin", (None, 7), (None, 3), ["mean 'linear'", *map(repr, KINDS), "None"]),
        ("conv", (None, 7), (None, 3), ["mean 'conv1' or 'conv_mlp'?"]),
        ("", (None, 7), (None, 3), ["head ''. Expected", "'linear'"]),
        ("conv1", (None, 7), (None, 3), ["'conv1'", "(None, 7)", "'linear'", "'mlp'"]),
        ("conv1", ACTIVATIONS[6], (None, 3), ["'conv1'", "'linear'", "'mlp'"]),
        ("conv_mlp", ACTIVATIONS[6], (None, 3), ["'conv_mlp'", "'linear'", "'mlp'"]),
        ("conv_mlp", (None, None, 7), (None, 3), ["'conv_mlp'", "(None, None, 7)"]),
        ("decoder", ACTIVATIONS[6], (*ACTIVATIONS[6][:-1], 1), ["'decoder'", "'linear'"]),
        ("decoder", (None, None, 7), (None, 9, 3), ["'decoder'", "both sizes"]),
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


class Lazy(keras.layers.Layer):
    """A layer that makes its weights when it is called, not in `build`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(3)

    def call(self, inputs):
        return self.dense(inputs)


def test_a_layer_of_ones_own_is_built_and_returned():
    model = keras.Sequential([keras.layers.Dense(4, "relu"), keras.layers.Dense(3)])
    for layer in (keras.layers.Dense(3, dtype="float64"), model, Lazy()):
        head = make_head(layer, keras.KerasTensor((None, 7)), (None, 3))
        assert head is layer
        assert head.weights
        assert head(some((None, 7)), training=True).shape == (3, 3)
    assert make_head(model, keras.KerasTensor((None, 7)), (None, 3)) is model
    tagger = keras.layers.Dense(3)
    activation = keras.KerasTensor((None, None, 7))
    assert make_head(tagger, activation, (None, None, 3)) is tagger


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (keras.layers.Dense(4, name="mine"), ["'mine' (Dense)", "(None, 4)", "(None, 3)"]),
        (
            keras.layers.Conv2D(3, 3, name="map"),
            ["'map' (Conv2D)", "(None, 7)", "'linear'"],
        ),
        (
            keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)], name="own"),
            ["'own' (Sequential)", "(None, 7)"],
        ),
        (
            keras.layers.Lambda(lambda x: [x, x], name="two"),
            ["'two' (Lambda)", "no single tensor"],
        ),
    ],
    ids=lambda v: getattr(v, "name", ""),
)
def test_a_layer_of_ones_own_that_does_not_fit_is_refused(layer, said):
    with pytest.raises(ValueError) as caught:
        make_head(layer, keras.KerasTensor((None, 7)), (None, 3))
    for phrase in said:
        assert phrase in str(caught.value)


def test_check_returns_what_it_checked():
    layer = keras.layers.Dense(3)
    assert [heads.validate_head(head) for head in (None, *KINDS, layer)] == [
        None,
        *KINDS,
        layer,
    ]


@pytest.mark.parametrize(
    ("head", "said"),
    [(3, "head=3"), (keras.layers.Dense, "mean Dense()?"), (["mlp"], "own")],
)
def test_check_refuses_what_is_no_head(head, said):
    with pytest.raises(TypeError) as caught:
        heads.validate_head(head)
    assert said in str(caught.value)
    assert "'gap_linear'" in str(caught.value)


@keras.saving.register_keras_serializable("test_heads")
class Holder(keras.layers.Layer):
    """A layer with a head, as an objective is one."""

    def __init__(self, head=None, **kwargs):
        super().__init__(**kwargs)
        self.head = heads.validate_head(head)
        self.network = None

    def build(self, shape):
        self.network = make_head(self.head, keras.KerasTensor(shape), (None, 3))

    def call(self, inputs, training=False):
        return self.network(inputs, training=training)

    def get_config(self):
        return {**super().get_config(), "head": heads.serialize(self.head)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "head": heads.deserialize(config["head"])})


@pytest.mark.parametrize("kind", ["layer", "model", "conv_mlp", None])
def test_a_head_is_saved_and_loaded_with_its_layer(kind, tmp_path):
    head = {
        "layer": keras.layers.Dense(3, "relu"),
        "model": keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(3)]),
    }.get(kind, kind)
    inputs = keras.Input((7,))
    model = keras.Model(inputs, Holder(head)(inputs))
    for variable in model.weights:
        variable.assign(some((None, *variable.shape[1:]), batch=variable.shape[0]))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[-1].head) is type(head)
    np.testing.assert_array_equal(loaded(some((None, 7))), model(some((None, 7))))


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="XLA of TensorFlow")
def test_a_map_that_was_pooled_is_resized_in_half_precision_under_xla():
    import tensorflow as tf

    x = tf.constant(some((None, 4, 4, 2)), "float16")
    pooled = (None, 2, 2, 2)
    head = head_for("decoder", pooled, (None, 4, 4, 1), "float16", "mixed_float16")

    @tf.function(jit_compile=True)
    def gradient():
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(head(tf.nn.max_pool2d(x, 2, 2, "VALID")))
        return tape.gradient(loss, x)

    assert np.any(gradient())

"""Heads made of the model's own layers, with values worked out by hand."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_e2e import ModuleBoundary
from keras_e2e.modules.blocks import blocks_after
from keras_e2e.modules.graph import Graph
from keras_e2e.objectives.heads.factory import make_head
from keras_e2e.objectives.heads.model_based import AugLocal, MomentumAuxiliary

KINDS = [AugLocal, MomentumAuxiliary]


def chain(shape, *following, opening=None):
    """What comes after the boundary in a chain of layers, and the activation there."""
    inputs = keras.Input(shape)
    h = boundary = ModuleBoundary(name="first")
    h = boundary((opening or layers.Dense(4, "tanh", name="opening"))(inputs))
    activation = keras.KerasTensor(h.shape, h.dtype)
    for layer in following:
        h = layer(h)
    return activation, blocks_after(Graph(keras.Model(inputs, h)), boundary)


def dense(count):
    """A chain of hidden layers, `hidden0` and so on, and a classifier."""
    hidden = [layers.Dense(4, "tanh", name=f"hidden{i}") for i in range(count)]
    return chain((6,), *hidden, layers.Dense(3, "softmax", name="out"))


def some(activation, batch=5):
    shape = (batch, *[6 if n is None else n for n in activation.shape[1:]])
    return np.random.default_rng(1).normal(size=shape).astype("float32")


def copied(head):
    return [x.name for x in head.network.layers if x.weights][:-1]


RESTS = {
    "dense": lambda: dense(2),
    "sequence": lambda: chain(
        (7, 3),
        layers.Conv1D(5, 3, padding="same"),
        layers.LSTM(6, return_sequences=True),
        layers.GlobalAveragePooling1D(),
        layers.Dense(3),
    ),
    "unknown": lambda: chain(
        (None, 3), layers.GRU(5, return_sequences=True), layers.Dense(3)
    ),
    "image": lambda: chain(
        (8, 8, 2),
        layers.Conv2D(5, 3, strides=2, padding="same"),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Flatten(),
        layers.Dense(3),
    ),
    "video": lambda: chain(
        (3, 4, 4, 2), layers.Conv3D(5, 3, padding="same"), layers.Flatten(), layers.Dense(3)
    ),
}


@pytest.mark.parametrize("rest", RESTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_head_puts_out_the_targets_shape(kind, rest):
    activation, blocks = RESTS[rest]()
    # DGL's head, the default of the momentum network, must know how many positions.
    options = (
        {"head": "gap_linear"} if kind is MomentumAuxiliary and rest == "unknown" else {}
    )
    for target in [(None, 3), (None, 2, 5)]:
        head = make_head(kind(**options), activation, target, None, blocks)
        outputs = head(some(activation), training=True)
        assert outputs.shape == (5, *target[1:])
        assert np.abs(outputs).max() > 0
    if rest == "sequence":
        head = make_head(kind(), activation, (None, 7, 2), None, blocks)
        assert head(some(activation)).shape == (5, 7, 2)
        assert "pool" not in [x.name for x in head.network.layers], "position by position"


# AugLocal


def test_the_depth_is_that_of_the_paper():
    head = AugLocal(depth_max=5, depth_min=1)
    # Behind the layers 1 to 10 of 11: from 5 down to 1 in steps of 4/9.
    assert [head.depth(place, 11) for place in range(1, 11)] == [
        *[5, 5, 4, 4, 3, 3, 2, 2, 1, 1]
    ]
    assert AugLocal(4, 4).depth(3, 9) == 4
    assert AugLocal(4, 2).depth(1, 2) == 4


@pytest.mark.parametrize(
    ("count", "depth", "expected"),
    [(6, 3, [1, 3, 5]), (5, 2, [1, 4]), (4, 1, [3]), (2, 3, [0, 1]), (0, 3, [])],
)
def test_auglocal_samples_evenly_up_to_the_last_but_one(count, depth, expected):
    activation, rest = dense(count)
    head = make_head(AugLocal(depth), activation, (None, 3), None, rest)
    found = [f"block{i + 1}_hidden{place}" for i, place in enumerate(expected)]
    assert copied(head) == found
    assert not {id(v) for v in head.weights} & {id(v) for b in rest for v in b.variables}
    assert len(head.trainable_weights) == 2 * len(expected) + 2


def residual(width, name):
    """A model of a residual block that takes `width` channels."""

    def block(h):
        new = layers.Conv2D(width, 3, padding="same", name=f"{name}_conv")(h)
        if h.shape[-1] != width:
            h = layers.Conv2D(width, 1, name=f"{name}_short")(h)
        return layers.ReLU()(new + h)

    return block


def test_a_block_that_cannot_be_applied_gives_way_to_the_one_before():
    ends = [layers.GlobalAveragePooling2D(), layers.Dense(3)]
    blocks = [residual(4, "a"), residual(6, "b"), residual(6, "c"), residual(6, "d")]
    activation, rest = chain((5, 5, 2), *blocks, *ends)
    assert activation.shape[-1] == 4
    # Wanted are the second and the fourth, then the fourth alone: 6 channels on 4.
    head = make_head(AugLocal(2), activation, (None, 3), None, rest)
    assert {n.split("_", 1)[0] for n in copied(head)} == {"block1", "block2"}
    assert {n.split("_")[1] for n in copied(head)} == {"b", "d"}
    head = make_head(AugLocal(1), activation, (None, 3), None, rest)
    assert {n.split("_")[1] for n in copied(head)} == {"b"}
    with pytest.raises(ValueError) as caught:
        make_head(AugLocal(name="aug"), activation, (None, 3), None, rest[2:])
    for phrase in ["'aug'", "(None, 5, 5, 4)", "'mlp'", "c_conv"]:
        assert phrase in str(caught.value)


def test_blocks_that_flatten_are_taken_only_where_there_are_no_others():
    conv = layers.Conv2D(4, 3, padding="same", name="conv")
    ends = [layers.Flatten(), layers.Dense(7, name="wide"), layers.Dense(3)]
    activation, rest = chain((5, 5, 2), conv, *ends)
    head = make_head(AugLocal(2), activation, (None, 3), None, rest)
    assert copied(head) == ["block1_conv"]
    head = make_head(AugLocal(2), activation, (None, 3), None, rest[1:])
    assert copied(head) == ["block1_wide"]


# Momentum auxiliary network


def man(momentum=0.9):
    activation, rest = dense(2)
    head = MomentumAuxiliary(momentum, "gap_linear")
    make_head(head, activation, (None, 3), None, rest)
    return head, rest[0].layers[0], some(activation)


def by_hand(head, kernel, bias, x):
    """The head's output with these averages."""
    own_kernel, own_bias, last_kernel, last_bias = (
        np.asarray(v) for v in head.trainable_weights
    )
    seen = np.tanh(x @ kernel + bias) + np.tanh(x @ own_kernel + own_bias)
    return seen @ last_kernel + last_bias


def test_the_averages_move_at_every_training_call():
    head, original, x = man()
    kernel, bias = (np.asarray(v) for v in original.weights)
    outputs = head(x)
    np.testing.assert_allclose(
        outputs, by_hand(head, kernel, bias, x), rtol=1e-4, atol=1e-6
    )
    original.kernel.assign(original.kernel + 1.0)
    head(x, training=False)
    np.testing.assert_array_equal(head.averages[0], kernel)
    outputs = head(x, training=True)
    np.testing.assert_allclose(head.averages[0], kernel + 0.1, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        outputs, by_hand(head, kernel + 0.1, bias, x), rtol=1e-4, atol=1e-5
    )
    original.bias.assign(original.bias + 2.0)
    head(x, training=True)
    np.testing.assert_allclose(head.averages[0], kernel + 0.19, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(head.averages[1], bias + 0.2, rtol=1e-5, atol=1e-6)


def test_the_original_is_no_part_of_the_head_and_gets_no_gradient():
    head, original, x = man()
    foreign = {id(v) for v in original.weights}
    assert not foreign & {id(v) for v in head.variables}
    assert len(head.weights) == len({id(v) for v in head.weights}) == 6
    head.trainable = False
    head.trainable = True
    assert len(head.trainable_weights) == 4, "averages are never trained"
    assert not {id(v) for v in head.averages} & {id(v) for v in head.trainable_weights}
    with tf.GradientTape() as tape:
        x = tf.constant(x)
        tape.watch(x)
        loss = ops.sum(head(x, training=True) ** 2)
    wanted = [*original.weights, *head.averages]
    *idle, into, own = tape.gradient(
        loss, [*(v.value for v in wanted), x, head.trainable_weights[0].value]
    )
    assert idle == [None] * 4
    assert np.abs(into).max() > 0
    assert np.abs(own).max() > 0


def test_the_averaged_block_may_have_a_scale_that_is_learned():
    activation, rest = dense(2)
    head = MomentumAuxiliary(0.9, "gap_linear", learnable_scale=True)
    make_head(head, activation, (None, 3), None, rest)
    (scale,) = [v for v in head.trainable_weights if v.path.endswith("scale")]
    np.testing.assert_array_equal(scale, np.ones(4))
    scale.assign([0.5, 2.0, 0.0, -1.0])
    x = some(activation)
    kernel, bias = (np.asarray(v) for v in rest[0].layers[0].weights)
    own_kernel, own_bias, last_kernel, last_bias = (
        np.asarray(v) for v in head.trainable_weights if v is not scale
    )
    averaged = np.tanh(x @ kernel + bias)
    seen = averaged * [0.5, 2.0, 0.0, -1.0] + np.tanh(x @ own_kernel + own_bias)
    np.testing.assert_allclose(
        head(x), seen @ last_kernel + last_bias, rtol=1e-4, atol=1e-6
    )
    with tf.GradientTape() as tape:
        loss = ops.sum(head(x, training=True))
    expected = averaged.sum(axis=0) * last_kernel.sum(axis=1)
    np.testing.assert_allclose(tape.gradient(loss, scale.value), expected, rtol=1e-4)


def test_without_a_learned_scale_there_is_none():
    head, _, _ = man()
    assert not [v for v in head.weights if "scale" in v.path]


def test_batch_statistics_are_averaged_too_and_the_average_infers():
    norm = layers.BatchNormalization(name="norm", momentum=0.5)
    drop = layers.Dropout(0.5)
    ends = [drop, layers.Dense(4, name="conv"), norm, layers.Dense(3)]
    activation, rest = chain((6,), *ends)
    head = MomentumAuxiliary(0.5, "gap_linear")
    make_head(head, activation, (None, 3), None, rest)
    norm.moving_mean.assign(norm.moving_mean + 8.0)
    before = [np.asarray(v) for v in head.averages]
    x = some(activation)
    own = next(layer for layer in head.block.layers if layer.name == "block_norm")
    own.gamma.assign(own.gamma * 0.0)  # what the head's own copy puts out is zero
    outputs = head(x, training=True)
    moved = [
        np.abs(np.asarray(v) - b).max() for v, b in zip(head.averages, before, strict=True)
    ]
    # Only what the original's mean had moved by, not what a batch would have done.
    assert sorted(moved) == [0, 0, 0, 0, 0, 4]
    kernel, bias, gamma, beta, mean, variance = (np.asarray(v) for v in head.averages)
    seen = (x @ kernel + bias - mean) / np.sqrt(variance + norm.epsilon) * gamma + beta
    last = head.network.layers[-1]
    np.testing.assert_allclose(
        outputs, seen @ last.kernel + last.bias, rtol=1e-4, atol=1e-4
    )
    assert np.abs(own.moving_mean).max() > 0, "the head's own copy sees the batch"


class Around(keras.layers.Layer):
    """A layer that calls another."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def call(self, inputs, training=False):
        return self.inner(inputs, training=training)


@pytest.mark.parametrize(("jit", "inside"), [(False, True), (True, False)])
def test_it_works_in_graphs_and_in_mixed_precision(jit, inside):
    policy = keras.dtype_policies.DTypePolicy("mixed_float16")
    keras.config.set_dtype_policy(policy)
    activation, rest = dense(1)
    head = make_head(MomentumAuxiliary(0.999), activation, (None, 3), policy, rest)
    original = rest[0].layers[0]
    before = np.asarray(original.kernel)
    original.kernel.assign(before + 1.0)
    called = Around(head) if inside else head
    step = tf.function(lambda x: called(x, training=True), jit_compile=jit)
    for _ in range(3):
        outputs = step(some(activation).astype("float16"))
    assert outputs.dtype == "float32"
    assert head.block.layers[-1].compute_dtype == "float16"
    # Half precision knows no step of 0.001 here.
    np.testing.assert_allclose(head.averages[0] - before, 1 - 0.999**3, rtol=1e-3)


MIRRORED = """
import keras, numpy as np, tensorflow as tf
from tests.objectives.heads import test_model_based as t
cpu = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    head, original, x = t.man()
    kernel = original.kernel.numpy()
    original.kernel.assign(kernel + 1.0)
step = tf.function(lambda x: strategy.run(lambda x: head(x, training=True), (x,)))
step(x), step(x)
for value in strategy.experimental_local_results(head.averages[0].value):
    np.testing.assert_allclose(value, kernel + 0.19, rtol=1e-5, atol=1e-6)
print("moved")
"""


@pytest.mark.slow
def test_the_averages_move_on_every_replica():
    done = subprocess.run(
        [sys.executable, "-c", MIRRORED], capture_output=True, text=True, check=False
    )
    assert "moved" in done.stdout, done.stderr[-2000:]


# Both


@keras.saving.register_keras_serializable("test_model_heads")
class Holder(keras.layers.Layer):
    """A layer with a head, as an objective is one."""

    def __init__(self, head, **kwargs):
        super().__init__(**kwargs)
        self.head = head

    def call(self, inputs):
        return self.head(inputs, training=False)

    def get_config(self):
        head = keras.saving.serialize_keras_object(self.head)
        return {**super().get_config(), "head": head}

    @classmethod
    def from_config(cls, config):
        head = keras.saving.deserialize_keras_object(config["head"])
        return cls(**{**config, "head": head})


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_is_made_anew_and_gets_its_weights_back(kind, tmp_path):
    activation, rest = dense(2)
    options = {"head": "linear"} if kind is MomentumAuxiliary else {}
    holder = Holder(make_head(kind(**options), activation, (None, 3), None, rest))
    holder.build(activation.shape)
    for variable in holder.weights:
        variable.assign(variable + 0.3)
    keras.Sequential([keras.Input((4,)), holder]).save_weights(tmp_path / "a.weights.h5")
    again = Holder.from_config(holder.get_config())
    assert not again.weights
    make_head(again.head, activation, (None, 3), None, dense(2)[1])
    model = keras.Sequential([keras.Input((4,)), again])
    model.load_weights(tmp_path / "a.weights.h5")
    for one, other in zip(again.weights, holder.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    names = [
        [v.path.split("/", 1)[-1] for v in head.weights if "block" in v.path]
        for head in (again.head, holder.head)
    ]
    assert names[0] == names[1] != []


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_needs_to_see_what_follows_and_serves_one_boundary(kind):
    activation, rest = dense(2)
    head = kind(name="mine")
    with pytest.raises(ValueError, match=f"'mine' .{kind.__name__}.*subclassed.*'mlp'"):
        make_head(head, activation, (None, 3))
    make_head(head, activation, (None, 3), None, rest)
    with pytest.raises(ValueError, match=r"'mine'.*in use already"):
        make_head(head, activation, (None, 3), None, rest)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: AugLocal(1, 2), "depth_max=1: expected an integer of at least 2"),
        (lambda: AugLocal(0, 0), "depth_min=0"),
        (lambda: MomentumAuxiliary(1.5), "momentum=1.5"),
        (lambda: MomentumAuxiliary(learnable_scale=0.5), "learnable_scale=0.5.*True or"),
        (lambda: assembled(MomentumAuxiliary(), dense(0)), "'gap_linear'"),
        (lambda: assembled(AugLocal(), dense(1), (None, None, 3)), r"\(None, None, 3\)"),
    ],
)
def test_what_cannot_be_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def assembled(head, given, target=(None, 3)):
    activation, rest = given
    return make_head(head, activation, target, None, rest)


def test_configs_hold_the_arguments():
    for head in (
        AugLocal(4, 2, name="a"),
        MomentumAuxiliary(0.5, "mlp", name="b"),
        MomentumAuxiliary(0.5, "mlp", learnable_scale=True),
    ):
        again = type(head).from_config(head.get_config())
        assert again.get_config() == head.get_config()

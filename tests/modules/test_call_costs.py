"""What the calls of a graph cost, worked out by hand."""

import keras
import pytest
from keras import layers

from keras_e2e.modules.call_costs import graph_costs
from keras_e2e.modules.graph import Graph


class Block(layers.Layer):
    """A layer of layers, which adds what it was given."""

    def __init__(self):
        super().__init__(name="block")
        self.up = layers.Dense(12, activation="relu", name="up")
        self.down = layers.Dense(4, name="down")

    def build(self, shape):
        self.up.build(shape)
        self.down.build((*shape[:-1], 12))

    def call(self, x):
        return x + self.down(self.up(x))


class Stubborn(Block):
    """One whose code runs only once."""

    ran = False

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, dtype=x.dtype)

    def call(self, x):
        raise RuntimeError("not twice")


def cost(layer, shape, balance, count=1):
    """What a layer costs on inputs of this shape."""
    inputs = [keras.Input(shape) for _ in range(count)]
    model = keras.Model(inputs, layer(*inputs))
    return sum(graph_costs(Graph(model).calls, balance))


HAND = {
    # bytes made, multiplications with additions
    "dense": (lambda: layers.Dense(5), (7,), 20, 35),
    "of positions": (lambda: layers.Dense(5), (3, 7), 60, 105),
    "convolution": (lambda: layers.Conv2D(4, 3), (8, 8, 2), 576, 6 * 6 * 72),
    "grouped": (lambda: layers.Conv2D(4, 3, groups=2), (8, 8, 2), 576, 6 * 6 * 36),
    "depthwise": (lambda: layers.DepthwiseConv2D(3), (8, 8, 2), 288, 6 * 6 * 18),
    "separable": (lambda: layers.SeparableConv2D(4, 3), (8, 8, 2), 576, 36 * (18 + 8)),
    "transposed": (lambda: layers.Conv1DTranspose(4, 3), (8, 2), 160, 8 * 24),
    "normalization": (lambda: layers.BatchNormalization(), (6, 2), 48, 12),
    "embedding": (lambda: layers.Embedding(100, 4), (6,), 96, 24),
    "view": (lambda: layers.Flatten(), (6, 2), 0, 0),
    # Queries, keys, values and outputs of 2 heads of 3; 2 x 5 x 5 weights.
    "attention": (
        lambda: layers.MultiHeadAttention(2, 3),
        (5, 4),
        4 * (3 * 5 * 6 + 50 + 5 * 4),
        4 * 5 * 24 + 2 * 50 * 3,
    ),
    # 4 gates by two kernels at each of 5 steps, and the last state.
    "recurrent": (lambda: layers.LSTM(3), (5, 2), 4 * (5 * 24 + 3), 5 * (24 + 36)),
    "at each step": (
        lambda: layers.TimeDistributed(layers.Dense(3)),
        (5, 2),
        4 * (15 + 15),
        5 * 6,
    ),
    # The relu's 12 numbers, those of `down`, and their sum with the input.
    "layer of layers": (Block, (4,), 4 * (12 + 4 + 4), 48 + 48 + 4),
    "one that will not run": (Stubborn, (4,), 16, 4),
}


@pytest.mark.parametrize("name", HAND)
def test_by_hand(name):
    make, shape, made, multiplied = HAND[name]
    count = 2 if name == "attention" else 1
    assert cost(make(), shape, "memory", count) == made
    assert cost(make(), shape, "time", count) == multiplied


def test_channels_may_come_first():
    layer = layers.Conv2D(4, 3, data_format="channels_first")
    assert cost(layer, (2, 8, 8), "time") == 6 * 6 * 72


def test_a_step_that_is_not_known_counts_as_one():
    assert cost(layers.Dense(5), (None, 7), "memory") == 20


def test_a_shared_layer_makes_twice_what_it_has_once():
    inputs = keras.Input((4,))
    twice = layers.Dense(4)
    calls = Graph(keras.Model(inputs, twice(twice(inputs)))).calls
    assert graph_costs(calls, "parameters") == [0, 20, 0]
    assert graph_costs(calls, "memory") == [0, 16, 16]
    assert graph_costs(calls, "time") == [0, 16, 16]


class Scored(layers.Layer):
    """Returns None beside its output, as attention does that gives no scores."""

    def build(self, shape):
        self.dense = layers.Dense(4)
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x), None


class Holder(layers.Layer):
    """Takes the first of what its layer returns."""

    def build(self, shape):
        self.scored = Scored()
        self.scored.build(shape)

    def call(self, x):
        return self.scored(x)[0]


def test_a_layer_may_return_none_beside_its_tensor():
    assert cost(Holder(), (4,), "memory") == 16
    assert cost(Holder(), (4,), "time") == 4 + 16  # what it returns, and the Dense

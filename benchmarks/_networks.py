"""The networks on which memory is measured."""

import functools
import itertools

import keras
import numpy as np
from keras import layers

import keras_e2e as e2e


def residual() -> keras.Model:
    """16 blocks of two convolutions, at 28 x 28, 14 x 14 and 7 x 7."""
    x = inputs = keras.Input((28, 28, 1))
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    last = 16
    for width in [16] * 6 + [32] * 5 + [64] * 5:
        stride = 1 if width == last else 2
        y = layers.Conv2D(width, 3, stride, padding="same", use_bias=False)(x)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.Conv2D(width, 3, padding="same", use_bias=False)(y)
        y = layers.BatchNormalization()(y)
        if stride == 2:
            x = layers.Conv2D(width, 1, 2, use_bias=False)(x)
        x = layers.ReLU()(layers.Add()([x, y]))
        last = width
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def transformer() -> keras.Model:
    """8 blocks of width 256 on 64 tokens."""
    inputs = keras.Input((64, 32))
    x = layers.Dense(256)(inputs)
    for _ in range(8):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, 64)(y, y)])
        y = layers.Dense(1024, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(256)(y)])
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))


def mlp() -> keras.Model:
    """8 layers of 1024."""
    x = inputs = keras.Input((784,))
    for _ in range(8):
        x = layers.Dense(1024, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(10)(x))


class Segments(keras.Model):
    """A chain of layers in segments, each of which is computed again for its gradients."""

    def __init__(self, base: keras.Model, modules: int):
        super().__init__()
        ends = [m.boundary.module for m in e2e.modularize(base, modules - 1).modules[:-1]]
        tensors = [base.input, *(base.get_layer(name).output for name in ends), base.output]
        self.segments = [keras.Model(*pair) for pair in itertools.pairwise(tensors)]

    def call(self, inputs, training=None):
        *segments, last = self.segments
        for segment in segments:
            inputs = keras.remat(functools.partial(segment, training=training))(inputs)
        return last(inputs, training=training)


# Each with the size of its batch.
NETWORKS = {
    "residual": (residual, 128),
    "transformer": (transformer, 64),
    "mlp": (mlp, 1024),
}


def batch(network: str) -> tuple[np.ndarray, np.ndarray]:
    """A batch of random examples."""
    make, size = NETWORKS[network]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(size, *make().input.shape[1:])).astype("float32")
    return x, rng.integers(0, 10, size).astype("int32")

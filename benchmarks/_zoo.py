"""The healthy settings of `verdicts.py`: networks, data, optimizers, precisions."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_e2e.experiments import tasks

layers, ops = keras.layers, keras.ops
CROSSENTROPY = "sparse_categorical_crossentropy"


class Data(NamedTuple):
    """What a model is trained on, and what it is held to."""

    x: Any
    y: Any
    x_held_out: Any
    y_held_out: Any


class Setting(NamedTuple):
    """A healthy training: nothing is wrong with it.

    Attributes:
        network: Function that makes the model; the names of its boundaries are `cuts`.
        cuts: Names of the layers that end a module.
        data: Function from a seed to `Data`.
        batch: Integer, the batch size.
        optimizer: Function that makes the optimizer.
        loss: The compiled loss; None for a model with `add_loss`.
        policy: String, the dtype policy.
        unseen: Boolean, whether it was kept out of sight while thresholds were chosen.
    """

    network: Callable[[], keras.Model]
    cuts: tuple[str, ...]
    data: Callable[[int], Data]
    batch: int
    optimizer: Callable[[], keras.optimizers.Optimizer]
    loss: Any = CROSSENTROPY
    policy: str = "float32"
    unseen: bool = False


# Data


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    (x, y), (x_more, y_more) = tasks.load_digits(0)
    return np.concatenate([x, x_more]).reshape(-1, 8, 8), np.concatenate([y, y_more])


@functools.cache
def _clothes() -> tuple[np.ndarray, np.ndarray]:
    (x, y), _ = tasks.load_fashion_mnist()
    small = x[:7000].reshape(-1, 14, 2, 14, 2).mean((2, 4))
    return small.astype("float32"), y[:7000]


def _split(seed: int, x: np.ndarray, y: np.ndarray, share: float = 0.85) -> Data:
    order = np.random.default_rng(seed).permutation(len(x))
    x, y, ends = x[order], y[order], int(share * len(x))
    return Data(x[:ends], y[:ends], x[ends:], y[ends:])


def digits(seed: int) -> Data:
    """Handwritten digits of 8 x 8 pixels, 10 classes."""
    return _split(seed, *_digits())


def clothes(seed: int) -> Data:
    """7,000 images of Fashion-MNIST at 14 x 14, 10 classes."""
    return _split(seed, *_clothes())


def mislabeled(seed: int) -> Data:
    """Clothes of which 30 % carry a random label; those held out as well."""
    x, y = _clothes()
    rng = np.random.default_rng(seed)
    wrong = rng.random(len(y)) < 0.3
    return _split(seed, x, np.where(wrong, rng.integers(0, 10, len(y)), y))


def pairs(seed: int) -> Data:
    """Two digits side by side, 100 classes."""
    x, y = _digits()
    index = np.random.default_rng(seed).integers(0, len(x), (12000, 2))
    both = np.concatenate([x[index[:, 0]], x[index[:, 1]]], axis=2)
    return _split(seed, both, 10 * y[index[:, 0]] + y[index[:, 1]])


def imbalanced(seed: int) -> Data:
    """Digits of which class k is kept with probability .6 ** k."""
    x, y = _digits()
    kept = np.random.default_rng(seed).random((4, len(y))) < 0.6**y
    return _split(seed, *(np.concatenate([v[k] for k in kept]) for v in (x, y)))


def outlines(seed: int) -> Data:
    """Noisy images of clothes, and which pixels belong to the clothes."""
    x, _ = _clothes()
    noise = np.random.default_rng(seed).normal(0, 0.3, x.shape).astype("float32")
    noisy, inside = (x + noise)[:3000, 1:13, 1:13], (x > 0.2)[:3000, 1:13, 1:13]
    return _split(seed, noisy[..., None], inside[..., None].astype("float32"))


def friedman(seed: int) -> Data:
    """Friedman's first regression problem (1991): ten inputs, of which five matter."""
    rng = np.random.default_rng(seed)
    x = rng.random((4000, 10)).astype("float32")
    y = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2
    y += 10 * x[:, 3] + 5 * x[:, 4] + rng.normal(size=len(x))
    return _split(seed, x, y.astype("float32"))


def words(seed: int) -> Data:
    """Padded sequences of 12 tokens; the class is the first token that comes twice."""
    rng = np.random.default_rng(seed)
    x = rng.integers(1, 9, (9000, 12))
    length = rng.integers(9, 13, (len(x), 1))
    x = np.where(np.arange(12) < length, x, 0)
    y = [next(t for i, t in enumerate(row) if t in row[:i]) - 1 for row in x.tolist()]
    return _split(seed, x.astype("int32"), np.array(y))


def pictures_alone(seed: int) -> Data:
    """Digits, as inputs and as targets."""
    data = digits(seed)
    return data._replace(y=None, y_held_out=None)


# Networks: a module ends at each layer with a name of its own


def dense(
    count: int = 4,
    width: int = 64,
    activation: str = "relu",
    normalized: bool = False,
    dropout: float = 0.0,
    inputs: tuple = (8, 8),
    outputs: int = 10,
) -> keras.Model:
    """A multilayer perceptron; its hidden layers end in `b1`, `b2`, ..."""
    x = first = keras.Input(inputs)
    x = layers.Flatten()(x) if len(inputs) > 1 else x
    for i in range(1, count + 1):
        plain = not (normalized or dropout)
        name = f"b{i}"
        x = layers.Dense(width, name=f"dense{i}")(x)
        if normalized:
            x = layers.BatchNormalization(name=f"norm{i}")(x)
        x = layers.Activation(activation, name=name if plain or normalized else None)(x)
        if dropout:
            x = layers.Dropout(dropout, name=name)(x)
    last = {} if outputs == 1 else {"activation": "softmax"}
    return keras.Model(first, layers.Dense(outputs, dtype="float32", name="out", **last)(x))


def convolutional(size: int = 14, width: int = 16) -> keras.Model:
    """Four blocks of convolution, BatchNorm, ReLU and pooling: `b1` to `b4`."""
    x = inputs = keras.Input((size, size))
    x = layers.Reshape((size, size, 1))(x)
    for i in range(1, 5):
        filters = width if i < 3 else 2 * width
        x = layers.Conv2D(filters, 3, padding="same", name=f"conv{i}")(x)
        x = layers.BatchNormalization(name=f"norm{i}")(x)
        x = layers.ReLU(name=f"relu{i}")(x)
        x = layers.MaxPooling2D(padding="same", name=f"b{i}")(x)
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(10, "softmax", dtype="float32", name="out")(x))


def residual(size: int = 8, width: int = 16) -> keras.Model:
    """Three residual blocks with BatchNorm: `b1` to `b3`."""
    x = inputs = keras.Input((size, size))
    x = layers.Reshape((size, size, 1))(x)
    x = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
    for i in range(1, 4):
        y = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"conv{i}")(x)
        y = layers.ReLU()(layers.BatchNormalization(name=f"norm{i}")(y))
        y = layers.Conv2D(width, 3, padding="same")(y)
        x = layers.ReLU(name=f"b{i}")(layers.Add()([x, layers.BatchNormalization()(y)]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, "softmax", dtype="float32", name="out")(x))


def dense_net(width: int = 8) -> keras.Model:
    """Three blocks in which each layer sees all before it: `b1` to `b3`."""
    x = inputs = keras.Input((14, 14))
    x = layers.Reshape((14, 14, 1))(x)
    for i in range(1, 4):
        for _ in range(2):
            y = layers.ReLU()(layers.BatchNormalization()(x))
            y = layers.Conv2D(width, 3, padding="same")(y)
            x = layers.Concatenate()([x, y])
        x = layers.AveragePooling2D(2, padding="same", name=f"b{i}")(
            layers.Conv2D(2 * width, 1, name=f"conv{i}")(x)
        )
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    return keras.Model(inputs, layers.Dense(10, "softmax", dtype="float32", name="out")(x))


def u_net(width: int = 8) -> keras.Model:
    """Down, up again, and a skip; the modules are `code` and the way up."""
    x = inputs = keras.Input((12, 12, 1))
    x = layers.Conv2D(width, 3, padding="same", activation="relu", name="b1")(x)
    y = layers.MaxPooling2D()(x)
    y = layers.Conv2D(2 * width, 3, padding="same", activation="relu")(y)
    y = layers.Conv2D(2 * width, 3, padding="same", activation="relu")(y)
    y = layers.UpSampling2D()(y)
    x = layers.Concatenate(name="b2")([x, y])
    x = layers.Conv2D(width, 3, padding="same", activation="relu", name="b3")(x)
    last = layers.Conv2D(1, 1, activation="sigmoid", dtype="float32", name="out")
    return keras.Model(inputs, last(x))


def recurrent(width: int = 32) -> keras.Model:
    """Two LSTMs over the rows of an image: `b1` and `b2`."""
    x = inputs = keras.Input((8, 8))
    x = layers.LSTM(width, return_sequences=True, name="b1")(x)
    x = layers.LSTM(width, name="b2")(x)
    x = layers.Dense(width, "relu", name="b3")(x)
    return keras.Model(inputs, layers.Dense(10, "softmax", dtype="float32", name="out")(x))


def transformer(width: int = 32, tokens: int = 0, outputs: int = 10) -> keras.Model:
    """Two blocks of attention, over rows of an image or padded tokens: `b1` and `b2`."""
    if tokens:
        inputs = keras.Input((12,), dtype="int32")
        x = layers.Embedding(tokens, width, mask_zero=True, name="tokens")(inputs)
        length = 12
    else:
        inputs = keras.Input((8, 8))
        x, length = layers.Dense(width, name="tokens")(inputs), 8
    places = layers.Embedding(length, width, name="places")(ops.arange(length))
    x = layers.Add(name="b0")([x, places + ops.zeros_like(x)])
    for i in range(1, 3):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, width // 4)(y, y)])
        y = layers.Dense(2 * width, activation="gelu", name=f"dense{i}")(
            layers.LayerNormalization()(x)
        )
        x = layers.Add(name=f"b{i}")([x, layers.Dense(width)(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    last = layers.Dense(outputs, "softmax", dtype="float32", name="out")
    return keras.Model(inputs, last(x))


@keras.saving.register_keras_serializable("benchmark")
class Reconstruction(layers.Layer):
    """Adds the squared error of a reconstruction as a loss."""

    def call(self, found, given):
        self.add_loss(ops.mean(ops.square(found - ops.reshape(given, (-1, 64)))))
        return found


def autoencoder(width: int = 64) -> keras.Model:
    """Encoder `b1`, code `b2`, decoder `b3`; it is trained by `add_loss` alone."""
    x = inputs = keras.Input((8, 8))
    x = layers.Dense(width, "relu", name="b1")(layers.Flatten()(x))
    x = layers.Dense(8, "relu", name="b2")(x)
    x = layers.Dense(width, "relu", name="b3")(x)
    return keras.Model(inputs, Reconstruction(name="out")(layers.Dense(64)(x), inputs))

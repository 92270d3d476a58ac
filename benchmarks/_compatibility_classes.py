"""Layers and models of classes of their own, for the structures of `compatibility.py`."""

from typing import Any

import keras
import numpy as np
from _compatibility_case import CLASSES, WORDS
from keras import layers, ops

WIDTH = 16


@keras.saving.register_keras_serializable("compatibility")
class Encoder(keras.Model):
    """A graph of layers of a class that is saved by its arguments.

    Args:
        depth: Integer, how many layers.
        **kwargs: As in `keras.Model`.
    """

    def __init__(self, depth: int = 4, **kwargs: Any):
        inputs = keras.Input((6,))
        x = layers.Dense(WIDTH, activation="relu", name="d0")(inputs)
        for n in range(1, depth):
            x = Scale(name=f"d{n}")(layers.Dense(WIDTH, activation="relu")(x))
        super().__init__(inputs, x, **kwargs)
        self.depth = depth

    def get_config(self):
        return {"depth": self.depth, "name": self.name}


class Scale(layers.Layer):
    """A layer that is saved by no config of its own, as parts of larger ones may be."""

    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x):
        return x * self.factor


@keras.saving.register_keras_serializable("compatibility")
class Block(layers.Layer):
    """A layer and the sum around it."""

    def build(self, shape):
        self.dense = layers.Dense(shape[-1], "relu")
        self.dense.build(shape)

    def call(self, x):
        return x + self.dense(x)


@keras.saving.register_keras_serializable("compatibility")
class Blocks(layers.Layer):
    """Blocks inside one layer."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.blocks = [Block(name=f"b{n}") for n in range(4)]

    def build(self, shape):
        for block in self.blocks:
            block.build(shape)

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return x


@keras.saving.register_keras_serializable("compatibility")
class OrZeros(layers.Layer):
    """Adds its second input, if there is one."""

    def call(self, inputs):
        return inputs[0] if inputs[1] is None else inputs[0] + inputs[1]


@keras.saving.register_keras_serializable("compatibility")
class Prepared(keras.Model):
    """A model whose methods take the data as they come, as tasks with preprocessors do."""

    def fit(self, x=None, y=None, **kwargs):
        return super().fit(self.prepared(x), y, **kwargs)

    def predict(self, x, **kwargs):
        return super().predict(self.prepared(x), **kwargs)

    def evaluate(self, x=None, y=None, **kwargs):
        return super().evaluate(self.prepared(x), y, **kwargs)

    def prepared(self, x):
        """Numbers between 0 and 1."""
        return np.asarray(x, "float32") / 255.0


@keras.saving.register_keras_serializable("compatibility")
class Subclassed(keras.Model):
    """A model whose `call` is code."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.steps = [layers.Dense(WIDTH, "relu", name=f"d{n}") for n in range(4)]
        self.last = layers.Dense(CLASSES, "softmax", name="class")

    def call(self, x):
        for step in self.steps:
            x = step(x)
        return self.last(x)


@keras.saving.register_keras_serializable("compatibility")
class TiedCode(keras.Model):
    """Code that uses a matrix at both ends."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.embed = layers.Embedding(WORDS, WIDTH, name="embed")
        self.steps = [layers.Dense(WIDTH, "gelu", name=f"d{n}") for n in range(3)]

    def call(self, x):
        x = self.embed(x)
        for step in self.steps:
            x = x + step(x)
        return ops.matmul(x, ops.transpose(self.embed.embeddings))

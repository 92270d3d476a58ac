"""A small causal language model of characters, and text that ships with Python."""

import pydoc_data.topics

import keras
import numpy as np
from keras import layers, ops

# Of the characters, that many at the end are for the test.
HELD_OUT = 40_000


def text() -> tuple[np.ndarray, np.ndarray, int]:
    """The help topics of Python, which are of its language reference.

    Another version of Python has another text.

    Returns:
        The text to train on and the text held out, as numbers of their characters, and how
        many characters there are.
    """
    whole = "\n".join(pydoc_data.topics.topics.values())
    characters = sorted(set(whole))
    numbers = {c: n for n, c in enumerate(characters)}
    encoded = np.array([numbers[c] for c in whole], "int32")
    return encoded[:-HELD_OUT], encoded[-HELD_OUT:], len(characters)


def gpt(
    characters: int, context: int, width: int, blocks: int, heads: int, tied: bool = True
) -> keras.Model:
    """Pre-norm blocks of attention and two Dense, between a matrix and its transpose.

    Args:
        characters: Integer, how many characters there are.
        context: Integer, the length of a window.
        width: Integer, the width of the blocks.
        blocks: Integer, how many; the last operation of each is called `block_N`.
        heads: Integer, the heads of the attention.
        tied: Boolean; `False` has a matrix for each end. Defaults to `True`.
    """
    inputs = keras.Input((context,), dtype="int32", name="characters")
    embed = layers.ReversibleEmbedding(characters, width, tied, name="embed")
    positions = layers.Embedding(context, width, name="positions")
    x = embed(inputs) + positions(ops.cumsum(ops.ones_like(inputs), axis=-1) - 1)
    for number in range(1, blocks + 1):
        h = layers.LayerNormalization()(x)
        attention = layers.MultiHeadAttention(heads, width // heads)
        x = layers.Add()([x, attention(h, h, use_causal_mask=True)])
        h = layers.LayerNormalization()(x)
        h = layers.Dense(4 * width, activation="gelu")(h)
        h = layers.Dense(width)(h)
        x = layers.Add(name=f"block_{number}")([x, h])
    x = layers.LayerNormalization(name="norm")(x)
    return keras.Model(inputs, embed(x, reverse=True), name="gpt")

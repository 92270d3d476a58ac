"""Structures that models of others have, each in a small model of stock Keras layers."""

import functools
from typing import Any

import keras
import numpy as np
from _compatibility_case import (
    CLASSES,
    LENGTH,
    WORDS,
    Case,
    any_size,
    named_words,
    numbers,
    regressing,
    scoring,
    second_words,
    sparse,
    values,
)
from _compatibility_classes import (
    WIDTH,
    Blocks,
    Encoder,
    OrZeros,
    Prepared,
    Subclassed,
    TiedCode,
)
from keras import layers, ops


def classified(x: Any) -> Any:
    """Probabilities of classes."""
    return layers.Dense(CLASSES, activation="softmax", name="class")(x)


def tokens(name: str = "tokens") -> Any:
    """An input of words."""
    return keras.Input((LENGTH,), dtype="int32", name=name)


def attended(x: Any, source: Any = None, **options: Any) -> Any:
    """Attention with a sum around it and a normalization after it."""
    source = x if source is None else source
    found = layers.MultiHeadAttention(2, WIDTH // 2)(x, source, **options)
    return layers.LayerNormalization()(x + found)


def fed_forward(x: Any) -> Any:
    """Two layers with a sum by an operation around them."""
    inner = layers.Dense(2 * WIDTH, activation="gelu")(layers.LayerNormalization()(x))
    return x + layers.Dense(WIDTH)(inner)


def residual_sums() -> keras.Model:
    """Blocks whose sums are operations, not layers (as in ConvNeXt)."""
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 2, strides=2)(inputs)
    for _ in range(4):
        inner = layers.DepthwiseConv2D(3, padding="same")(x)
        inner = layers.Dense(16, activation="gelu")(layers.LayerNormalization()(inner))
        x = x + layers.Dense(8)(inner)
    return keras.Model(inputs, classified(layers.GlobalAveragePooling2D()(x)))


def tied_embedding() -> keras.Model:
    """One matrix embeds the words and scores them."""
    inputs = tokens()
    embed = layers.ReversibleEmbedding(WORDS, WIDTH, name="embed")
    x = embed(inputs)
    for _ in range(4):
        x = fed_forward(x)
    return keras.Model(inputs, embed(x, reverse=True))


def masks() -> keras.Model:
    """A padding mask that enters every block."""
    inputs = {"token_ids": tokens("token_ids"), "padding_mask": tokens("padding_mask")}
    mask = ops.expand_dims(ops.cast(inputs["padding_mask"], "bool"), 1)
    x = layers.Embedding(WORDS, WIDTH)(inputs["token_ids"])
    for _ in range(4):
        x = fed_forward(attended(x, attention_mask=mask))
    return keras.Model(inputs, classified(layers.GlobalAveragePooling1D()(x)))


def masked_embedding() -> keras.Model:
    """An embedding with a mask, recurrent layers behind it."""
    inputs = tokens()
    x = layers.Embedding(WORDS, WIDTH, mask_zero=True)(inputs)
    for _ in range(3):
        x = layers.LSTM(WIDTH, return_sequences=True)(x)
    return keras.Model(inputs, classified(layers.LSTM(WIDTH)(x)))


def nested() -> keras.Model:
    """A nested model that is saved as itself only."""
    inputs = keras.Input((6,))
    return keras.Model(inputs, classified(Encoder(name="encoder")(inputs)))


def equal_names() -> keras.Model:
    """A factory of encoders called twice: the names inside of them are equal."""
    inputs = [keras.Input((6,), name="one"), keras.Input((6,), name="other")]
    found = []
    for given, name in zip(inputs, ("left", "right"), strict=True):
        stack = [layers.Dense(WIDTH, "relu", name=f"d{n}") for n in range(4)]
        found.append(keras.Sequential([keras.Input((6,)), *stack], name=name)(given))
    return keras.Model(inputs, classified(layers.Concatenate()(found)))


def siamese() -> keras.Model:
    """One encoder for two inputs."""
    inputs = [keras.Input((6,), name="one"), keras.Input((6,), name="other")]
    stack = [layers.Dense(WIDTH, "relu", name=f"d{n}") for n in range(3)]
    encode = keras.Sequential([keras.Input((6,)), *stack], name="encode")
    found = layers.Concatenate()([encode(x) for x in inputs])
    return keras.Model(inputs, classified(layers.Dense(WIDTH, "relu")(found)))


def unet(size: int | None = 16) -> keras.Model:
    """Skips from each part that narrows to the one that widens again."""

    def twice(x, width):
        for _ in range(2):
            x = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
        return x

    x = inputs = keras.Input((size, size, 3))
    skips = []
    for width in (4, 8):
        skips.append(twice(x, width))
        x = layers.MaxPooling2D()(skips[-1])
    x = twice(x, 16)
    for width in (8, 4):
        x = layers.Conv2DTranspose(width, 2, strides=2)(x)
        x = twice(layers.Concatenate()([x, skips.pop()]), width)
    return keras.Model(inputs, layers.Conv2D(1, 1)(x))


def inside_a_layer() -> keras.Model:
    """A stem, a layer that holds all blocks, and a classifier."""
    inputs = keras.Input((6,))
    x = Blocks(name="blocks")(layers.Dense(WIDTH, name="stem")(inputs))
    return keras.Model(inputs, classified(x))


def several_outputs() -> keras.Model:
    """A recurrent layer whose states start another one."""
    inputs = [tokens("source"), tokens("target")]
    x = layers.Embedding(WORDS, WIDTH)(inputs[0])
    _, *states = layers.LSTM(WIDTH, return_state=True, name="encode")(x)
    x = layers.Embedding(WORDS, WIDTH)(inputs[1])
    x = layers.LSTM(WIDTH, return_sequences=True)(x, initial_state=states)
    return keras.Model(inputs, layers.Dense(WORDS)(layers.Dense(WIDTH, "relu")(x)))


def cross_attention() -> keras.Model:
    """An encoder whose output enters each block of the decoder."""
    inputs = [tokens("source"), tokens("target")]
    x = layers.Embedding(WORDS, WIDTH)(inputs[0])
    for _ in range(2):
        x = fed_forward(attended(x))
    encoded, x = x, layers.Embedding(WORDS, WIDTH)(inputs[1])
    for _ in range(2):
        x = attended(attended(x, use_causal_mask=True), encoded)
        x = fed_forward(x)
    return keras.Model(inputs, layers.Dense(WORDS)(x))


def wide_and_deep() -> keras.Model:
    """A deep path, and one from the inputs to the end."""
    x = inputs = keras.Input((6,))
    for _ in range(4):
        x = layers.Dense(WIDTH, activation="relu")(x)
    wide = layers.Dense(4, name="wide")(inputs)
    return keras.Model(inputs, classified(layers.Concatenate()([x, wide])))


def dense_net() -> keras.Model:
    """Each block is given what all blocks before it made."""
    x = inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, padding="same")(x)
    for _ in range(2):
        for _ in range(3):
            inner = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
            x = layers.Concatenate()([x, inner])
        x = layers.AveragePooling2D(2)(layers.Conv2D(8, 1, activation="relu")(x))
    return keras.Model(inputs, classified(layers.GlobalAveragePooling2D()(x)))


def optional_input() -> keras.Model:
    """An input that may be left out."""
    inputs = [keras.Input((6,), name="given"), keras.Input((6,), optional=True, name="may")]
    x = layers.Dense(WIDTH, "relu")(OrZeros()(inputs))
    return keras.Model(inputs, classified(layers.Dense(WIDTH, "relu")(x)))


def chain(**options: Any) -> keras.Model:
    """A stack of layers, of an input with these options."""
    given = keras.Input((6,), **options)
    stack = [layers.Dense(WIDTH, "relu", name=f"d{n}") for n in range(4)]
    last = layers.Dense(CLASSES, activation="softmax", name="class", dtype="float32")
    return keras.Sequential([given, *stack, last])


def in_float16() -> keras.Model:
    """A stack in mixed precision."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return chain()
    finally:
        keras.config.set_dtype_policy("float32")


def with_lora() -> keras.Model:
    """A stack whose layers are adapted at low rank."""
    made = chain()
    for layer in made.layers[:-1]:
        layer.enable_lora(2)
    return made


def quantized() -> keras.Model:
    """A stack in int8, adapted at low rank."""
    made = with_lora()
    made.quantize("int8")
    return made


def prepared() -> keras.Model:
    """A stack that scales what it is given."""
    made = chain()
    return Prepared(made.inputs, made.outputs)


def subclassed() -> keras.Model:
    """Code, built."""
    made = Subclassed()
    made.build((None, 6))
    return made


def tied_code() -> keras.Model:
    """Code, built."""
    made = TiedCode()
    made(np.zeros((1, LENGTH), "int32"))
    return made


CASES: dict[str, Case] = {
    "residual sums by +": Case(residual_sums),
    "embedding used at both ends": Case(tied_embedding, named_words, scoring),
    "padding mask in every block": Case(masks),
    "embedding with a mask": Case(masked_embedding),
    "nested model saved as itself": Case(nested),
    "equal names in two encoders": Case(equal_names),
    "siamese encoder": Case(siamese),
    "U-Net": Case(unet, values, regressing),
    "U-Net of any size": Case(functools.partial(unet, None), any_size, regressing),
    "blocks inside one layer": Case(
        inside_a_layer, boundaries=["blocks/b0", "blocks/b1", "blocks/b2"]
    ),
    "layer of several outputs": Case(several_outputs, second_words, scoring),
    "encoder and decoder": Case(cross_attention, second_words, scoring),
    "wide and deep": Case(wide_and_deep),
    "dense connections": Case(dense_net),
    "optional input": Case(optional_input),
    "sparse input": Case(functools.partial(chain, sparse=True), sparse),
    "mixed_float16": Case(in_float16),
    "LoRA": Case(with_lora),
    "LoRA on int8": Case(quantized),
    "Sequential": Case(chain),
    "fit and predict overridden": Case(prepared),
    "subclassed": Case(subclassed, numbers, boundaries=["d1", "d2"]),
    "subclassed with an embedding at both ends": Case(
        tied_code, named_words, scoring, boundaries=["d0", "d1"]
    ),
}

"""What a case of `compatibility.py` is: a model, its batch, how it is compiled and cut."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

EXAMPLES, BATCH, LENGTH, WORDS, CLASSES = 6, 2, 8, 20, 3


def features(model: keras.Model) -> Any:
    """Random inputs of a model, by the names and the dtypes of what it takes."""
    rng = np.random.default_rng(0)

    def values(name: str, shape: tuple, dtype: str) -> np.ndarray:
        shape = (EXAMPLES, *(LENGTH if size is None else size for size in shape[1:]))
        if name.endswith("padding_mask"):
            mask = np.ones(shape, dtype)
            mask[::2, -2:] = 0
            return mask
        if "float" in dtype:
            values = rng.normal(size=shape)
            return (40 * values + 128 if shape[-1] == 3 else values).astype(dtype)
        high = {"segment_ids": 2, "mask_positions": LENGTH}.get(name, WORDS)
        return rng.integers(1 if high == WORDS else 0, high, shape).astype(dtype)

    given = [values(t.name, t.shape, t.dtype) for t in model.inputs]
    named = {t.name: value for t, value in zip(model.inputs, given, strict=True)}
    if not isinstance(model, keras.Sequential) and isinstance(model.input, dict):
        names = {key: t.name for key, t in model.input.items()}
        return {key: named[name] for key, name in names.items()}
    return given[0] if len(given) == 1 else given


def classes(model: keras.Model) -> tuple:
    """Inputs and a class for each example."""
    return features(model), np.arange(EXAMPLES, dtype="int32") % CLASSES


def words(model: keras.Model) -> tuple:
    """Inputs, the word at each place, and the weights of these: no padding."""
    x = features(model)
    tokens = x["token_ids"] if isinstance(x, dict) and "token_ids" in x else None
    if tokens is None:
        tokens = x["decoder_token_ids"] if isinstance(x, dict) else x
        tokens = tokens[-1] if isinstance(tokens, list) else tokens
    masks = x if isinstance(x, dict) else {}
    mask = masks.get("padding_mask", masks.get("decoder_padding_mask"))
    weights = np.ones(tokens.shape) if mask is None else mask
    return x, np.roll(tokens, -1, axis=1), weights.astype("float32")


def values(model: keras.Model) -> tuple:
    """Inputs, and random targets in the shapes of the outputs."""
    x, rng = features(model), np.random.default_rng(1)
    made = model.predict(x, batch_size=BATCH, verbose=0)
    return x, keras.tree.map_structure(
        lambda output: rng.normal(size=output.shape).astype("float32"), made
    )


def named_words(model: keras.Model) -> tuple:
    """Words, and the next one at each place."""
    x = np.random.default_rng(0).integers(1, WORDS, (EXAMPLES, LENGTH)).astype("int32")
    return x, np.roll(x, -1, axis=1)


def numbers(model: keras.Model) -> tuple:
    """Numbers, and a class for each example."""
    x = np.random.default_rng(0).normal(size=(EXAMPLES, 6)).astype("float32")
    return x, np.arange(EXAMPLES, dtype="int32") % CLASSES


def sparse(model: keras.Model) -> tuple:
    """Sparse numbers in batches, and classes."""
    x, y = numbers(model)
    return tf.sparse.from_dense(tf.where(x > 0, x, 0.0)), y


def any_size(model: keras.Model) -> tuple:
    """Images of the size of this batch."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(EXAMPLES, 16, 16, 3)).astype("float32")
    return x, rng.normal(size=(EXAMPLES, 16, 16, 1)).astype("float32")


def second_words(model: keras.Model) -> tuple:
    """Two inputs of words, and the next one of the second."""
    x = features(model)
    return x, np.roll(x[1], -1, axis=1)


def classifying(model: keras.Model, **options: Any) -> None:
    """Compiles a model whose outputs are probabilities of classes."""
    model.compile(keras.optimizers.SGD(1e-2), "sparse_categorical_crossentropy", **options)


def scoring(model: keras.Model, **options: Any) -> None:
    """Compiles a model whose outputs are scores of classes."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # Those that segmenters of keras-hub choose by themselves are for other targets.
    model.compile(keras.optimizers.SGD(1e-2), loss, metrics=[], **options)


def regressing(model: keras.Model, **options: Any) -> None:
    """Compiles a model of values."""
    model.compile(keras.optimizers.SGD(1e-2), "mse", **options)


def by_itself(model: keras.Model, **options: Any) -> None:
    """Compiles a task of keras-hub with the loss of its own."""
    model.compile(optimizer=keras.optimizers.SGD(1e-2), **options)


@dataclasses.dataclass(frozen=True)
class Case:
    """A model that is tried.

    Attributes:
        make: Makes the model.
        batch: From the model the arguments of `fit`.
        compile: Compiles the model, with further arguments.
        boundaries: Names of them; None lets them be chosen, three at most.
        options: Further arguments of `modularize`.
        refused: Whether the model is to be refused.
    """

    make: Callable[[], keras.Model]
    batch: Callable[[keras.Model], tuple] = classes
    compile: Callable[..., None] = classifying
    boundaries: Any = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    refused: bool = False

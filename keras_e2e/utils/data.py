"""Batches of data, as `fit` and `evaluate` take it, for passes that Keras does not make."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_e2e.utils.validation import check_integer


class Batches:
    """Data batch by batch, in the order given; can be gone through again.

    Args:
        x: Arrays (one, or a list or dict of them), or what brings batches itself, with
            targets and weights: a `tf.data.Dataset`, a `keras.utils.PyDataset` or any
            other iterable.
        y: Targets, with arrays.
        sample_weight: Weights, with arrays.
        batch_size: Integer or None, the batch size of arrays. None means 32, as in
            Keras. Defaults to `None`.
        who: String, the caller, for errors. Defaults to `"evaluate_modules"`.

    Raises:
        ValueError: If arrays have different lengths, or there are none, `batch_size` is
            not a positive integer, or `y` or weights are given with a dataset.

    Example:

    >>> import numpy as np
    >>> from keras_e2e.utils.data import Batches
    >>> [x.shape for x, y, weight in Batches(np.ones((5, 2)), np.ones(5), batch_size=3)]
    [TensorShape([3, 2]), TensorShape([2, 2])]
    """

    def __init__(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        batch_size: int | None = None,
        who: str = "evaluate_modules",
    ):
        batch_size = 32 if batch_size is None else batch_size
        check_integer(f"{who}: batch_size", batch_size, 1)
        self.who, self.batch_size = who, batch_size
        self.source: Any = None
        if brings_batches(x):
            if y is not None or sample_weight is not None:
                raise ValueError(
                    f"{who}: x is a {type(x).__name__}, which brings targets and weights "
                    "with it. Leave y and sample_weight out."
                )
            self.source = x
            return
        self.arrays = tree.map_structure(_array, (x, y, sample_weight))
        lengths = {len(t) for t in tree.flatten(self.arrays) if t is not None}
        if len(lengths) != 1 or not min(lengths):
            raise ValueError(
                f"{who}: arrays of lengths {sorted(lengths)}; expected examples, as many "
                "in x as in y and sample_weight."
            )
        self.examples = lengths.pop()

    def count(self) -> int | None:
        """How many batches there are; None where that is not known."""
        if self.source is None:
            return -(-self.examples // self.batch_size)
        if isinstance(self.source, keras.utils.PyDataset):
            return self.source.num_batches
        return None

    def __iter__(self) -> Iterator[tuple]:
        if self.source is None:
            for start in range(0, self.examples, self.batch_size):
                part = slice(start, start + self.batch_size)
                yield tree.map_structure(
                    lambda t, part=part: None if t is None else _tensor(t[part]),
                    self.arrays,
                )
            return
        batches = self.source
        if isinstance(batches, keras.utils.PyDataset):
            batches = (self.source[i] for i in range(self.source.num_batches))
        empty = True
        for batch in batches:
            empty = False
            batch = tree.map_structure(lambda t: None if t is None else _tensor(t), batch)
            yield keras.utils.unpack_x_y_sample_weight(batch)
        if empty:
            raise ValueError(
                f"{self.who}: the {type(self.source).__name__} brought no batches. Give "
                "one that can be gone through more than once."
            )


def endless(data: Any, size: int, seed: int = 0) -> Any:
    """Shuffled batches without an end, all of one size, put together while training runs.

    Args:
        data: A structure of arrays with as many examples each.
        size: Integer, the number of examples in a batch.
        seed: Integer seed of the order. Defaults to 0.
    """
    import tensorflow as tf  # not on JAX, unless it is used

    held = tree.map_structure(tf.constant, data)
    count = len(tree.flatten(held)[0])
    rows = tf.data.Dataset.range(count).shuffle(count, seed=seed).repeat()
    # Whole batches: from an endless sequence none is cut short.
    batches = rows.batch(size, drop_remainder=True)
    return batches.map(
        lambda chosen: tree.map_structure(lambda t: tf.gather(t, chosen), held)
    ).prefetch(4)


def first_tensor(x: Any) -> Any:
    """The first tensor of a structure: its first axis is the batch."""
    return next(tensor for tensor in tree.flatten(x) if tensor is not None)


def num_examples(x: Any) -> Any:
    """The number of examples in a batch: a tensor where it is not known when traced."""
    first = first_tensor(x)
    if keras.backend.backend() != "tensorflow":
        return first.shape[0]
    import tensorflow as tf  # `ops.shape` takes no tensor that is sparse or ragged

    return tf.shape(first)[0]


def brings_batches(x: Any) -> bool:
    """Whether data comes in batches of its own, and may bring targets and weights."""
    if isinstance(x, keras.utils.PyDataset):
        return True
    arrays = isinstance(x, list | tuple | dict) or hasattr(x, "shape")
    return not arrays and hasattr(x, "__iter__")


def _array(value: Any) -> Any:
    return value if value is None or ops.is_tensor(value) else np.asarray(value)


def _tensor(value: Any) -> Any:
    # Keras, too, feeds floats in the precision of the backend.
    floating = "float" in keras.backend.standardize_dtype(value.dtype)
    return ops.convert_to_tensor(value, dtype=keras.config.floatx() if floating else None)

"""What the stages of a plan are trained on: arrays, or a dataset that brings batches."""

import hashlib
import itertools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_e2e.utils.data import brings_batches, endless
from keras_e2e.utils.validation import check_integer


class ArrayData:
    """Arrays, of which each stage is given shuffled batches without an end.

    Args:
        x: The model's inputs.
        y: Targets and intermediate labels.
        batch_size: Integer, the number of examples in a batch.

    Attributes:
        examples: Integer, how many there are.
        example: Tuple, the first of them as a batch.
    """

    def __init__(self, x: Any, y: Any, batch_size: int):
        self.x, self.y, self.batch_size = x, y, batch_size
        self.examples = len(tree.flatten(x)[0])
        rows = np.arange(batch_size) % self.examples
        self.example = tree.map_structure(lambda t: np.asarray(t)[rows], (x, y))

    def batches(self, order: int) -> Any:
        """Batches of inputs and targets, in an order that a seed gives."""
        return endless((self.x, self.y), self.batch_size, order)

    def numbered_batches(self, order: int) -> Any:
        """The same batches, as (numbers of the examples, (inputs, targets))."""
        rows = np.arange(self.examples)
        return endless((rows, (self.x, self.y)), self.batch_size, order)

    def one_epoch(self) -> Any:
        """Each example once and in order, the last batch may be smaller."""
        return self.numbered_epoch().map(lambda rows, data: data)

    def numbered_epoch(self) -> Any:
        """The same batches, as (numbers of the examples, (inputs, targets))."""
        import tensorflow as tf

        held = (np.arange(self.examples), (self.x, self.y))
        return tf.data.Dataset.from_tensor_slices(held).batch(self.batch_size)

    def one_pass(self, training: bool) -> Iterator[tuple[np.ndarray, Any]]:
        """The numbers and inputs of every example, in batches of the shapes of an epoch.

        For shapes may decide the last bit. In training all batches are full, so the last
        one begins again with the first examples.
        """
        size = self.batch_size
        for start in range(0, self.examples, size):
            rows = np.arange(start, start + size)
            rows = rows % self.examples if training else rows[rows < self.examples]
            yield rows, tree.map_structure(lambda t, r=rows: np.asarray(t)[r], self.x)

    def check_repeats(self) -> None:
        """Arrays are the same in each epoch."""


class DatasetData:
    """A dataset that brings batches with their targets, gone through again and again.

    It may bring the examples in another order each time: those are told apart by the bytes
    of their inputs.

    Args:
        dataset: A `tf.data.Dataset` or a `keras.utils.PyDataset`.

    Attributes:
        examples: Integer, how many different examples there are; known after
            `check_repeats`.
        batch_size: Integer, the number of examples in the first batch.
        example: Tuple, that batch.
    """

    def __init__(self, dataset: Any):
        self.source = dataset
        self.numbers: dict[bytes, int] = {}
        self.dataset = _as_tf_data(dataset)
        self.example = next(self.dataset.as_numpy_iterator())
        self.batch_size = len(tree.flatten(self.example[0])[0])

    @property
    def examples(self) -> int:
        """How many different examples there are."""
        return len(self.numbers)

    def batches(self, order: int) -> Any:
        """The dataset's batches; their order is its own."""
        return self.dataset.repeat()

    def numbered_batches(self, order: int) -> Any:
        """The same batches, as (numbers of the examples, (inputs, targets))."""
        return self.numbered_epoch().repeat()

    def one_epoch(self) -> Any:
        """Each example once."""
        return self.dataset

    def numbered_epoch(self) -> Any:
        """The same batches, as (numbers of the examples, (inputs, targets))."""
        import tensorflow as tf

        def with_numbers(x, *targets):
            rows = tf.numpy_function(self._find, tree.flatten(x), tf.int64)
            return tf.ensure_shape(rows, [None]), (x, *targets)

        return self.dataset.map(with_numbers)

    def one_pass(self, training: bool) -> Iterator[tuple[np.ndarray, Any]]:
        """The numbers and inputs of every example."""
        for x, *_ in self.dataset.as_numpy_iterator():
            yield self._find(*tree.flatten(x)), x

    def check_repeats(self, batches: int = 3) -> None:
        """Numbers the examples, and raises ValueError if they are others the next time.

        The next time of one iterator: with a seed each new one may begin alike, and draw
        on as it goes through the data again.
        """
        count = int(self.dataset.cardinality())
        if count < 0:  # not known
            count = sum(1 for _ in self.dataset)
        again = self.dataset.repeat().as_numpy_iterator()
        for x, *_ in itertools.islice(again, count):
            for key in _keys(tree.flatten(x)):
                self.numbers.setdefault(key, len(self.numbers))
        for x, *_ in itertools.islice(again, batches):
            self._find(*tree.flatten(x))

    def _find(self, *flat: np.ndarray) -> np.ndarray:
        rows = [self.numbers.get(key, -1) for key in _keys(flat)]
        if min(rows) < 0:
            raise ValueError(
                f"cache: x, a {type(self.source).__name__}, brings other examples each "
                f"time that it is gone through ({rows.count(-1)} of a batch of {len(rows)} "
                "are new): its data are augmented. Modules upstream return something else "
                "for them each time, which cannot be kept. Use cache=None, or augment once "
                "and give arrays; layers that augment at random may stand in the model."
            )
        return np.array(rows, "int64")


Data = ArrayData | DatasetData
"""What a stage is trained on."""


def as_validation_data(given: Any, batch_size: int | None) -> Data | None:
    """The data of validation; see `train` for the arguments.

    Raises:
        ValueError: If it is neither a tuple of inputs and targets nor a dataset.
    """
    if given is None or brings_batches(given):
        return None if given is None else as_data(given, None, None)
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise ValueError(
            f"validation_data is a {type(given).__name__}; expected a tuple (x, y) of "
            "arrays, a tf.data.Dataset or a keras.utils.PyDataset."
        )
    return as_data(given[0], given[1], batch_size)


def as_data(x: Any, y: Any, batch_size: int | None) -> Data:
    """The data of a training; see `train` for the arguments.

    Raises:
        ValueError: If `y` or `batch_size` is given with a dataset, or the dataset has no
            end.
    """
    if not brings_batches(x):
        size = 128 if batch_size is None else check_integer("batch_size", batch_size, 1)
        return ArrayData(x, y, size)
    for name, value in (("y", y), ("batch_size", batch_size)):
        if value is not None:
            raise ValueError(
                f"{name} is given, and x is a {type(x).__name__}, which brings batches "
                f"with their targets. Leave {name} out."
            )
    return DatasetData(x)


def _as_tf_data(source: Any) -> Any:
    import tensorflow as tf  # not on JAX, unless it is used

    kind, found = type(source).__name__, source
    if isinstance(source, keras.utils.PyDataset):
        count = source.num_batches
        if count is not None:
            found = tf.data.Dataset.from_generator(
                lambda: _epoch(source),
                output_signature=tree.map_structure(_any_length, _batch(source[0])),
            ).apply(tf.data.experimental.assert_cardinality(count))
    elif not isinstance(source, tf.data.Dataset):
        raise ValueError(
            f"x is a {kind}; expected arrays, a tf.data.Dataset or a "
            "keras.utils.PyDataset, which can be gone through more than once."
        )
    if found is source and int(getattr(source, "cardinality", lambda: -1)()) == -1:
        raise ValueError(
            f"x is a {kind} without an end. Give one that ends after each example has "
            "come once (without `repeat`); it is gone through as often as needed."
        )
    return found


def _epoch(source: keras.utils.PyDataset) -> Iterator[tuple]:
    yield from (_batch(source[i]) for i in range(source.num_batches))
    source.on_epoch_end()


def _batch(batch: Any) -> tuple:
    return tree.map_structure(np.asarray, tuple(batch))


def _any_length(value: np.ndarray) -> Any:
    import tensorflow as tf

    return tf.TensorSpec([None, *value.shape[1:]], value.dtype)


def _keys(flat: Any) -> Iterator[bytes]:
    """What tells the examples of a batch apart: a digest of the bytes of each."""
    for row in zip(*flat, strict=True):
        digest = hashlib.blake2b(digest_size=16)
        for value in row:
            value = np.asarray(value)
            plain = value.dtype != object  # strings have objects, and those addresses
            digest.update(value.tobytes() if plain else repr(value.tolist()).encode())
        yield digest.digest()

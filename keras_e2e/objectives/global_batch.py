"""The examples of all replicas, for losses that compare examples with each other."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops

# TensorFlow gathers tensors of a few dtypes; all numbers of the others are among these.
_CARRIED_AS = {
    **{dtype: dtype for dtype in ("float16", "float32", "float64", "int32", "int64")},
    **dict.fromkeys(("bool", "int8", "int16", "uint8", "uint16"), "int32"),
    **{"bfloat16": "float32", "uint32": "int64"},
}


class _Kept(threading.local):
    keep: Callable[[], Callable[[], None]] | None = None


_kept = _Kept()


@contextlib.contextmanager
def kept_while_waiting(keep: Callable[[], Callable[[], None]]) -> Iterator[None]:
    """In this context a replica finds what it has kept when it has waited for the others.

    Replicas are threads that take turns where they meet. What a pass leaves in Python
    objects is that of the replica that ran last.

    Args:
        keep: Function that notes it, and returns what puts it back.
    """
    before, _kept.keep = _kept.keep, keep
    try:
        yield
    finally:
        _kept.keep = before


@contextlib.contextmanager
def meeting() -> Iterator[None]:
    """The context of what makes this replica wait for the others (`kept_while_waiting`)."""
    keep = None if _replica_context() is None else _kept.keep
    put_back = None if keep is None else keep()
    yield
    if put_back is not None:
        put_back()


class GlobalBatch:
    """The batch of which a replica of a distribution strategy has a part.

    What is gathered carries gradients back to the replica that it came from: with it n
    devices train as one does. On one device nothing is gathered, and on JAX Keras's
    distributions shard what is one batch to begin with.

    Args:
        examples: Tensor `(batch, ...)` of this replica's examples.

    Attributes:
        size: Integer or scalar tensor, how many examples there are on all replicas.

    Raises:
        ValueError: In a function of a replica that XLA compiles: there is no way from
            within it to the others.
    """

    def __init__(self, examples: Any):
        self._context = _replica_context()
        self._own = self.size = ops.shape(examples)[0]
        if self._context is not None:
            sizes = self._gathered_sizes()
            ends = ops.cumsum(sizes)
            replica = self._context.replica_id_in_sync_group
            self._start, self.size = ends[replica] - self._own, ends[-1]

    def _gathered_sizes(self) -> Any:
        try:
            return self._gathered(ops.reshape(self._own, (1,)))
        except RuntimeError as error:  # TensorFlow's, of a call amid a nested function
            raise ValueError(
                "The examples of all replicas are compared or drawn for here, and a "
                "function that XLA compiles for one replica cannot ask the others. Compile "
                "the model with jit_compile=False, or train it on one device."
            ) from error

    def _gathered(self, tensor: Any) -> Any:
        import tensorflow as tf

        # What a traced step is given is on no device, and TensorFlow asks for the device.
        tensor = tf.identity(tensor)
        with meeting():
            return self._context.all_gather(tensor, axis=0)

    def all(self, tensor: Any) -> Any:
        """A tensor `(batch, ...)` with the examples of all replicas.

        Raises:
            ValueError: If replicas cannot tell each other tensors of its dtype.
        """
        if self._context is None:
            return tensor
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        if dtype not in _CARRIED_AS:
            raise ValueError(
                f"The examples of all replicas are compared or drawn for here, and found "
                f"was a tensor of dtype {dtype!r}; expected one of {[*_CARRIED_AS]}. Turn "
                "it into numbers before the model, or train on one device."
            )
        carried = self._gathered(ops.cast(tensor, _CARRIED_AS[dtype]))
        # Of a batch of unknown size TensorFlow forgets the other axes, too.
        carried = ops.reshape(carried, (self.size, *ops.shape(tensor)[1:]))
        return ops.cast(carried, dtype)

    def own(self, tensor: Any) -> Any:
        """Of a tensor `(batch of all, ...)` what belongs to this replica's examples."""
        if self._context is None:
            return tensor
        return tensor[self._start : self._start + self._own]

    def itself(self) -> Any:
        """1 where a row is the example of the column: `(batch, batch of all)`."""
        if self._context is None:
            return ops.eye(self._own, dtype="float32")
        own = self._start + ops.arange(self._own)
        return ops.one_hot(own, self.size, dtype="float32")

    def take(self, rows: Any, index: Any, rows_per_example: Any) -> Any:
        """Some rows of all replicas.

        Args:
            rows: Tensor `(batch * rows_per_example, size)` of this replica.
            index: Integer tensor `(count,)`, the same on each replica: which rows, counted
                over all of them.
            rows_per_example: Integer.

        Returns:
            Tensor `(count, size)`.
        """
        if self._context is None:
            return ops.take(rows, index, axis=0)
        count = self._own * rows_per_example
        own = index - self._start * rows_per_example
        elsewhere = ops.logical_or(own < 0, own >= count)
        # What is elsewhere is a row of zeros here; the sum over all replicas is the row.
        rows = ops.pad(rows, ((0, 1), (0, 0)))
        found = ops.take(rows, ops.where(elsewhere, count, own), axis=0)
        with meeting():
            return self._context.all_reduce("SUM", found)


def share_of_batch(examples: Any) -> Any:
    """How much an average over a replica's examples counts in one over all of them.

    Replicas that have equally many count 1 each. Keras lets all of them count so, also
    those of an uneven batch.

    Args:
        examples: Tensor `(batch, ...)` of this replica's examples.

    Returns:
        Scalar tensor; None outside of a replica, and on one device.
    """
    context = _replica_context()
    if context is None:
        return None
    own = ops.cast(ops.shape(examples)[0], "float32")
    with meeting():
        total = context.all_reduce("SUM", own)
    return own * context.num_replicas_in_sync / ops.maximum(total, 1.0)


def _replica_context() -> Any:
    """The context of this replica among several; None outside of a step, and on one device.

    On TensorFlow alone do replicas have to ask each other.
    """
    if keras.config.backend() != "tensorflow":
        return None
    import tensorflow as tf

    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return None
    return tf.distribute.get_replica_context()

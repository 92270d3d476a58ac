"""Batches of an epoch that `fit` takes one by one, without a generator in between."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_e2e.utils.compat.own_data import OwnData


class Epochs(OwnData):
    """What a `keras.utils.PyDataset` inherits in order to be asked for its batches itself.

    On TensorFlow Keras makes a generator of a `PyDataset`, and another for each epoch: some
    20 ms for graphs and threads, which is nothing beside an epoch over a data set and much
    beside a rollout. Here one graph asks for batch after batch, in their order.
    """

    # Of the whole class: in Keras's they are properties.
    batch_size: Any = None
    has_partial_batch = False
    partial_batch_size = None

    def __getitem__(self, index: int) -> tuple:
        raise NotImplementedError(f"{type(self).__name__} must define __getitem__.")

    def get_numpy_iterator(self) -> Iterator[tuple]:
        """Returns the batches one by one."""
        return (self[index] for index in range(self.num_batches))

    def get_jax_iterator(self) -> Iterator[tuple]:
        """Returns the batches one by one: of NumPy's arrays JAX makes its own."""
        return self.get_numpy_iterator()

    def get_tf_dataset(self) -> Any:
        """Returns a `tf.data.Dataset` of the batches."""
        import tensorflow as tf

        example = self[0]
        arrays = [np.asarray(array) for array in keras.tree.flatten(example)]
        dtypes = [array.dtype for array in arrays]

        def batch(index: Any) -> list:
            flat = keras.tree.flatten(self[int(index)])
            return [np.asarray(a, dtype) for a, dtype in zip(flat, dtypes, strict=True)]

        def tensors(index: Any) -> Any:
            found = tf.numpy_function(batch, [index], dtypes)
            for tensor, array in zip(found, arrays, strict=True):
                tensor.set_shape((None, *array.shape[1:]))
            return keras.tree.pack_sequence_as(example, found)

        options = tf.data.Options()
        # Both would be done for each epoch anew.
        options.autotune.enabled = False
        options.experimental_optimization.apply_default_optimizations = False
        dataset = tf.data.Dataset.range(self.num_batches).map(tensors)
        # The next batch is put together while one is trained on.
        return dataset.prefetch(1).with_options(options)

"""The base of heads that are made of the model's own layers."""

import math
from typing import Any

import keras


class ModelHead(keras.layers.Layer):
    """The base of heads that are made of the layers that come after the boundary.

    `heads.make_head` calls `assemble`, which calls `make` of the subclass.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    built: bool
    network: keras.Model

    def __init__(self, **kwargs: Any):
        # Without Keras's counter, so that models made alike have variables named alike.
        super().__init__(**{"name": type(self).__name__.lower(), **kwargs})

    def assemble(
        self,
        activation: keras.KerasTensor,
        target_shape: tuple,
        dtype: Any,
        following_blocks: tuple,
    ) -> None:
        """Makes the head's layers.

        Args:
            activation: `keras.KerasTensor` with the shape (batch axis first) and dtype of
                what the head is given.
            target_shape: Tuple, shape of the head's output, batch axis first.
            dtype: Dtype policy of the layers that are not copies; the last is float32.
            following_blocks: Tuple of the blocks after the boundary
                (`modules.blocks.blocks_after`).

        Raises:
            ValueError: If nothing is known of what follows, if none of it can be applied,
                if the outputs' size is not known, or if another boundary has the head
                already.
        """
        who = f"The head {self.name!r} ({type(self).__name__})"
        if self.built:
            raise ValueError(f"{who} is in use already. Give each boundary its own.")
        if not following_blocks:
            raise ValueError(
                f"{who} is made of the layers after the boundary and finds none: the model "
                "is subclassed and shows no graph, or other paths lead around the "
                "boundary. Use another head, such as 'gap_linear' or 'mlp'."
            )
        self.make(activation, target_shape, dtype, following_blocks)
        self.built = True

    def make(
        self,
        activation: keras.KerasTensor,
        target_shape: tuple,
        dtype: Any,
        following_blocks: tuple,
    ) -> None:
        """Sets `self.network`; a subclass implements it. Arguments as in `assemble`."""
        raise NotImplementedError

    def call(self, activation, training=None):
        return self.network(activation, training=training)


def summarized(tensor: keras.KerasTensor, target: tuple, dtype: Any) -> keras.KerasTensor:
    """Applies global average pooling and a Dense layer, or the latter at each position.

    Args:
        tensor: `keras.KerasTensor`, batch axis first.
        target: Tuple, the shape of the result. If it has the tensor's positions, they
            stay.
        dtype: Dtype policy of the pooling; what follows is float32.

    Raises:
        ValueError: If the size of the target must be known and is not.
    """
    shape, rank = tuple(tensor.shape), len(tensor.shape)
    if rank == len(target) > 2 and shape[1:-1] == tuple(target[1:-1]):
        return keras.layers.Dense(target[-1], dtype="float32", name="last")(tensor)
    if None in target[1:]:
        raise ValueError(
            f"A head that ends in a map of shape {shape} cannot return {tuple(target)}: "
            "it must know the outputs' size, or have one position for each of theirs. Give "
            "the model fixed sizes, or use another head, such as 'linear'."
        )
    if 3 <= rank <= 5:
        pool = getattr(keras.layers, f"GlobalAveragePooling{rank - 2}D")
        tensor = pool(dtype=dtype, name="pool")(tensor)
    elif rank > 5:
        tensor = keras.layers.Flatten(dtype=dtype, name="flatten")(tensor)
    units = math.prod(target[1:])
    tensor = keras.layers.Dense(units, dtype="float32", name="last")(tensor)
    if len(target) != 2:
        shaped = keras.layers.Reshape(target[1:], dtype="float32", name="shape")
        tensor = shaped(tensor)
    return tensor

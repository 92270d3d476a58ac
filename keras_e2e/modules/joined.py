"""Several tensors as one, for an objective that is given one."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from keras_e2e.objectives.heads.head_layers import GLOBAL_POOLS
from keras_e2e.utils.graphs import layer_name


def joined(tensors: Sequence[Any], name: str) -> Any:
    """Several tensors as one; one as it is.

    They are concatenated along their last axis. Unless their other axes are the same, each
    is averaged over those first. Keras layers do both, so masks count.

    Args:
        tensors: The tensors, symbolic or not, of shape `(batch, ..., features)`.
        name: String, a name to begin those of the layers with.
    """
    if len(tensors) == 1:
        return tensors[0]
    name, dtype = layer_name(name), keras.backend.standardize_dtype(tensors[0].dtype)
    if not _alike(tensors):
        tensors = [
            tensor
            if len(tensor.shape) == 2
            else GLOBAL_POOLS.get(len(tensor.shape), layers.Flatten)(
                dtype=dtype, name=f"{name}_{place}"
            )(tensor)
            for place, tensor in enumerate(tensors)
        ]
    return layers.Concatenate(dtype=dtype, name=f"{name}_joined")(tensors)


def is_float(tensor: Any) -> bool:
    """Whether a tensor, symbolic or not, is of floats."""
    return keras.backend.is_float_dtype(keras.backend.standardize_dtype(tensor.dtype))


def _alike(tensors: Sequence[Any]) -> bool:
    """Whether the shapes are known to differ in the last axis alone."""
    inner = {tuple(tensor.shape[1:-1]) for tensor in tensors}
    ranks = {len(tensor.shape) for tensor in tensors}
    return len(inner) == len(ranks) == 1 and 1 not in ranks and None not in inner.pop()

"""Auxiliary heads: small networks from an activation to what is compared.

A head is trained with its module and is never part of inference. It ends in raw
values; what the model ends with (a softmax, say) is put on top by the objective.
"""

import math
from typing import Any

import keras

KINDS = ("linear", "gap_linear", "mlp", "conv")

# Inputs that a linear head sees at most; larger maps are average-pooled first
# (Noekland & Eidnes 2019, "Training Neural Networks with Local Error Signals").
MAX_LINEAR_INPUTS = 2048
# Width of the decoder's hidden convolution (InfoPro, Wang et al. 2021).
DECODER_CHANNELS = 12

_CONV = {3: keras.layers.Conv1D, 4: keras.layers.Conv2D, 5: keras.layers.Conv3D}
_POOL = {
    3: keras.layers.AveragePooling1D,
    4: keras.layers.AveragePooling2D,
    5: keras.layers.AveragePooling3D,
}
_GLOBAL_POOL = {
    3: keras.layers.GlobalAveragePooling1D,
    4: keras.layers.GlobalAveragePooling2D,
    5: keras.layers.GlobalAveragePooling3D,
}


def check_kind(kind: str | None) -> str | None:
    """Returns `kind` if it names a head (or is None), else raises ValueError."""
    if kind is not None and kind not in KINDS:
        raise ValueError(
            f"Unknown head {kind!r}. Expected one of {list(KINDS)}, or None to choose "
            "by the activation's shape."
        )
    return kind


def make_head(
    kind: str | None,
    activation: keras.KerasTensor,
    target_shape: tuple,
    dtype: Any = None,
) -> keras.Sequential:
    """Builds a head.

    Where the target has a value for every position of the activation (a label per
    token, a segmentation map, an image to reconstruct), the head works position by
    position, after resizing an image map to the target's size. Otherwise it
    summarises the activation:

    | kind | layers | source |
    |---|---|---|
    | `linear` | average-pool to at most 2048 values, flatten, Dense | local-loss `pred` |
    | `gap_linear` | global average pooling, Dense | Belilovsky et al. 2019 |
    | `mlp` | global average pooling, two hidden Dense as wide as the activation, Dense | DGL's `mlp-sr` |
    | `conv` | 3x3 convolution + BatchNorm + ReLU, global average pooling, Dense | Belilovsky et al. 2019 |

    Args:
        kind: one of the above, or None: `linear` position by position and for flat
            activations, `gap_linear` for anything else.
        activation: shape and dtype of the activation, batch axis first.
        target_shape: shape of what the head puts out, batch axis first.
        dtype: dtype policy of the head's layers; the last one is float32.

    Returns:
        A built `keras.Sequential` ending in raw values (no activation function).

    Raises:
        ValueError: an unknown kind, a kind that does not fit the activation, or a
            size that must be known and is None.

    Example:

    >>> import keras
    >>> from keras_e2e.heads import make_head
    >>> head = make_head("gap_linear", keras.KerasTensor((None, 8, 8, 16)), (None, 10))
    >>> head.output_shape
    (None, 10)
    """  # noqa: E501
    check_kind(kind)
    shape, rank = tuple(activation.shape), len(activation.shape)
    if shape[-1] is None:
        raise ValueError(f"A head needs a known last axis. Found activation {shape}.")
    by_position = _by_position(shape, target_shape)
    if kind is None:
        kind = "linear" if rank == 2 or by_position else "gap_linear"
    if kind == "conv" and rank not in _CONV:
        raise ValueError(
            f"A 'conv' head needs an activation with 1 to 3 spatial axes. Found shape "
            f"{shape}. Use 'linear' or 'mlp'."
        )
    make = _position_layers if by_position else _summary_layers
    layers = make(kind, shape, target_shape, dtype)
    return _Head([keras.Input(shape[1:], dtype=activation.dtype), *layers], name="head")


class _Head(keras.Sequential):
    """The layers of a head, one after another."""

    def compute_mask(self, inputs, previous_mask):
        # Its layers have set the masks there are. Keras would warn that they are lost.
        return None


def _by_position(shape: tuple, target: tuple) -> bool:
    """Whether the target has a value for each position of the activation."""
    if len(shape) != len(target) or len(target) < 3:
        return False
    same = shape[1:-1] == tuple(target[1:-1])
    return same or (len(target) == 4 and None not in shape[1:] + tuple(target[1:]))


def _position_layers(kind, shape, target, dtype) -> list:
    layers: list = []
    if shape[1:-1] != tuple(target[1:-1]):
        layers.append(keras.layers.Resizing(*target[1:-1], dtype=dtype))
    if kind == "conv":
        conv = _CONV[len(shape)]
        layers.append(
            conv(DECODER_CHANNELS, 3, padding="same", activation="relu", dtype=dtype)
        )
        layers.append(conv(target[-1], 3, padding="same", dtype="float32"))
        return layers
    if kind == "mlp":
        layers.append(keras.layers.Dense(shape[-1], activation="relu", dtype=dtype))
        layers.append(keras.layers.Dense(shape[-1], activation="relu", dtype=dtype))
    layers.append(keras.layers.Dense(target[-1], dtype="float32"))
    return layers


def _summary_layers(kind, shape, target, dtype) -> list:
    rank = len(shape)
    if None in target[1:]:
        raise ValueError(
            f"A head from an activation of shape {shape} to outputs of shape "
            f"{tuple(target)} needs the outputs' size. Give the model fixed sizes, set "
            "the boundary where it has one position for each of the outputs', or give "
            "it another objective."
        )
    layers: list = []
    if kind == "conv":
        layers += [
            _CONV[rank](shape[-1], 3, padding="same", use_bias=False, dtype=dtype),
            keras.layers.BatchNormalization(dtype=dtype),
            keras.layers.ReLU(dtype=dtype),
        ]
    if rank > 2 and kind == "linear":
        if None in shape[1:]:
            raise ValueError(
                f"A 'linear' head needs an activation of known size. Found {shape}. "
                "Use 'gap_linear'."
            )
        size = _pool_size(shape)
        if size > 1:
            layers.append(_POOL[rank](size, padding="same", dtype=dtype))
        layers.append(keras.layers.Flatten(dtype=dtype))
    elif rank in _GLOBAL_POOL:
        layers.append(_GLOBAL_POOL[rank](dtype=dtype))
    elif rank > 2:
        layers.append(keras.layers.Flatten(dtype=dtype))
    if kind == "mlp":
        layers.append(keras.layers.Dense(shape[-1], activation="relu", dtype=dtype))
        layers.append(keras.layers.Dense(shape[-1], activation="relu", dtype=dtype))
    units = math.prod(target[1:])
    layers.append(keras.layers.Dense(units, dtype="float32"))
    if len(target) != 2:
        layers.append(keras.layers.Reshape(target[1:], dtype="float32"))
    return layers


def _pool_size(shape: tuple) -> int:
    """The smallest pooling window that leaves at most MAX_LINEAR_INPUTS values."""
    size, channels = 1, shape[-1]
    if len(shape) not in _POOL:
        return size
    while (
        size < max(shape[1:-1])
        and channels * math.prod(-(-s // size) for s in shape[1:-1]) > MAX_LINEAR_INPUTS
    ):
        size += 1
    return size

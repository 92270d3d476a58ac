"""The layers that heads are made of, by kind and shape."""

import math
from collections.abc import Sequence
from typing import Any

import keras

# Inputs that a linear head sees at most; larger maps are average-pooled first
# (Noekland & Eidnes 2019, "Training Neural Networks with Local Error Signals").
MAX_LINEAR_INPUTS = 2048
# Width of the decoder's hidden convolution (InfoPro, Wang et al. 2021).
DECODER_CHANNELS = 12
# DGL's mlp-sr (Belilovsky et al. 2020): the map is reduced by this factor first, and to
# this many positions along each axis before it is flattened.
REDUCTION, POSITIONS = 4, 2

# By the rank of the activation.
_CONV = {3: keras.layers.Conv1D, 4: keras.layers.Conv2D, 5: keras.layers.Conv3D}
_POOL = {
    3: keras.layers.AveragePooling1D,
    4: keras.layers.AveragePooling2D,
    5: keras.layers.AveragePooling3D,
}
GLOBAL_POOLS = {
    3: keras.layers.GlobalAveragePooling1D,
    4: keras.layers.GlobalAveragePooling2D,
    5: keras.layers.GlobalAveragePooling3D,
}
_UPSAMPLING = {3: keras.layers.UpSampling1D, 5: keras.layers.UpSampling3D}
_CROPPING = {3: keras.layers.Cropping1D, 5: keras.layers.Cropping3D}


def works_by_position(shape: tuple, target: tuple) -> bool:
    """Whether the target has a value for each position of the activation."""
    if len(shape) != len(target) or len(target) < 3:
        return False
    same = shape[1:-1] == target[1:-1]
    return same or (len(target) == 4 and None not in shape[1:] + target[1:])


def position_layers(kind: str, shape: tuple, target: tuple, dtype: Any) -> list:
    """Returns the layers of a head that works position by position."""
    layers: list = []
    if shape[1:-1] != target[1:-1]:
        layers.append(resizing(target[1:-1], dtype))
    if kind in ("conv1", "conv_mlp"):
        layers += _convolutions(kind, shape, dtype)
    if kind in ("mlp", "conv_mlp"):
        layers += _hidden(kind, shape[-1], dtype)
    return [*layers, keras.layers.Dense(target[-1], dtype="float32")]


def resizing(sizes: Sequence[int], dtype: Any) -> keras.layers.Layer:
    """Returns a layer that resizes images.

    Not in half precision: XLA has its gradient in float32 then, and refuses a step in which
    this goes on into that of a pooling.
    """
    policy = keras.dtype_policies.get(dtype)
    half = policy.compute_dtype in ("float16", "bfloat16")
    return keras.layers.Resizing(*sizes, dtype="float32" if half else policy)


def summary_layers(kind: str, shape: tuple, target: tuple, dtype: Any) -> list:
    """Returns the layers of a head that summarizes the activation.

    Raises:
        ValueError: If a size that must be known is not, or if there are no positions.
    """
    rank = len(shape)
    if None in target[1:]:
        raise ValueError(
            f"A head from an activation of shape {shape} to outputs of shape {target} "
            "needs the outputs' size. Give the model fixed sizes, set the boundary where "
            "it has one position for each of the outputs', or give it another objective."
        )
    if kind == "conv_mlp" and rank == 2:
        kind = "mlp"
    flattens = rank > 2 and kind in ("linear", "decoder", "conv_mlp")
    if flattens and None in shape[1:]:
        raise ValueError(
            f"A {kind!r} head needs an activation of known size. Found {shape}. Use "
            "'gap_linear' or 'mlp'."
        )
    layers: list = []
    if kind in ("conv1", "conv_mlp"):
        layers += _convolutions(kind, shape, dtype, pool=True)
    width = shape[-1]
    if kind == "conv_mlp":
        kept = [-(-n // REDUCTION) for n in shape[1:-1]]
        layers += _pooled(rank, [-(-n // POSITIONS) for n in kept], dtype)
        width *= math.prod(min(n, POSITIONS) for n in kept)
    if flattens and kind != "conv_mlp":
        layers += _pooled(rank, [_pool_size(shape)] * (rank - 2), dtype)
    if flattens or rank not in (2, *GLOBAL_POOLS):
        layers.append(keras.layers.Flatten(dtype=dtype))
    elif rank > 2:
        layers.append(GLOBAL_POOLS[rank](dtype=dtype))
    if kind in ("mlp", "conv_mlp"):
        layers += _hidden(kind, width, dtype)
    start = "zeros" if kind == "linear" and len(target) <= 2 else "glorot_uniform"
    last = keras.layers.Dense(
        math.prod(target[1:]), kernel_initializer=start, dtype="float32"
    )
    layers.append(last)
    if len(target) != 2:
        layers.append(keras.layers.Reshape(target[1:], dtype="float32"))
    return layers


def decoder_layers(shape: tuple, target: tuple, dtype: Any) -> list:
    """Returns the layers of a decoder from a map to a map.

    Raises:
        ValueError: If a size that must be known is not, or if there are no positions.
    """
    rank = len(shape)
    _need_axes("decoder", shape, "'linear'")
    layers: list = []
    if shape[1:-1] != target[1:-1]:
        if None in target[1:] or (rank != 4 and None in shape[1:]):
            raise ValueError(
                f"A 'decoder' from an activation of shape {shape} to {target} must know "
                "both sizes. Give the model fixed sizes, or decode something that has the "
                "activation's positions."
            )
        layers += _resized(shape, target, dtype)
    conv = _CONV[rank]
    return [
        *layers,
        conv(DECODER_CHANNELS, 3, padding="same", dtype=dtype),
        keras.layers.BatchNormalization(dtype=dtype),
        keras.layers.ReLU(dtype=dtype),
        conv(target[-1], 3, padding="same", dtype="float32"),
    ]


def _resized(shape: tuple, target: tuple, dtype: Any) -> list:
    """Returns layers from one number of positions to another."""
    rank = len(shape)
    if rank == 4:
        return [resizing(target[1:-1], dtype)]
    # Keras resizes images only.
    axes = list(zip(shape[1:-1], target[1:-1], strict=True))
    windows = [max(1, old // new) for old, new in axes]
    factors = [max(1, -(-new // old)) for old, new in axes]
    made = [
        (old // window) * factor
        for (old, _), window, factor in zip(axes, windows, factors, strict=True)
    ]
    # As much at either end, so that positions stay where they were.
    excess = [have - new for have, (_, new) in zip(made, axes, strict=True)]
    cropping = tuple((n // 2, n - n // 2) for n in excess)
    layers = _pooled(rank, windows, dtype, padding="valid")
    if max(factors) > 1:
        size = tuple(factors) if rank == 5 else factors[0]
        layers.append(_UPSAMPLING[rank](size, dtype=dtype))
    if any(excess):
        layers.append(_CROPPING[rank](cropping if rank == 5 else cropping[0], dtype=dtype))
    return layers


def _convolutions(kind: str, shape: tuple, dtype: Any, pool: bool = False) -> list:
    """Returns convolutions that keep the channels, each with BatchNorm and ReLU."""
    rank = len(shape)
    _need_axes(kind, shape, "'linear' or 'mlp'")
    count, size = (1, 3) if kind == "conv1" else (3, 1)
    layers: list = []
    if pool and kind == "conv_mlp":
        layers += _pooled(rank, [min(n, REDUCTION) for n in shape[1:-1]], dtype)
    for _ in range(count):
        layers += [
            _CONV[rank](shape[-1], size, padding="same", use_bias=False, dtype=dtype),
            keras.layers.BatchNormalization(dtype=dtype),
            keras.layers.ReLU(dtype=dtype),
        ]
    return layers


def _hidden(kind: str, width: int, dtype: Any) -> list:
    """Returns two hidden Dense layers."""
    if kind == "mlp":
        return [keras.layers.Dense(width, "relu", dtype=dtype) for _ in range(2)]
    layers: list = []
    for _ in range(2):  # with BatchNorm, as in DGL's code
        layers += [
            keras.layers.Dense(width, use_bias=False, dtype=dtype),
            keras.layers.BatchNormalization(dtype=dtype),
            keras.layers.ReLU(dtype=dtype),
        ]
    return layers


def _need_axes(kind: str, shape: tuple, others: str) -> None:
    if len(shape) not in _CONV:
        raise ValueError(
            f"A {kind!r} head needs an activation with 1 to 3 spatial axes. Found shape "
            f"{shape}. Use {others}."
        )


def _pooled(rank: int, windows: list, dtype: Any, padding: str = "same") -> list:
    """Returns average pooling with these windows; no layer if they are all 1."""
    if not windows or max(windows) == 1:
        return []
    size = windows[0] if rank == 3 else tuple(windows)
    return [_POOL[rank](size, padding=padding, dtype=dtype)]


def _pool_size(shape: tuple) -> int:
    """Returns the smallest pooling window that leaves at most MAX_LINEAR_INPUTS values."""
    size, channels = 1, shape[-1]
    if len(shape) not in _POOL:
        return size
    while (
        size < max(shape[1:-1])
        and channels * math.prod(-(-s // size) for s in shape[1:-1]) > MAX_LINEAR_INPUTS
    ):
        size += 1
    return size

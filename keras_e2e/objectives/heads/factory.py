"""Auxiliary heads: small networks from an activation to what is compared.

A head is trained with its module and is never part of inference. It ends in raw
values; what the model ends with (a softmax, say) is put on top by the objective.
"""

import difflib
import math
from typing import Any

import keras

KINDS = ("linear", "gap_linear", "mlp", "conv_mlp", "conv1", "decoder")

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
_GLOBAL_POOL = {
    3: keras.layers.GlobalAveragePooling1D,
    4: keras.layers.GlobalAveragePooling2D,
    5: keras.layers.GlobalAveragePooling3D,
}
_UPSAMPLING = {3: keras.layers.UpSampling1D, 5: keras.layers.UpSampling3D}
_CROPPING = {3: keras.layers.Cropping1D, 5: keras.layers.Cropping3D}


def validate_head(head: Any) -> Any:
    """Returns `head` if `make_head` takes it.

    Args:
        head: None, a kind (one of `KINDS`) or a Keras layer.

    Raises:
        ValueError: an unknown kind.
        TypeError: neither None, nor a kind, nor a layer.

    Example:

    >>> from keras_e2e.objectives import heads
    >>> heads.validate_head("mlp")
    'mlp'
    """
    if head is None or isinstance(head, keras.layers.Layer):
        return head
    if not isinstance(head, str):
        made = f" Did you mean {head.__name__}()?" if isinstance(head, type) else ""
        raise TypeError(
            f"head={head!r}: expected one of {list(KINDS)}, a Keras layer or model of your "
            f"own, or None to choose by the activation's shape.{made}"
        )
    if head in KINDS:
        return head
    near = difflib.get_close_matches(head, KINDS, cutoff=0.4)
    meant = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ValueError(
        f"Unknown head {head!r}.{meant} Expected one of {list(KINDS)}, a Keras layer or "
        "model of your own, or None to choose by the activation's shape."
    )


def serialize(head: Any) -> Any:
    """A head as it goes into a config: None and kinds stay what they are."""
    if head is None or isinstance(head, str):
        return head
    return keras.saving.serialize_keras_object(head)


def deserialize(config: Any) -> Any:
    """The way back from `serialize`."""
    if isinstance(config, dict):
        return keras.saving.deserialize_keras_object(config)
    return config


def make_head(
    head: Any,
    activation: keras.KerasTensor,
    target_shape: tuple,
    dtype: Any = None,
    following_blocks: tuple = (),
) -> keras.layers.Layer:
    """Builds a head.

    Where the target has a value for every position of the activation (a label per
    token, a segmentation map, an image to reconstruct), the head works position by
    position, after resizing an image map to the target's size. Otherwise it summarises
    the activation:

    | kind | layers | source |
    |---|---|---|
    | `linear` | average-pool to at most 2048 values, flatten, Dense (from zero) | local-loss `pred` |
    | `gap_linear` | global average pooling, Dense | Belilovsky et al. 2019 |
    | `mlp` | global average pooling, two hidden Dense as wide as the activation, Dense | |
    | `conv_mlp` | pool by 4, three 1x1 convolutions, pool to 2 positions per axis, flatten, two hidden Dense, Dense; each with BatchNorm + ReLU. Without positions: `mlp` | DGL's `mlp-sr`, Belilovsky et al. 2020 |
    | `conv1` | 3x3 convolution + BatchNorm + ReLU, global average pooling, Dense | Belilovsky et al. 2019 |
    | `decoder` | to a map of whatever size: resize, 3x3 convolution to 12 channels + BatchNorm + ReLU, 3x3 convolution | InfoPro, Wang et al. 2021 |

    Position by position they are the same layers without pooling and flattening. An
    image is resized bilinearly; a sequence or a video, for the `decoder` alone, by
    repeating or averaging positions, cropped to size. Where there is no map to decode
    from or to, the `decoder` is one Dense and a Reshape, the affine decoder of layer-wise
    auto-encoders (Vincent et al. 2010).

    The last layer of a `linear` head starts from zero where it predicts one value or one
    vector, as in its source: the gradient into the module is zero in the very first step.
    Position by position, and towards targets with positions, it starts as Keras's Dense.

    Args:
        head: one of the kinds above; a Keras layer or model of your own, which is built
            on the activation; a head made of the model's own layers, such as
            `model_heads.AugLocal()`. None chooses `linear` position by position and for
            flat activations, `gap_linear` for anything else.
        activation: shape and dtype of the activation, batch axis first.
        target_shape: shape of what the head puts out, batch axis first; None for an
            axis of unknown size.
        dtype: dtype policy of the head's layers; the last one is float32. A layer of
            your own keeps what it has.
        following_blocks: the blocks that follow in the model (`blocks.blocks_after`), for the heads
            that are made of them.

    Returns:
        A built layer, `layer(activation, training=...)`, that ends in raw values.

    Raises:
        ValueError: an unknown kind, a head that does not fit the activation or the
            target, or a size that must be known and is None.

    Example:

    >>> import keras
    >>> from keras_e2e.objectives.heads.factory import make_head
    >>> activation = keras.KerasTensor((None, 8, 8, 16))
    >>> make_head("gap_linear", activation, (None, 10)).output_shape
    (None, 10)
    >>> make_head("decoder", activation, (None, 28, 28, 1)).output_shape
    (None, 28, 28, 1)
    """  # noqa: E501
    validate_head(head)
    shape, target = tuple(activation.shape), tuple(target_shape)
    if shape[-1] is None:
        raise ValueError(f"A head needs a known last axis. Found activation {shape}.")
    if hasattr(head, "assemble"):
        head.assemble(activation, target, dtype, following_blocks)
        return head
    if isinstance(head, keras.layers.Layer):
        return _own(head, activation, target)
    by_position = _by_position(shape, target)
    kind = head
    if kind is None:
        kind = "linear" if len(shape) == 2 or by_position else "gap_linear"
    if kind == "decoder" and len(shape) == len(target) > 2:
        layers = _decoder_layers(shape, target, dtype)
    elif by_position:
        layers = _position_layers(kind, shape, target, dtype)
    else:
        layers = _summary_layers(kind, shape, target, dtype)
    return _Head([keras.Input(shape[1:], dtype=activation.dtype), *layers], name="head")


class _Head(keras.Sequential):
    """The layers of a head, one after another."""

    def compute_mask(self, inputs, previous_mask):
        # Its layers have set the masks there are. Keras would warn that they are lost.
        return None


def _own(layer: keras.layers.Layer, activation: Any, target: tuple) -> keras.layers.Layer:
    """A layer of the user's, built and found to fit."""
    shape = tuple(activation.shape)
    who = f"The head {layer.name!r} ({type(layer).__name__})"
    try:
        # Only a call builds every layer: those that make weights in `call`, too.
        outputs = layer(keras.Input(batch_shape=shape, dtype=activation.dtype))
    except Exception as error:
        raise ValueError(
            f"{who} cannot be called on the activation of shape {shape}. Give a layer "
            f"that takes it, or one of {list(KINDS)}. Keras says: {error}"
        ) from error
    found = tuple(getattr(outputs, "shape", ())) if not isinstance(outputs, list) else ()
    fits = len(found) == len(target) and all(
        a is None or b is None or a == b for a, b in zip(found[1:], target[1:], strict=True)
    )
    if not fits:
        puts = found or "no single tensor"
        raise ValueError(
            f"{who} makes {puts} of the activation of shape {shape}; expected {target}. "
            f"Let it end in that shape, or use one of {list(KINDS)}."
        )
    return layer


def _by_position(shape: tuple, target: tuple) -> bool:
    """Whether the target has a value for each position of the activation."""
    if len(shape) != len(target) or len(target) < 3:
        return False
    same = shape[1:-1] == target[1:-1]
    return same or (len(target) == 4 and None not in shape[1:] + target[1:])


def _position_layers(kind: str, shape: tuple, target: tuple, dtype: Any) -> list:
    layers: list = []
    if shape[1:-1] != target[1:-1]:
        layers.append(keras.layers.Resizing(*target[1:-1], dtype=dtype))
    if kind in ("conv1", "conv_mlp"):
        layers += _convolutions(kind, shape, dtype)
    if kind in ("mlp", "conv_mlp"):
        layers += _hidden(kind, shape[-1], dtype)
    return [*layers, keras.layers.Dense(target[-1], dtype="float32")]


def _summary_layers(kind: str, shape: tuple, target: tuple, dtype: Any) -> list:
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
    if flattens or rank not in (2, *_GLOBAL_POOL):
        layers.append(keras.layers.Flatten(dtype=dtype))
    elif rank > 2:
        layers.append(_GLOBAL_POOL[rank](dtype=dtype))
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


def _decoder_layers(shape: tuple, target: tuple, dtype: Any) -> list:
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
    """Layers from one number of positions to another."""
    rank = len(shape)
    if rank == 4:
        return [keras.layers.Resizing(*target[1:-1], dtype=dtype)]
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
    """Convolutions that keep the channels, each with BatchNorm and ReLU."""
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
    """Two hidden Dense layers."""
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
    """Average pooling with these windows, or nothing where they are all 1."""
    if not windows or max(windows) == 1:
        return []
    size = windows[0] if rank == 3 else tuple(windows)
    return [_POOL[rank](size, padding=padding, dtype=dtype)]


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

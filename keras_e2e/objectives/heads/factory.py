"""Auxiliary heads: small networks from an activation to what is compared.

A head is trained with its module and is never part of inference. It returns raw values
(logits); the objective puts on top what the model ends with, such as a softmax.
"""

from typing import Any

import keras

from keras_e2e.objectives.heads import head_layers
from keras_e2e.utils.validation import did_you_mean

KINDS = ("linear", "gap_linear", "mlp", "conv_mlp", "conv1", "decoder")


def validate_head(head: Any) -> Any:
    """Returns `head` if `make_head` accepts it.

    Args:
        head: None, a string (one of `heads.KINDS`) or a Keras layer.

    Raises:
        ValueError: If the string is unknown.
        TypeError: If `head` is anything else.

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
    raise ValueError(
        f"Unknown head {head!r}.{did_you_mean(head, KINDS, 3)} Expected one of "
        f"{list(KINDS)}, a Keras layer or model of your own, or None to choose by the "
        "activation's shape."
    )


def serialize(head: Any) -> Any:
    """Returns a head as it goes into a config.

    Args:
        head: None, a string or a Keras layer, as in `make_head`.

    Returns:
        The config of a layer; None and strings as they are.

    Example:

    >>> import keras
    >>> from keras_e2e.objectives import heads
    >>> heads.serialize("mlp"), heads.serialize(keras.layers.Dense(3))["class_name"]
    ('mlp', 'Dense')
    """
    if head is None or isinstance(head, str):
        return head
    return keras.saving.serialize_keras_object(head)


def deserialize(config: Any) -> Any:
    """Returns a head from what `serialize` returned.

    Args:
        config: None, a string or the config of a Keras layer.

    Returns:
        None, the string or a new layer.

    Example:

    >>> import keras
    >>> from keras_e2e.objectives import heads
    >>> heads.deserialize(heads.serialize(keras.layers.Dense(3))).units
    3
    """
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

    If the target has a value for every position of the activation (a label per token, a
    segmentation map, an image to reconstruct), the head works position by position, after
    resizing an image map to the target's size. Otherwise it summarizes the activation:

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
    Position by position, and toward targets with positions, it starts as Keras's Dense.

    Args:
        head: A string, one of the kinds above; a Keras layer or model of your own, which
            is built on the activation; or a head made of the model's own layers, such as
            `keras_e2e.AugLocal()`. None chooses `"linear"` position by position and for
            flat activations, `"gap_linear"` for anything else.
        activation: `keras.KerasTensor` with the activation's shape (batch axis first) and
            dtype.
        target_shape: Tuple, shape of the head's output, batch axis first; None for an axis
            of unknown size.
        dtype: Dtype policy of the head's layers; the last one is float32. A layer of your
            own keeps the one it has. Defaults to `None`: the global policy.
        following_blocks: Tuple of the blocks that follow in the model
            (`ModelSpec.following_blocks`), for the heads that are made of them. Defaults
            to `()`.

    Returns:
        A built layer, `layer(activation, training=...)`, that returns raw values.

    Raises:
        ValueError: If the string is unknown, if the head does not fit the activation or
            the target, or if a size that must be known is not.
        TypeError: If `head` is neither None, a string nor a layer.

    Example:

    >>> import keras
    >>> from keras_e2e.objectives import heads
    >>> activation = keras.KerasTensor((None, 8, 8, 16))
    >>> heads.make_head("gap_linear", activation, (None, 10)).output_shape
    (None, 10)
    >>> heads.make_head("decoder", activation, (None, 28, 28, 1)).output_shape
    (None, 28, 28, 1)
    """  # noqa: E501
    validate_head(head)
    shape, target = tuple(activation.shape), tuple(target_shape)
    if shape[-1] is None:
        raise ValueError(
            f"A head needs a known last axis. Found an activation of shape {shape}. Give "
            "the layer before the boundary a fixed number of units or channels."
        )
    if hasattr(head, "assemble"):
        head.assemble(activation, target, dtype, following_blocks)
        return head
    if isinstance(head, keras.layers.Layer):
        return _own(head, activation, target)
    by_position = head_layers.works_by_position(shape, target)
    kind = head
    if kind is None:
        kind = "linear" if len(shape) == 2 or by_position else "gap_linear"
    if kind == "decoder" and len(shape) == len(target) > 2:
        layers = head_layers.decoder_layers(shape, target, dtype)
    elif by_position:
        layers = head_layers.position_layers(kind, shape, target, dtype)
    else:
        layers = head_layers.summary_layers(kind, shape, target, dtype)
    return _Head([keras.Input(shape[1:], dtype=activation.dtype), *layers], name="head")


class _Head(keras.Sequential):
    """The layers of a head, one after another."""

    def compute_mask(self, inputs, previous_mask):
        # Its layers have set the masks there are. Keras would warn that they are lost.
        return None


def _own(layer: keras.layers.Layer, activation: Any, target: tuple) -> keras.layers.Layer:
    """Builds a layer of the user's and returns it, if it fits."""
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
            f"{who} returns {puts} for the activation of shape {shape}; expected "
            f"{target}. Let it return that shape, or use one of {list(KINDS)}."
        )
    return layer

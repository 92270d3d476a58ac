"""A head that sees the features of several modules, each of its own size."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_e2e.objectives.heads.factory import make_head
from keras_e2e.objectives.heads.head_layers import resizing, works_by_position


def bank_head(
    kind: str | None,
    features: Sequence[keras.KerasTensor],
    target_shape: tuple,
    channels: int,
    dtype: Any = None,
) -> keras.Model:
    """Builds a head on several features.

    Each is projected to as many channels and brought to the target's positions, and the
    sum goes into a head of a kind of `make_head`. A map is resized, bilinearly; what cannot
    be resized is averaged over its positions and added to each of the target's. Where the
    target has no positions, or other ones than the first feature can be brought to, all
    features are averaged.

    Args:
        kind: String, the kind of head that the sum goes into, as in `make_head`. None
            chooses `"conv1"` for a map and `"mlp"` for anything else.
        features: The `keras.KerasTensor`s of the features, batch axis first.
        target_shape: Tuple, shape of the head's output, batch axis first.
        channels: Integer, how many channels each is projected to.
        dtype: Dtype policy of the head's layers; the last one is float32. Defaults to
            `None`: the global policy.

    Returns:
        A `keras.Model` that takes the list of features and returns raw values.

    Raises:
        ValueError: If the last axis of a feature is unknown, if the target is a map and the
            size of it or of a feature is, or as `make_head` does.

    Example:

    >>> import keras
    >>> from keras_e2e.objectives.heads.feature_bank import bank_head
    >>> shapes = [(None, 4, 4, 8), (None, 8, 8, 4)]
    >>> features = [keras.KerasTensor(shape) for shape in shapes]
    >>> bank_head("linear", features, (None, 8, 8, 3), channels=6).output_shape
    (None, 8, 8, 3)
    """
    target = tuple(target_shape)
    dense = works_by_position(tuple(features[0].shape), target)
    positions = target[1:-1] if dense else ()
    if len(positions) == 2:
        _need_sizes([target, *(tuple(f.shape) for f in features)])
    names = [f"project_{i}" for i in range(len(features))]
    inputs = [keras.Input(f.shape[1:], dtype=f.dtype) for f in features]
    projected = [
        _projected(x, positions, keras.layers.Dense(channels, dtype=dtype, name=name))
        for x, name in zip(inputs, names, strict=True)
    ]
    together = projected[0]
    if len(projected) > 1:
        together = keras.layers.Add(dtype=dtype, name="bank")(projected)
    seen = keras.KerasTensor(together.shape, together.dtype)
    kind = kind or ("conv1" if len(positions) == 2 else "mlp")
    head = make_head(kind, seen, target, dtype)
    return keras.Model(inputs, head(together), name="feature_bank")


def _need_sizes(shapes: list[tuple]) -> None:
    for shape in shapes:
        if len(shape) == 4 and None in shape[1:3]:
            raise ValueError(
                f"A feature bank resizes maps to the target's, and must know their sizes. "
                f"Found shape {shape}. Give the model's input a fixed size."
            )


def _projected(x: Any, positions: tuple, project: keras.layers.Dense) -> Any:
    """Brings one feature to these positions, and to as many channels."""
    shape = tuple(x.shape)
    if shape[-1] is None:
        raise ValueError(
            f"A feature bank needs features whose last axis is known. Found shape {shape}. "
            "Give the layer before that boundary a fixed number of units or channels."
        )
    channels, dtype = project.units, project.dtype_policy
    if positions and works_by_position(shape, (None, *positions, channels)):
        if shape[1:-1] != positions:
            x = resizing(positions, dtype)(x)
        return project(x)
    if len(shape) in (3, 4, 5):
        pool = getattr(keras.layers, f"GlobalAveragePooling{len(shape) - 2}D")
        x = pool(dtype=dtype)(x)
    elif len(shape) > 5:
        x = keras.layers.Flatten(dtype=dtype)(x)
    x = project(x)
    if positions:
        once = (1,) * len(positions)
        x = keras.layers.Reshape((*once, channels), dtype=dtype)(x)
    return x

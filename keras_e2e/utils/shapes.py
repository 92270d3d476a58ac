"""Shapes of tensors, as far as they are known."""

from typing import Any


def known_shape(tensor: Any) -> tuple | None:
    """The shape of a tensor, `None` for a size that is not known; `None` without a rank.

    A number has the shape `()`.

    Args:
        tensor: A tensor, an array, or a number.
    """
    shape = getattr(tensor, "shape", ())
    rank = getattr(shape, "rank", 0)  # TensorFlow's shapes may have none
    return None if rank is None else tuple(shape)


def begins_with(shape: Any, axes: Any) -> bool:
    """Whether the first axes of a shape are these; unknown sizes fit any.

    Args:
        shape: The shape.
        axes: The axes, a shape.
    """
    return len(shape) >= len(axes) and agree(shape, axes)


def agree(shape: Any, other: Any) -> bool:
    """Whether the axes that two shapes both have are alike; unknown sizes fit any."""
    pairs = zip(shape, other, strict=False)
    return all(a is None or b is None or a == b for a, b in pairs)

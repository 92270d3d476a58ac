"""Sums over the entries of tensors, and evenly spaced ones of large tensors."""

import math
from typing import Any

from keras import ops


def unpadded(activation: Any, mask: Any) -> Any:
    """An activation with zeros in the places of padding."""
    if mask is None:
        return activation
    kept = ops.cast(mask, activation.dtype)
    return activation * ops.reshape(
        kept, (*ops.shape(kept), *[1] * (len(activation.shape) - len(kept.shape)))
    )


def sum_of_squares(tensors: list) -> Any:
    """The squared norm of several tensors taken together; None for no tensor."""
    squares = [ops.sum(ops.square(t)) for t in tensors if t is not None]
    return sum(squares[1:], squares[0]) if squares else None


def dot(left: list, right: list) -> Any:
    """The inner product of two lists of tensors; None where no place has both."""
    terms = [
        ops.sum(a * b)
        for a, b in zip(left, right, strict=True)
        if a is not None and b is not None
    ]
    return sum(terms[1:], terms[0]) if terms else None


def spaced_entries(tensor: Any, entries: int) -> Any:
    """Evenly spaced entries of a tensor, about as many as asked, as a flat tensor."""
    flat, step = ops.reshape(tensor, (-1,)), stride(tensor.shape, entries)
    return flat if step == 1 else flat[::step]


def stride(shape: tuple, entries: int) -> int:
    """The distance from one of these entries to the next."""
    found = max(1, -(-math.prod(shape) // entries))
    # With no common factor, the entries go through all places of the last axis.
    while found > 1 and math.gcd(found, shape[-1]) > 1:
        found += 1
    return found

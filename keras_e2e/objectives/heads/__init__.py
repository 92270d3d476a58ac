"""Auxiliary heads: the small networks that turn an activation into what is compared."""

from keras_e2e.objectives.heads.factory import (
    KINDS,
    deserialize,
    make_head,
    serialize,
    validate_head,
)
from keras_e2e.objectives.heads.head_layers import MAX_LINEAR_INPUTS

__all__ = [
    "KINDS",
    "MAX_LINEAR_INPUTS",
    "deserialize",
    "make_head",
    "serialize",
    "validate_head",
]

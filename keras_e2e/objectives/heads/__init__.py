"""Auxiliary heads: the small networks that turn an activation into what is compared."""

from keras_e2e.objectives.heads.factory import (
    KINDS,
    MAX_LINEAR_INPUTS,
    check,
    deserialize,
    make_head,
    serialize,
)

__all__ = ["KINDS", "MAX_LINEAR_INPUTS", "check", "deserialize", "make_head", "serialize"]

"""A private name of Keras that quantizing a part of a model takes.

The rest of them stand in `compat`.
"""

from collections.abc import Callable
from typing import Any

from keras.src.quantizers.utils import should_quantize_layer


def filtered(filters: Any, left_out: set[int]) -> Callable[[Any], bool]:
    """The `filters` of `quantize` that also leave out some layers.

    Stands for `should_quantize_layer`, which says what a filter means: a regular
    expression, several of them, a function, or None.

    Args:
        filters: As in `keras.Model.quantize`.
        left_out: `id`s of layers.
    """

    def quantized(layer: Any) -> bool:
        return id(layer) not in left_out and should_quantize_layer(layer, filters)

    return quantized

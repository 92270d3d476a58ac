"""Private names of Keras that shapes and sizes of tensors take.

The rest of them stand in `compat`.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras.src import backend
from keras.src.utils.dtype_utils import dtype_size


def output_spec(function: Callable, *args: Any, **kwargs: Any) -> Any:
    """Shapes and dtypes of what a function returns for symbolic tensors.

    Runs it as a layer's `call` is run for its shapes, without side effects
    (`compute_output_spec`). To call a layer on symbolic tensors would not do: some have a
    rule for the shape and run no code.
    """
    return backend.compute_output_spec(function, *args, **kwargs)


def bytes_of(dtype: Any) -> float:
    """Bytes of one number of a dtype (`dtype_utils.dtype_size`, in bits)."""
    return float(dtype_size(keras.backend.standardize_dtype(dtype)) / 8)

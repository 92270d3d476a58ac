"""A few examples of what a subclassed model takes, to find its modules with."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_e2e.utils import compat
from keras_e2e.utils.graphs import takes_training


def first_examples(x: Any, count: int = 2) -> Any:
    """The first examples of what was given to `fit`; None if that uses them up."""
    if hasattr(x, "element_spec") and hasattr(x, "take"):  # a tf.data.Dataset
        for batch in x.take(1):
            x = keras.utils.unpack_x_y_sample_weight(batch)[0]
    elif isinstance(x, keras.utils.PyDataset):
        x = keras.utils.unpack_x_y_sample_weight(x[0])[0]
    if x is None or not all(hasattr(t, "shape") for t in tree.flatten(x)):
        return None
    return tree.map_structure(lambda t: _tensor(t[:count]), x)


def _tensor(values: Any) -> Any:
    """A tensor; NumPy's arrays of objects are texts."""
    texts = getattr(values.dtype, "kind", None) == "O"
    return ops.convert_to_tensor(values, dtype="string" if texts else None)


def describe(tensor: Any) -> dict | None:
    """Dtype and size of an example, as they go into a build config; None of none."""
    if tensor is None:
        return None
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return {"dtype": dtype, "size": "x".join(map(str, tensor.shape))}


def from_description(description: Any) -> Any:
    """Invented examples of the dtypes and sizes that `describe` noted."""
    if isinstance(description, Mapping) and set(description) == {"dtype", "size"}:
        shape = tuple(int(n) for n in description["size"].split("x"))
        return _invented(shape, description["dtype"])
    if description is None:
        return None
    if isinstance(description, Mapping):
        return {k: from_description(v) for k, v in description.items()}
    return type(description)(from_description(v) for v in description)


def _invented(shape: tuple, dtype: str) -> Any:
    """Values between 0 and 1: as integers they are valid indices everywhere."""
    if dtype == "string":
        return ops.convert_to_tensor(np.full(shape, "a"), dtype="string")
    values = np.random.default_rng(0).uniform(size=shape)
    return ops.convert_to_tensor(values.astype(dtype))


def _of_shape(shape: Any, dtype: str) -> Any:
    """Two invented examples, where a size is open of size 8."""
    return _invented((2, *[n or 8 for n in shape[1:]]), dtype)


def built_example(base: keras.Model) -> Any:
    """A batch that a built model takes, made up from the shapes it was built with."""
    if compat.is_functional(base):
        inputs = compat.as_functional(base).input
        example = tree.map_structure(lambda t: _of_shape(t.shape, t.dtype), inputs)
    else:
        config = base.get_build_config() or {}
        shape = config.get("input_shape")
        if shape is None or not base.built or isinstance(shape, (dict, Mapping)):
            return None
        if not isinstance(shape, (list, tuple)) or not all(
            n is None or isinstance(n, int) for n in shape
        ):
            return None
        example = _of_shape(shape, keras.config.floatx())
    try:
        base(example, training=False) if takes_training(base) else base(example)
    except Exception:  # the model takes something else; fit will bring it
        return None
    return example

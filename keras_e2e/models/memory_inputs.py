"""The inputs that memory is estimated for: their shapes with a batch size."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import tree

from keras_e2e.models.examples import built_example, from_description
from keras_e2e.modules.discovery import spec_of
from keras_e2e.utils import compat
from keras_e2e.utils.validation import check_integer, did_you_mean

# As in Keras, where none is given.
BATCH_SIZE = 32


def model_inputs(model: Any) -> Any:
    """What a model takes, as symbolic tensors in their structure.

    Raises:
        ValueError: If that is not known.
    """
    if compat.is_functional(model):
        return compat.as_functional(model).input
    described = getattr(model, "_example", None)
    if described:
        return tree.map_structure(spec_of, from_description(described[0]))
    example = built_example(model)
    if example is None:
        raise ValueError(
            f"estimate_memory: it is not known what the subclassed model {model.name!r} "
            "takes. Give it as modularize(model, boundaries), after examine(x) with a few "
            "examples."
        )
    shape = model.get_build_config()["input_shape"]
    return keras.KerasTensor((None, *shape[1:]), dtype=spec_of(example).dtype)


def input_specs(model: Any, batch_size: Any, input_shape: Any) -> tuple[Any, int]:
    """The inputs of a model as `tf.TensorSpec`s with known shapes, and the batch size.

    Args:
        model: The model, for errors and for what it takes.
        batch_size: As in `estimate_memory`.
        input_shape: As in `estimate_memory`.

    Raises:
        ValueError: If sizes are missing, or do not fit the model.
    """
    import tensorflow as tf

    given = model_inputs(model)
    flat = tree.flatten(given)
    size = _batch_size(model, flat, batch_size)
    names = [_name(model, tensor, place) for place, tensor in enumerate(flat)]
    shapes = _shapes_by_name(model, names, input_shape)
    specs = []
    for name, tensor in zip(names, flat, strict=True):
        shape = _filled(model, name, tensor.shape[1:], shapes.get(name), len(flat) > 1)
        specs.append(tf.TensorSpec((size, *shape), tensor.dtype))
    return tree.pack_sequence_as(given, specs), size


def _name(model: Any, tensor: Any, place: int) -> str:
    """The name of an input; code has none for them, so they go by their place."""
    return str(tensor.name) if compat.is_functional(model) else f"input {place}"


def _batch_size(model: Any, flat: list, batch_size: Any) -> int:
    if batch_size is not None:
        batch_size = check_integer("batch_size", batch_size, 1)
    fixed = {tensor.shape[0] for tensor in flat} - {None}
    if fixed and batch_size not in (None, *fixed):
        raise ValueError(
            f"batch_size={batch_size}: {model.name!r} is made for batches of "
            f"{', '.join(map(str, fixed))}. Leave `batch_size` out."
        )
    return int(batch_size or min(fixed, default=BATCH_SIZE))


def _shapes_by_name(model: Any, names: list[str], shape: Any) -> dict[str, tuple]:
    """The shapes that were given, by the name of the input."""
    if shape is None:
        return {}
    if not isinstance(shape, Mapping):
        if len(names) != 1:
            raise ValueError(
                f"input_shape={shape!r}: {model.name!r} has the inputs {names}. Give a "
                "dict from name to shape."
            )
        shape = {names[0]: shape}
    for name, sizes in shape.items():
        if name not in names:
            raise ValueError(
                f"input_shape: {model.name!r} has no input {name!r}."
                f"{did_you_mean(name, names)} Its inputs: {names}."
            )
        if not isinstance(sizes, list | tuple):
            raise ValueError(
                f"input_shape={sizes!r} for {name!r}: expected a tuple, the shape of one "
                "example."
            )
        for number in sizes:
            check_integer(f"input_shape: {name!r}: size", number, 1)
    return {name: tuple(sizes) for name, sizes in shape.items()}


def _filled(
    model: Any, name: str, shape: tuple, given: tuple | None, several: bool
) -> tuple:
    """The shape of one example, with the sizes that the model leaves open filled in."""
    if given is not None:
        fits = len(given) == len(shape)
        if not fits or any(n not in (None, m) for n, m in zip(shape, given, strict=True)):
            raise ValueError(
                f"input_shape={given} does not fit the input {name!r} of {model.name!r}, "
                f"whose examples have the shape {tuple(shape)}."
            )
        return given
    if None in shape:
        filled = tuple(n or 64 for n in shape)
        way = f"estimate_memory(model, input_shape={filled})"
        if several:
            way = f"estimate_memory(model, input_shape={{{name!r}: {filled}}})"
        else:
            way += f" or keras-e2e memory --input_shape={','.join(map(str, filled))}"
        raise ValueError(
            f"The input {name!r} of {model.name!r} has the shape {tuple(shape)} for an "
            f"example, in which sizes are open. Give them, as in {way}."
        )
    return tuple(shape)

"""Small helpers for graphs of layers."""

import contextlib
import inspect
import math
from collections.abc import Iterable, Iterator
from typing import Any

import keras
from keras import tree

from keras_e2e.utils import compat


def strategy_scope(model: keras.Model) -> Any:
    """The scope of the strategy that a model was made under, for new variables."""
    strategy = getattr(model, "distribute_strategy", None)
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def devices_of(owners: Iterable[Any]) -> dict[str, str]:
    """Where what has a `name` and `variables` has its variables, if on several devices.

    Args:
        owners: What has them, modules say.

    Returns:
        Dict from names to names of TensorFlow's devices, without those of which the
        variables are on more than one; empty where there is one device for all.
    """
    if keras.config.backend() != "tensorflow":
        return {}
    import tensorflow as tf

    # A strategy has all variables on all of its devices.
    if tf.distribute.has_strategy() or len(tf.config.list_logical_devices()) < 2:
        return {}
    places = {owner.name: {v.value.device for v in owner.variables} for owner in owners}
    found = {name: place.pop() for name, place in places.items() if len(place) == 1}
    return found if len(set(found.values())) > 1 else {}


def on_device(name: str | None) -> Any:
    """A context that puts new variables on a device of TensorFlow; None chooses none."""
    if not name:
        return contextlib.nullcontext()
    import tensorflow as tf

    return tf.device(name)


def layer_name(path: str) -> str:
    """A path as a name that Keras takes for a layer."""
    return path.replace("/", "_")


def input_like(tensor: keras.KerasTensor, name: str | None = None) -> keras.KerasTensor:
    """A new symbolic input that takes what `tensor` takes.

    Of a model's input also whether it may be left out (`optional=True`), and whether it
    takes sparse or ragged tensors.

    Args:
        tensor: A symbolic tensor, an input or not.
        name: Name of the input; that of `tensor`, and of its layer if it is an input, if
            it is not given.
    """
    flags = {key: True for key in ("sparse", "ragged") if getattr(tensor, key, False)}
    layer = compat.producing_call(tensor).operation
    is_input = isinstance(layer, keras.layers.InputLayer)
    if is_input and layer.optional:
        flags["optional"] = True
    known = layer.name if is_input else tensor.name
    made = keras.Input(
        batch_shape=tensor.shape,
        dtype=tensor.dtype,
        name=layer_name(name or known),
        **flags,
    )
    if name is None and is_input:
        # Of an input that was given no name, the tensor and its layer have two.
        made.name = tensor.name
    return made


def inputs_like(structure: Any) -> Any:
    """New symbolic inputs in the structure of those given."""
    return tree.map_structure(input_like, structure)


def share_dtype_policy(source: keras.Model, target: keras.Model) -> None:
    """Gives a model the dtype policy of another one, whose layers it shares.

    Keras gives a Functional model the global policy of the moment. `compile` goes by it:
    under `mixed_float16` the optimizer scales the loss.
    """
    # A policy for quantization would quantize layers; those that are shared are.
    if source.dtype_policy.quantization_mode is None:
        target.dtype_policy = source.dtype_policy


def stock_model(inputs: Any, outputs: Any, like: keras.Model, name: str) -> keras.Model:
    """A stock Functional model, with the dtype policy of the model that it is made of."""
    model = keras.Model(inputs, outputs, name=layer_name(name))
    share_dtype_policy(like, model)
    return model


def overrides(model: keras.Model, method: str) -> bool:
    """Whether the class of a model has a method in place of `keras.Model`'s."""
    return getattr(type(model), method) is not getattr(keras.Model, method)


def takes_training(layer: Any) -> bool:
    """Whether the `call` of a layer has the argument `training`."""
    return "training" in inspect.signature(layer.call).parameters


def sublayer_paths(layer: Any) -> Iterator[tuple[str, Any]]:
    """Yields (path, layer) for every layer below a layer, itself left out."""
    pending = [("", layer, frozenset[int]())]
    while pending:
        prefix, outer, above = pending.pop()
        above |= {id(outer)}  # a layer may hold the one that it is in
        inner = [x for x in compat.sublayers(outer) if id(x) not in above]
        yield from ((prefix + x.name, x) for x in inner)
        pending += [(prefix + x.name + "/", x, above) for x in reversed(inner)]


def count_parameters(variables: Iterable[Any]) -> int:
    """How many numbers some variables hold."""
    return sum(math.prod(variable.shape) for variable in variables)


def unique(items: Iterable[Any]) -> list:
    """The items without repetitions, compared by identity, in order."""
    return list({id(item): item for item in items}.values())

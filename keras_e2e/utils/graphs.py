"""Small helpers for graphs of layers."""

import contextlib
import inspect
import math
from collections.abc import Iterable
from typing import Any

import keras
from keras import tree


def strategy_scope(model: keras.Model) -> Any:
    """The scope of the strategy that a model was made under, for new variables."""
    strategy = getattr(model, "distribute_strategy", None)
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def input_like(tensor: keras.KerasTensor) -> keras.KerasTensor:
    """A new symbolic input that takes what `tensor` takes."""
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)


def inputs_like(structure: Any) -> Any:
    """New symbolic inputs in the structure of those given."""
    return tree.map_structure(input_like, structure)


def takes_training(layer: Any) -> bool:
    """Whether the `call` of a layer has the argument `training`."""
    return "training" in inspect.signature(layer.call).parameters


def count_parameters(variables: Iterable[Any]) -> int:
    """How many numbers some variables hold."""
    return sum(math.prod(variable.shape) for variable in variables)

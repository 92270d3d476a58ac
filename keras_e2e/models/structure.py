"""Repeating a graph of layers as it is, nested models and all."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import tree

from keras_e2e.models.placed import PlacedBoundaries, place, placed_in
from keras_e2e.models.rewiring import graph_operations, holds_boundary, is_graph
from keras_e2e.modules.boundary import ModuleBoundary
from keras_e2e.utils import compat
from keras_e2e.utils.graphs import inputs_like, share_dtype_policy, stock_model


def structure(
    model: keras.Model, inserted: Mapping[int, ModuleBoundary]
) -> tuple[Any, Any]:
    """Repeats a graph as it is, with boundaries beside it.

    Args:
        model: A Functional model or built Sequential.
        inserted: New boundaries by the `id` of the layer or operation that they follow.

    Returns:
        The new inputs and outputs; among what is called is one `PlacedBoundaries`, which
        has the new boundaries and those that were beside the graph before.
    """
    functional = compat.as_functional(model)
    known = placed_in(model)
    operations = list(graph_operations(model))
    if known is not None:
        before = {id(operations[n][1]): b for n, b in known.by_place().items()}
        inserted = {**before, **inserted}
    holder = place(operations, inserted, _is_sequential(model))
    inputs = inputs_like(functional.input)
    entering = {id(tensor) for tensor in tree.flatten(inputs)}

    def call(layer, *args, **kwargs):
        if isinstance(layer, PlacedBoundaries):
            return args[0]
        first = next((t for t in tree.flatten((args, kwargs)) if id(t) in entering), None)
        if first is not None:  # the holder stands in front of the first layer
            entering.clear()
            held = holder(first)
            args, kwargs = tree.map_structure(
                lambda t: held if t is first else t, (args, kwargs)
            )
        return layer(*args, **kwargs)

    return inputs, compat.run_graph(functional, tree.flatten(inputs), call)


def stock_graph(model: keras.Model) -> keras.Model:
    """A stock model over the layers of a graph, without boundaries, nested as it is.

    Args:
        model: A Functional model or built Sequential.
    """
    inputs, outputs = without_boundaries(model)
    if not _is_sequential(model):
        return stock_model(inputs, outputs, model, model.name)
    calls = compat.graph_calls(keras.Model(inputs, outputs))
    layers = [call.operation for call in calls[1:]]  # what follows the input
    made = keras.Sequential([inputs, *layers], name=model.name)
    share_dtype_policy(model, made)
    return made


def without_boundaries(model: keras.Model) -> tuple[Any, Any]:
    """Repeats a graph on new inputs as it is, without the boundaries in and beside it.

    Args:
        model: A Functional model or built Sequential.

    Returns:
        The new inputs and outputs, structured as the model's.
    """
    made: dict[int, keras.Model] = {}

    def call(layer, *args, **kwargs):
        if isinstance(layer, ModuleBoundary | PlacedBoundaries):
            return args[0]
        if is_graph(layer) and holds_boundary(layer, {}):
            if id(layer) not in made:
                made[id(layer)] = stock_graph(layer)
            layer = made[id(layer)]
        return layer(*args, **kwargs)

    return as_it_is(model, call)


def as_it_is(model: keras.Model, call: Callable | None = None) -> tuple[Any, Any]:
    """Repeats a graph on new inputs, nested models and all.

    Args:
        model: A Functional model or built Sequential.
        call: Function of a layer and its arguments that makes a call. Defaults to `None`:
            the layer is called.

    Returns:
        The new inputs and outputs, structured as the model's.
    """
    functional = compat.as_functional(model)
    inputs = inputs_like(functional.input)
    call = call or (lambda layer, *args, **kwargs: layer(*args, **kwargs))
    return inputs, compat.run_graph(functional, tree.flatten(inputs), call)


def _is_sequential(model: keras.Model) -> bool:
    """Whether a model is Sequential, or made of one."""
    known = placed_in(model)
    return isinstance(model, keras.Sequential) or (known is not None and known.sequential)

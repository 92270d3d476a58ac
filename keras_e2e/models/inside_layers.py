"""Boundaries inside one layer of a graph, such as the blocks of an encoder."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras

from keras_e2e.models.own_class import keeps_class
from keras_e2e.models.rewiring import graph_operations
from keras_e2e.modules.boundary import ModuleBoundary
from keras_e2e.trainers.modular_trainer import ModularTrainer
from keras_e2e.utils.graphs import sublayer_paths


def has_boundary_inside_layer(model: keras.Model, boundaries: Any) -> bool:
    """Whether a graph of layers is to be cut where it is code.

    A layer's `call` may run layers of its own, which no graph shows. Boundaries there
    follow them as in a subclassed model.

    Args:
        model: A Functional model or built Sequential.
        boundaries: As in `modularize`.

    Raises:
        ValueError: If there is such a boundary, and the model is modular already or has
            more of its class than a graph.
    """
    listed = isinstance(boundaries, Mapping | Iterable) and not isinstance(boundaries, str)
    places = list(boundaries) if listed else []
    several = [
        name for place in places if isinstance(place, tuple | list) for name in place
    ]
    named = {name for name in [*places, *several] if isinstance(name, str)}
    graph = list(graph_operations(model))
    known = {name for path, x in graph for name in (path, x.name)}
    ids = {id(x) for _, x in graph}
    for outer, path, layer in _inside(graph):
        if id(layer) in ids:
            continue
        held = isinstance(layer, ModuleBoundary)
        name = layer.module if held else layer.name
        if held or (named & {name, path} and not known & named & {name, path}):
            _refuse_class(model, name, outer)
            return True
    return False


def _inside(graph: list[tuple[str, Any]]) -> Iterator[tuple[Any, str, Any]]:
    """Yields (layer of the graph, path, layer inside of it)."""
    graphs = {path.rpartition("/")[0] for path, _ in graph}  # what they hold is listed
    for path, outer in graph:
        if isinstance(outer, keras.layers.Layer) and path not in graphs:
            for inner, layer in sublayer_paths(outer):
                yield outer, f"{path}/{inner}", layer


def _refuse_class(model: keras.Model, name: str, outer: Any) -> None:
    where = f"Boundary {name!r} is inside {outer.name!r} ({type(outer).__name__})"
    if isinstance(model, ModularTrainer):
        raise ValueError(
            f"{where}, and {model.name!r} is modular already. Set all boundaries at once: "
            "modularize(strip(model), boundaries)."
        )
    if keeps_class(model):
        raise ValueError(
            f"{where}, which is not a graph of layers, and {model.name!r} has methods of "
            f"{type(model).__name__} that its modular model would not have. Set the "
            f"boundary on {outer.name!r}, or split the graph without its class: "
            "modularize(keras.Model(model.input, model.output), boundaries)."
        )

"""Repeating a graph of layers on new inputs, with boundaries added or left out."""

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
from keras import tree

from keras_e2e.models.crossed_together import Together, crossed_together
from keras_e2e.models.inlined_names import InlinedNames
from keras_e2e.models.placed import PlacedBoundaries, placed_in
from keras_e2e.modules.boundary import ModuleBoundary
from keras_e2e.modules.graph import Graph, Tensors
from keras_e2e.modules.ownership import Shared
from keras_e2e.trainers.modular_trainer import ModularTrainer
from keras_e2e.utils import compat
from keras_e2e.utils.compat.scoped import NestedCalls
from keras_e2e.utils.graphs import inputs_like, takes_training, unique


def rewire(
    model: keras.Model,
    inserted: Mapping[int, ModuleBoundary],
    *,
    keep: bool,
    flatten: bool = False,
    rename: bool = True,
    inputs: Any = None,
    calls: NestedCalls | None = None,
) -> tuple[Any, Any]:
    """Repeats a graph, over the same layers and weights.

    A nested graph that holds a boundary is taken into the outer one, layer by layer.

    Args:
        model: A Functional model or built Sequential.
        inserted: New boundaries by the `id` of the layer or operation that they follow. One
            that follows several is there several times, in the order of its tensors.
        keep: Whether the boundaries that are in the graph stay. Those beside it
            (`structure`) are among `inserted`, or are left out.
        flatten: Whether every nested graph is taken into the outer one.
        rename: Whether what would have the name of another one is called by another name
            (`InlinedNames`), as a model needs it. Defaults to `True`.
        inputs: The inputs to repeat it on. Defaults to `None`: new ones.
        calls: The `NestedCalls` that notes each call, for a `compat.scoped.ScopedGraph`.
            Defaults to `None`: one that is not kept.

    Returns:
        The new inputs and outputs, structured as the model's.

    Raises:
        ValueError: If boundaries have equal names, or if one cannot follow several layers.
    """
    functional = compat.as_functional(model)

    def opened(layer):
        return is_graph(layer) and (flatten or holds_boundary(layer, inserted))

    names = InlinedNames(model, opened) if rename else None
    calls = NestedCalls() if calls is None else calls
    returned: dict[int, list] = {}  # by layers that share a boundary with others
    count = Counter(map(id, inserted.values()))
    taken: list[tuple[object, str]] = []  # the nested graphs that are taken apart now

    def call(layer, *args, **kwargs):
        left_out = isinstance(layer, ModuleBoundary) and not keep
        if left_out or isinstance(layer, PlacedBoundaries):
            return args[0]
        if opened(layer):
            taken.append((object(), layer.name))
            outputs = _inline(call, layer, *args, **kwargs)
            taken.pop()
        else:
            made = layer if names is None else functools.partial(names.call, layer)
            outputs = made(*args, **kwargs)
            calls.note(outputs, tuple(taken))
        boundary = inserted.get(id(layer))
        if boundary is None:
            return outputs
        if count[id(boundary)] == 1:
            return _crossed(boundary, layer, outputs, model)
        returned.setdefault(id(layer), []).append((layer, outputs))
        return outputs

    inputs = inputs_like(functional.input) if inputs is None else inputs
    outputs = compat.run_graph(functional, tree.flatten(inputs), call)
    if returned:
        together = _together(inserted, returned, model)
        outputs = tree.pack_sequence_as(
            outputs, crossed_together(tree.flatten(outputs), together, calls)
        )
    return inputs, outputs


def graph_operations(model: keras.Model, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (path, operation) for what a graph and graphs nested in it call.

    That is layers, and operations such as the sum `x + y`.
    """
    for operation in compat.as_functional(model).operations:
        if isinstance(operation, PlacedBoundaries):
            continue
        yield prefix + operation.name, operation
        if is_graph(operation):
            yield from graph_operations(operation, prefix + operation.name + "/")


def named_operations(model: keras.Model) -> Iterator[tuple[str, Any]]:
    """Yields what `graph_operations` does, and the boundaries beside the graph."""
    yield from graph_operations(model)
    for boundary in unique(placed_boundaries(model).values()):
        yield boundary.name, boundary


def is_graph(layer: Any) -> bool:
    """Whether a layer is a model that runs its graph, and nothing of its own beside it."""
    runs_it = isinstance(layer, ModularTrainer) or compat.has_stock_call(layer)
    return compat.is_functional(layer) and runs_it


def _inline(
    call: Callable, nested: Any, inputs: Any, training: Any = None, mask: Any = None
) -> Any:
    """Calls the layers of a nested graph one by one."""

    def call_inner(layer, *args, **kwargs):
        # A nested model called with training=False keeps its layers so.
        if training is not None and takes_training(layer):
            kwargs["training"] = training
        return call(layer, *args, **kwargs)

    outputs = compat.run_graph(nested, tree.flatten(inputs), call_inner)
    flat = tree.flatten(outputs)
    return flat[0] if isinstance(outputs, list) and len(flat) == 1 else outputs


def _crossed(
    boundary: ModuleBoundary, layer: keras.layers.Layer, outputs: Any, model: keras.Model
) -> Any:
    """What a layer returns, after the boundary that follows the tensors that are used."""
    flat = tree.flatten(outputs)
    used = [0] if len(flat) == 1 else _used_outputs(layer, model)
    if len(used) == 1:
        flat[used[0]] = boundary(flat[used[0]])
    else:
        boundary.tensors = tuple(f"{boundary.module}:{place}" for place in used)
        crossed = boundary([flat[place] for place in used])
        for place, tensor in zip(used, crossed, strict=True):
            flat[place] = tensor
    return tree.pack_sequence_as(outputs, flat)


def _together(
    inserted: Mapping[int, ModuleBoundary], returned: dict[int, list], model: keras.Model
) -> list[Together]:
    """Boundaries that follow several layers, each with the tensors that it is to pass."""
    found: dict[int, Together] = {}
    names: dict[int, list[str]] = {}
    for key, boundary in inserted.items():
        if key not in returned:
            continue
        (layer, outputs), *more = returned[key]
        if more:
            raise ValueError(
                f"Boundary {boundary.module!r} is to pass several tensors, and layer "
                f"{layer.name!r} is called {len(more) + 1} times, so it is not known which "
                "belong together. Apply the layer once, to the stacked inputs."
            )
        flat = tree.flatten(outputs)
        used = [0] if len(flat) == 1 else _used_outputs(layer, model)
        tensors = found.setdefault(id(boundary), Together(boundary, [])).tensors
        tensors += [flat[place] for place in used]
        own = names.setdefault(id(boundary), [])
        several = [f"{layer.name}:{place}" for place in used]
        own += several if len(used) > 1 else [layer.name]
    for key, (boundary, tensors) in found.items():
        if len(boundary.tensors) != len(tensors):
            boundary.tensors = tuple(names[key])
    return list(found.values())


def _used_outputs(layer: keras.layers.Layer, model: keras.Model) -> list[int]:
    """Which of the tensors that a layer returns are used in a model."""
    for graph in (_flat(model, {}), Graph(compat.as_functional(model))):
        used = {
            place
            for call in graph.calls
            for place, tensor in enumerate(call.outputs)
            if call.operation is layer
            and (id(tensor) in graph.consumers or id(tensor) in graph.outputs)
        }
        if used:
            return sorted(used)
    return []


def flat_graph(model: keras.Model, shared: Shared | None = None) -> Graph:
    """The graph of a model with what graphs nested in it hold in their place.

    Args:
        model: A Functional model or built Sequential.
        shared: As in `modularize`. Defaults to `None`.
    """
    return _flat(model, placed_boundaries(model), shared)


def _flat(
    model: keras.Model,
    inserted: Mapping[int, ModuleBoundary],
    shared: Shared | None = None,
) -> Graph:
    inputs, outputs = rewire(model, inserted, keep=True, flatten=True, rename=False)
    return Graph(Tensors(tree.flatten(inputs), tree.flatten(outputs), model.name), shared)


def placed_boundaries(model: keras.Model) -> dict[int, ModuleBoundary]:
    """The boundaries beside a graph and graphs nested in it, by what each follows."""
    nested = [x for _, x in graph_operations(model) if is_graph(x)]
    found: dict[int, ModuleBoundary] = {}
    for graph in (model, *nested):
        holder = placed_in(graph)
        if holder is not None:
            operations = [operation for _, operation in graph_operations(graph)]
            found |= {id(operations[n]): b for n, b in holder.by_place().items()}
    return found


def holds_boundary(graph: Any, inserted: Mapping[int, ModuleBoundary]) -> bool:
    """Whether a nested graph holds a boundary, or a layer that one is to follow."""
    inner = [operation for _, operation in graph_operations(graph)]
    beside = [placed_in(x) for x in (graph, *inner) if is_graph(x)]
    in_it = [id(x) in inserted or isinstance(x, ModuleBoundary) for x in inner]
    return any(in_it) or any(holder is not None for holder in beside)

"""What `boundaries` means: what each boundary follows, and with what objective."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from numbers import Integral
from typing import Any, SupportsIndex

import keras

from keras_e2e.models.rewiring import flat_graph, named_operations
from keras_e2e.modules.boundary import ModuleBoundary
from keras_e2e.modules.call_costs import Balance, check_balance
from keras_e2e.modules.cut_points import balanced
from keras_e2e.modules.graph import LOOPS, in_loop
from keras_e2e.modules.ownership import Shared
from keras_e2e.objectives import Identifier
from keras_e2e.objectives.base import LocalObjective
from keras_e2e.utils import compat
from keras_e2e.utils.graphs import layer_name, sublayer_paths, unique
from keras_e2e.utils.validation import did_you_mean

DEFAULT_BALANCE: Balance = "memory"

Place = str | tuple[str, ...]
Boundaries = Sequence[Place] | Set[Place] | Mapping[Any, Identifier] | SupportsIndex | None


def new_boundaries(
    model: keras.Model,
    boundaries: Boundaries,
    objective: Identifier,
    balance: Balance = DEFAULT_BALANCE,
    shared: Shared | None = None,
) -> dict[int, ModuleBoundary]:
    """The boundaries to insert into a graph, by the `id` of what each follows.

    One that passes several tensors stands there by each layer or operation, in their order.

    Args:
        model: A Functional model or built Sequential.
        boundaries: As in `modularize`.
        objective: As in `modularize`.
        balance: As in `modularize`.
        shared: As in `modularize`.

    Raises:
        ValueError: As in `modularize`.
    """
    if boundaries is None and holds_boundary(model):
        return {}
    names = _names(model)
    if boundaries is None or _is_count(boundaries):
        graph = flat_graph(model, shared)
        count = None if boundaries is None else int(boundaries)  # type: ignore[arg-type]
        cuts = balanced(graph, count, balance)
        chosen = [([(names[id(x)], x) for x in cut], _copy(objective)) for cut in cuts]
    else:
        objectives = objectives_by_name(model, boundaries, objective)
        chosen = [
            ([(name, _find(model, name)) for name in _flat(place)], given)
            for place, given in objectives.items()
        ]
    marked = {x.module for _, x in named_operations(model) if isinstance(x, ModuleBoundary)}
    inserted: dict[int, ModuleBoundary] = {}
    for found, given in chosen:
        module = names[id(found[-1][1])]
        new = ModuleBoundary(given, name=layer_name(f"{module}_boundary"), module=module)
        if len(found) > 1:
            new.tensors = tuple(names[id(layer)] for _, layer in found)
        for name, layer in found:
            if id(layer) in inserted:
                first = inserted[id(layer)].module
                raise ValueError(
                    f"boundaries: {_kind(layer)} {layer.name!r} is named twice: by "
                    f"{name!r} in boundary {module!r}, too. Name it in {first!r} alone: "
                    "what is behind that boundary takes what it returns."
                )
            _refuse_bad_place(layer, names[id(layer)], marked)
            inserted[id(layer)] = new
    return inserted


def refuse_balance(boundaries: Boundaries, balance: Any) -> None:
    """Raises ValueError for what cannot be balanced, or not with these boundaries."""
    check_balance(balance)
    if balance != DEFAULT_BALANCE and not (boundaries is None or _is_count(boundaries)):
        raise ValueError(
            f"modularize: the boundaries are named, and balance={balance!r} is for a "
            "number of them, which are then chosen. Leave `balance` out."
        )


def objectives_in_code(
    model: keras.Model, boundaries: Any, objective: Identifier
) -> dict[str, Any]:
    """Boundaries that follow layers which code calls, as a dict from name to objective.

    Args:
        model: The model, for errors.
        boundaries: As in `objectives_by_name`.
        objective: As in `modularize`.

    Raises:
        ValueError: As `objectives_by_name`, and if a boundary is to pass several tensors.
    """
    found = objectives_by_name(model, boundaries, objective)
    several = next((place for place in found if not isinstance(place, str)), None)
    if several is not None:
        kind = "is cut inside of a layer" if compat.is_functional(model) else "is code"
        raise ValueError(
            f"boundaries: {several!r} is one boundary of several tensors, and "
            f"{model.name!r} {kind}, where layers are tapped one by one. Name them without "
            f"a tuple, boundaries={list(several)}, or apply one ModuleBoundary to a list "
            "of the tensors in a call."
        )
    return found


def objectives_by_name(
    model: keras.Model, boundaries: Any, objective: Identifier
) -> dict[Any, Any]:
    """Boundaries that are given by name, as a dict from name to objective.

    The names of one boundary that passes several tensors are a tuple.

    Args:
        model: The model, for errors.
        boundaries: As in `modularize`; None and a number only for a subclassed model,
            which has no graph to choose cut points in.
        objective: As in `modularize`.

    Raises:
        ValueError: If `boundaries` does not name layers, or names one several times.
    """
    if boundaries is None:
        _refuse_without_boundary(model)
        return {}
    if isinstance(boundaries, Mapping | Sequence | Set) and not boundaries:
        _refuse_empty(model, boundaries)
    if isinstance(boundaries, Mapping):
        return {_checked_place(place): given for place, given in boundaries.items()}
    if _is_count(boundaries):
        raise ValueError(
            f"boundaries={boundaries}: the subclassed model {model.name!r} has no graph "
            "to choose cut points in. Name its layers."
        )
    if isinstance(boundaries, str | bool) or not isinstance(boundaries, Iterable):
        raise ValueError(
            f"boundaries={boundaries!r}: expected a list of layer names, a dict from "
            "layer name to objective, or a number of cut points."
        )
    places = [_checked_place(place) for place in boundaries]
    for place in places:
        if places.count(place) > 1:
            raise ValueError(
                f"boundaries: layer {place!r} is named {places.count(place)} times. Name "
                "it once."
            )
    return {place: _copy(objective) for place in places}


def _checked_place(place: Any) -> Place:
    """What a boundary is to follow: a name, or a tuple of several."""
    names = list(place) if isinstance(place, tuple | list) else [place]
    for name in names:
        if not isinstance(name, str):
            raise ValueError(
                f"boundaries: expected layer names, strings, or tuples of them. Found: "
                f"{name!r}. Give layer.name, not the layer."
            )
        if names.count(name) > 1:
            raise ValueError(
                f"boundaries: {place!r} names layer {name!r} {names.count(name)} times. A "
                "boundary passes each tensor once: name it once."
            )
    if not names:
        raise ValueError(
            "boundaries: found an empty tuple. A tuple names the layers whose tensors one "
            "boundary passes; leave it out."
        )
    return names[0] if len(names) == 1 else tuple(names)


def _flat(place: Place) -> tuple[str, ...]:
    return (place,) if isinstance(place, str) else place


def holds_boundary(model: keras.Model) -> bool:
    """Whether there is a `ModuleBoundary` in the model, at any depth."""
    return any(isinstance(layer, ModuleBoundary) for layer in compat.all_layers(model))


def _is_count(boundaries: Any) -> bool:
    return isinstance(boundaries, Integral) and not isinstance(boundaries, bool)


def _copy(objective: Any) -> Any:
    """An objective as it was, without what was built of it."""
    if isinstance(objective, LocalObjective):
        return type(objective).from_config(objective.get_config())
    return objective


def _find(model: keras.Model, name: str) -> Any:
    """What has this name in a Functional model or in a model nested in it."""
    everything = list(named_operations(model))
    found = unique(x for path, x in everything if name in (path, x.name))
    if len(found) == 1:
        return found[0]
    if found:
        paths = [path for path, x in everything if x.name == name]
        raise ValueError(
            f"{_kind(found[0]).capitalize()} name {name!r} is ambiguous in "
            f"{model.name!r}: {paths}. Give the path."
        )
    for layer in compat.all_layers(model):
        if isinstance(layer, LOOPS) and name in [x.name for x in compat.all_layers(layer)]:
            raise in_loop(name, layer)
        if name in [x.name for x in compat.sublayers(layer)]:
            raise ValueError(
                f"Layer {name!r} is inside {layer.name!r} ({type(layer).__name__}), "
                "which is not a graph of layers. Set the boundary on "
                f"{layer.name!r}, or apply a ModuleBoundary in its call."
            )
    names = [x.name for _, x in everything if _kind(x) == "layer"]
    sums = [x.name for _, x in everything if _kind(x) == "operation"]
    also = f" Its operations: {sums}." if sums else ""
    inside = [f"{x.name}/{path}" for x in model.layers for path, _ in sublayer_paths(x)]
    near = did_you_mean(name, [*names, *sums, *inside])
    raise ValueError(
        f"Model {model.name!r} has no layer {name!r}.{near} Its layers: {names}.{also} "
        "Name one of them, or one inside of a layer by its path, 'layer/inner'."
    )


def _names(model: keras.Model) -> dict[int, str]:
    """The name of a boundary behind each layer and operation, by its `id`.

    That is the name of what it follows, or the path where others have that name.
    """
    paths: dict[int, tuple[str, Any]] = {}
    for path, operation in named_operations(model):
        paths.setdefault(id(operation), (path, operation))
    count = Counter(operation.name for _, operation in paths.values())
    return {
        key: operation.name if count[operation.name] == 1 else path
        for key, (path, operation) in paths.items()
    }


def _kind(operation: Any) -> str:
    return "layer" if isinstance(operation, keras.layers.Layer) else "operation"


def _refuse_bad_place(layer: Any, module: str, marked: set[str]) -> None:
    """Raises ValueError for a layer or operation that no new boundary may follow."""
    if isinstance(layer, keras.layers.InputLayer):
        raise ValueError(
            f"Layer {layer.name!r} is an input: no module would end there. Set the "
            "boundary on a later layer."
        )
    if isinstance(layer, ModuleBoundary):
        raise ValueError(
            f"Layer {layer.name!r} is a boundary already. Leave it out of `boundaries`."
        )
    if module in marked:
        raise ValueError(
            f"{_kind(layer).capitalize()} {layer.name!r} is followed by a boundary "
            "already. Leave it out of `boundaries`."
        )


def _refuse_empty(model: keras.Model, boundaries: Any) -> None:
    """Raises ValueError for a graph without boundaries where no layer is named."""
    # A subclassed model may make its boundaries when it is first called.
    if compat.is_functional(model) and not holds_boundary(model):
        raise ValueError(
            f"boundaries={boundaries!r}: name at least one layer, or leave it out to have "
            "up to three chosen."
        )


def _refuse_without_boundary(model: keras.Model) -> None:
    """Raises ValueError for a subclassed model without boundaries, and none named."""
    if holds_boundary(model):
        return
    names = [layer.name for layer in compat.all_layers(model)]
    late = (
        " (One that makes its layers in build() has them once it was called.)"
        if not model.built
        else ""
    )
    raise ValueError(
        f"{model.name!r} is a subclassed model: its call() is code, so there is no graph "
        "to choose boundaries in. Name the layers that end a module, modularize(model, "
        f"[...]), or apply ModuleBoundary layers in its call(). Its layers: {names}.{late}"
    )

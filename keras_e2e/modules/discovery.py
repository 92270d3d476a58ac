"""Finding the modules of a model that has no graph, by running it."""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops, tree

from keras_e2e.modules.boundary import Collector, ModuleBoundary, collecting
from keras_e2e.modules.graph import Module, on_input
from keras_e2e.utils import compat


class Findings(NamedTuple):
    """What a run of a subclassed model shows.

    Attributes:
        modules: the modules, in the order in which the run passed them.
        module_inputs: what each module was given, by module.
        activations: what each boundary was given, by module.
        outputs: the model's outputs.
    """

    modules: list[Module]
    module_inputs: dict[str, Any]
    activations: dict[str, Any]
    outputs: Any


class _Reads(keras.StatelessScope):
    """Notes in which module each variable is read; leaves every variable alone."""

    def __init__(self, collector: Collector):
        super().__init__()
        self.collector = collector
        self.places: dict[int, set[int]] = {}

    def get_current_value(self, ref):
        place = len(self.collector.crossings)
        self.places.setdefault(id(ref), set()).add(place)
        return super().get_current_value(ref)


class _Replay(Collector):
    """Feeds each module what it was given before, whatever the one before puts out."""

    def __init__(self, first: Collector):
        super().__init__(first.known)
        self.first = first

    def cross(self, boundary, activation):
        given = super().cross(boundary, activation)
        if id(boundary) not in self.known:
            return given
        return self.first.crossings[len(self.crossings) - 1].output


def examine(wrapper: Any, x: Any) -> Findings:
    """Runs a wrapped model and tells its modules apart.

    A variable belongs to the module that reads it. Whether a module also acts on others
    around a boundary is tested: with what every module is given held fixed, changing
    one module's variables may change only what that module puts out.

    Raises:
        ValueError: a boundary that is not crossed, or more than once, or stands on the
            output; a variable read by two modules; a bypass.
    """
    base = wrapper.base
    _run(base, x, training=False)  # builds what is not built
    boundaries = [
        layer
        for layer in [*compat.all_layers(base), *wrapper.inserted]
        if isinstance(layer, ModuleBoundary)
    ]
    if not boundaries:
        raise ValueError(
            f"{base.name!r} has no boundary. Name sublayers in "
            "modularize(model, boundaries), or apply ModuleBoundary layers in its call."
        )
    taken = [b.module for b in boundaries]
    for name in taken:
        if taken.count(name) > 1:
            raise ValueError(
                f"Two boundaries of {base.name!r} go by the name {name!r}. Give each "
                "ModuleBoundary a name of its own."
            )
    known = {id(b) for b in boundaries}
    collector = Collector(known)
    with collecting(collector), _Reads(collector) as reads:
        outputs = _run(base, x, training=True)
    crossed = [c.boundary for c in collector.crossings]
    for boundary in boundaries:
        times = crossed.count(boundary)
        if not times:
            raise ValueError(
                f"Boundary {boundary.module!r} is not crossed when {base.name!r} is "
                "called. Set it on a layer that the call uses each time."
            )
        if times != 1:
            raise ValueError(
                f"Boundary {boundary.module!r} is crossed {times} times in one call of "
                f"{base.name!r}; it must be crossed exactly once. A layer called more "
                "than once, or in a loop, cannot end a module: set the boundary after "
                "the loop."
            )
    for crossing in collector.crossings:
        if any(crossing.activation is t for t in tree.flatten(x)):
            raise on_input(crossing.boundary.module)
    last = collector.crossings[-1]
    if any(t is last.output for t in tree.flatten(outputs)):
        raise ValueError(
            f"Boundary {last.boundary.module!r} stands on the model's output: the "
            "module there ends in the task loss already. Set it on an earlier layer."
        )
    names = [b.module for b in crossed] + ["outputs"]
    owned = _owners(base, reads.places, names)
    _refuse_bypass(base, x, collector, owned, names)
    first = [_spec(t) for t in tree.flatten(x)]
    modules = []
    for place, name in enumerate(names):
        mine = {id(v) for v in owned[place]}
        layers = [
            layer
            for layer in compat.all_layers(base)
            if any(id(v) in mine for v in compat.own_variables(layer))
        ]
        modules.append(
            Module(
                name=name,
                boundary=crossed[place] if place < len(crossed) else None,
                layers=tuple(layers),
                inputs=(names[place - 1],) if place else (),
                model_inputs=() if place else tuple(range(len(first))),
                own_variables=tuple(owned[place]),
            )
        )
    specs = [_spec(c.output) for c in collector.crossings]
    entered: list[Any] = [first[0] if len(first) == 1 else first, *specs]
    return Findings(
        modules,
        dict(zip(names, entered, strict=True)),
        {c.boundary.module: c.activation for c in collector.crossings},
        outputs,
    )


def _owners(base: Any, places: dict[int, set[int]], names: list[str]) -> list[list]:
    owned: list[list] = [[] for _ in names]
    for variable in base.weights:
        read = sorted(places.get(id(variable), ()))
        if len(read) > 1:
            raise ValueError(
                f"Variable {variable.path!r} is shared by two modules, those that end "
                f"at {names[read[0]]!r} and at {names[read[1]]!r}: each would be "
                "trained by the other's loss. Move a boundary, or use two layers."
            )
        if read:
            owned[read[0]].append(variable)
    return owned


def _refuse_bypass(base, x, first, owned, names) -> None:
    reference = _ends(base, x, _Replay(first), [])
    for place, variables in enumerate(owned):
        floats = [
            v for v in variables if "float" in keras.backend.standardize_dtype(v.dtype)
        ]
        if not floats:
            continue
        changed = [(v, ops.add(ops.multiply(v.value, 1.5), 0.1)) for v in floats]
        ends = _ends(base, x, _Replay(first), changed)
        for other, (old, new) in enumerate(zip(reference, ends, strict=True)):
            if other != place and not np.array_equal(old, new, equal_nan=True):
                layers = [
                    layer.name
                    for layer in compat.all_layers(base)
                    if any(id(v) in map(id, floats) for v in compat.own_variables(layer))
                ]
                raise ValueError(
                    f"Boundary {names[min(place, other)]!r} is bypassed: the layers "
                    f"{layers} (module ending at {names[place]!r}) act on what comes "
                    f"out at {names[other]!r} around it, by a skip connection. In local "
                    "mode they would be trained by both modules. Set the boundary where "
                    "the paths have joined."
                )


def _ends(base, x, collector, changed) -> list[np.ndarray]:
    """What each module puts out, the last one's outputs as one flat array."""
    with collecting(collector), keras.StatelessScope(state_mapping=changed):
        outputs = _run(base, x, training=False)
    ends = [ops.convert_to_numpy(c.activation) for c in collector.crossings]
    flat = [ops.convert_to_numpy(t).ravel() for t in tree.flatten(outputs)]
    return [*ends, np.concatenate(flat)]


def _run(base: Any, x: Any, training: bool) -> Any:
    import inspect

    if "training" in inspect.signature(base.call).parameters:
        return base(x, training=training)
    return base(x)


def _spec(tensor: Any) -> keras.KerasTensor:
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return keras.KerasTensor((None, *tensor.shape[1:]), dtype=dtype)

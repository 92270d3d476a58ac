"""Finding the modules of a model that has no graph, by running it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops, tree

from keras_e2e.modules.boundary import ModuleBoundary
from keras_e2e.modules.forward_record import ForwardRecord
from keras_e2e.modules.gate import Gate
from keras_e2e.modules.graph import on_input
from keras_e2e.modules.module import Module, ModuleSpec
from keras_e2e.modules.ownership import Ownership, Shared
from keras_e2e.modules.seen_tensors import seen_among
from keras_e2e.modules.step_context import step_context
from keras_e2e.modules.training_mode import TrainingMode
from keras_e2e.utils import compat
from keras_e2e.utils.compat.reads import VariableReads
from keras_e2e.utils.graphs import takes_training


class Findings(NamedTuple):
    """What a run of a subclassed model shows.

    Attributes:
        specs: The modules with the shapes around them, in the order of the run.
        outputs: The model's outputs.
        shared: Dict from layers that several modules use to the one that owns them, as it
            was said.
        chosen: The same of layers of which nobody said it.
    """

    specs: list[ModuleSpec]
    outputs: Any
    shared: dict[str, str]
    chosen: dict[str, str]


class _Replay(Gate):
    """Gives each module what it was given before, whatever the one before returns."""

    def __init__(self, first: Gate):
        super().__init__(first.boundary_ids)
        self.first = first.record

    def cross(self, boundary, inputs):
        given = super().cross(boundary, inputs)
        if id(boundary) not in self.boundary_ids:
            return given
        first = self.first.crossings[len(self.record.crossings) - 1]
        return tree.pack_sequence_as(inputs, list(first.outputs))


def examine(
    base: Any,
    inserted: Sequence[ModuleBoundary],
    state: Any,
    x: Any,
    needs_boundary: bool = True,
    shared: Shared | None = None,
) -> Findings:
    """Runs a subclassed model and finds its modules.

    A variable belongs to the module that reads it; of several to the last one, unless
    another was named. Whether a module also acts on others around a boundary is tested:
    with what every module is given held fixed, changing one module's variables may change
    only what that module returns.

    Args:
        base: The subclassed model.
        inserted: The boundaries that follow its sublayers.
        state: The `ModularState` of the wrapper around it.
        x: A small batch of inputs.
        needs_boundary: Boolean, whether a model without any boundary is refused, rather
            than one module. Defaults to `True`.
        shared: The owners of what modules share, as in `modularize`. Defaults to `None`.

    Raises:
        ValueError: If a boundary is not crossed exactly once, or stands on an input or
            output, if `shared` does not fit, or if a path leads around a boundary.
    """
    run(base, x, training=False)  # builds what is not built
    boundaries = _boundaries(base, inserted, needs_boundary)
    gate = Gate({id(b) for b in boundaries})
    with step_context(state, gate=gate, mode=TrainingMode("end_to_end")):
        places: dict[int, set[int]] = {}
        with VariableReads(_noting(places, gate.record)):
            outputs = run(base, x, training=True)
        _refuse_bad_crossings(base, boundaries, gate.record, x, outputs)
        for crossing in gate.record.crossings:
            crossing.boundary.seen = seen_among(crossing.boundary, crossing.inputs)
        crossings = gate.record.crossings
        names = [c.boundary.module for c in crossings] + ["outputs"]
        owners = _owners(base, places, names, shared or {})
    owned, borrowed = _shares(base, places, names, owners)
    lent = {id(v) for variables in borrowed for v in variables}
    # What several modules use acts on several, as it should.
    alone = [[v for v in variables if id(v) not in lent] for variables in owned]
    _refuse_bypass(base, state, x, gate, alone, names)
    inputs = [spec_of(t) for t in tree.flatten(x)]
    specs = []
    for place, name in enumerate(names):
        module = Module(
            name=name,
            boundary=crossings[place].boundary if place < len(crossings) else None,
            layers=_layers_of(base, owned[place]),
            inputs=(names[place - 1],) if place else (),
            model_inputs=() if place else tuple(range(len(inputs))),
            own_variables=tuple(owned[place]),
            borrowed=tuple(borrowed[place]),
        )
        entered = [spec_of(t) for t in crossings[place - 1].outputs] if place else inputs
        given = entered[0] if len(entered) == 1 else entered
        if module.boundary is None:
            specs.append(ModuleSpec(module, given))
            continue
        leaving = tuple(spec_of(t) for t in crossings[place].inputs)
        activation = spec_of(crossings[place].activation)
        # Code shows no layers to come.
        specs.append(ModuleSpec(module, given, activation, leaving=leaving))
    return Findings(specs, outputs, owners.settled, owners.chosen)


def _noting(places: dict[int, set[int]], record: ForwardRecord) -> Callable[[Any], None]:
    """What notes in which module each variable is read."""
    return lambda variable: places.setdefault(id(variable), set()).add(
        len(record.crossings)
    )


def _boundaries(
    base: Any, inserted: Sequence[ModuleBoundary], needed: bool
) -> list[ModuleBoundary]:
    """All boundaries of a model, each of another name."""
    boundaries = [
        layer
        for layer in [*compat.all_layers(base), *inserted]
        if isinstance(layer, ModuleBoundary)
    ]
    if needed and not boundaries:
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
    return boundaries


def _refuse_bad_crossings(
    base: Any, boundaries: list, record: ForwardRecord, x: Any, outputs: Any
) -> None:
    """Raises ValueError unless each boundary is crossed once, between two modules."""
    crossed = [c.boundary for c in record.crossings]
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
    for crossing in record.crossings:
        if any(each is t for each in crossing.inputs for t in tree.flatten(x)):
            raise on_input(crossing.boundary.module)
    if not record.crossings:
        return
    last = record.crossings[-1]
    if any(t is each for each in last.outputs for t in tree.flatten(outputs)):
        raise ValueError(
            f"Boundary {last.boundary.module!r} stands on the model's output: the "
            "module there ends in the task loss already. Set it on an earlier layer."
        )


def _layers_of(base: Any, variables: list) -> tuple:
    """The sublayers that hold some of these variables themselves."""
    mine = {id(v) for v in variables}
    return tuple(
        layer
        for layer in compat.all_layers(base)
        if any(id(v) in mine for v in compat.own_variables(layer))
    )


def _owners(
    base: Any, places: dict[int, set[int]], names: list[str], shared: Shared
) -> Ownership:
    """The owners of the variables of a model, by the modules that read them."""
    owners = Ownership(names, shared)
    holders = [(layer, layer.weights) for layer in compat.all_layers(base)]
    for layer, variables in [*holders, (base, compat.own_variables(base))]:
        for variable in variables:
            for place in sorted(places.get(id(variable), ())):
                owners.add(layer, names[place], [variable])
    owners.settle()
    return owners


def _shares(
    base: Any, places: dict[int, set[int]], names: list[str], owners: Ownership
) -> tuple[list[list], list[list]]:
    """The variables of each module: those that it owns, and those that it borrows."""
    owned: list[list] = [[] for _ in names]
    borrowed: list[list] = [[] for _ in names]
    for variable in base.weights:
        for place in sorted(places.get(id(variable), ())):
            mine = owners.owner(variable) == names[place]
            (owned if mine else borrowed)[place].append(variable)
    return owned, borrowed


def _refuse_bypass(base, state, x, first, owned, names) -> None:
    reference = _ends(base, state, x, _Replay(first), [])
    for place, variables in enumerate(owned):
        floats = [
            v for v in variables if "float" in keras.backend.standardize_dtype(v.dtype)
        ]
        if not floats:
            continue
        changed = [(v, ops.add(ops.multiply(v.value, 1.5), 0.1)) for v in floats]
        ends = _ends(base, state, x, _Replay(first), changed)
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


def _ends(base, state, x, gate: Gate, changed) -> list[np.ndarray]:
    """Returns what each module returns, the last one's outputs as one flat array."""
    with (
        step_context(state, gate=gate, mode=TrainingMode("end_to_end")),
        keras.StatelessScope(state_mapping=changed),
    ):
        outputs = run(base, x, training=False)
    ends = [[*c.inputs] for c in gate.record.crossings] + [tree.flatten(outputs)]
    return [np.concatenate([ops.convert_to_numpy(t).ravel() for t in end]) for end in ends]


def run(base: Any, x: Any, training: bool) -> Any:
    """Calls a model, with `training` if it takes that."""
    return base(x, training=training) if takes_training(base) else base(x)


def spec_of(tensor: Any) -> keras.KerasTensor:
    """Shape and dtype of a tensor, with the size of the batch left open."""
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return keras.KerasTensor((None, *tensor.shape[1:]), dtype=dtype)

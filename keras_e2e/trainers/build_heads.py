"""Building the heads of the objectives, once the modules are known."""

from collections.abc import Sequence

import keras

from keras_e2e.modules.module import Module, ModuleSpec
from keras_e2e.objectives.base import ModelSpec, OutputSpec
from keras_e2e.utils.graphs import devices_of, on_device
from keras_e2e.utils.validation import check_reach_fits


def build_heads(
    specs: Sequence[ModuleSpec], inputs: list, outputs: Sequence[OutputSpec]
) -> None:
    """Builds each objective's head on its boundary's activation.

    Args:
        specs: The modules, in order, with the shapes around them.
        inputs: The model's inputs.
        outputs: The model's outputs.

    Raises:
        ValueError: If two boundaries share an objective or a variable of their heads, if
            an objective reaches over more modules than there are, or if its head does not
            fit.
    """
    modules = [spec.module for spec in specs]
    _refuse_ambiguous_labels(modules, [output.name for output in outputs])
    _refuse_shared([(m.name, id(m.objective)) for m in modules if m.objective], "objective")
    ends = {
        s.module.name: s.leaving if s.module.boundary else tuple(o.spec for o in outputs)
        for s in specs
    }
    devices = devices_of(modules)
    for index, spec in enumerate(specs):
        module, objective = spec.module, spec.module.objective
        if module.boundary is None or objective is None:
            continue
        check_reach_fits(objective.reach, len(modules), f"The objective of {module.name!r}")
        around = ModelSpec(
            spec.inputs,
            inputs,
            tuple(outputs),
            following=tuple(ends[m.name] for m in modules if module.name in m.inputs),
            index=index,
            num_modules=len(modules),
            following_blocks=spec.following_blocks,
            name=module.name,
            earlier=_upstream(module, specs),
        )
        try:
            with (
                keras.name_scope(module.boundary.name),
                on_device(devices.get(module.name)),
            ):
                objective.build_for(spec.activation, around)
        except ValueError as error:
            raise ValueError(
                f"The objective of boundary {module.name!r} cannot be built: "
                f"{error} (objective=None only marks the place.)"
            ) from error
    heads = [(m.name, id(v)) for m in modules for v in m.head_variables]
    _refuse_shared(heads, "head")


def _upstream(module: Module, specs: Sequence[ModuleSpec]) -> dict:
    """What the modules upstream return, by name, where a pass crosses them once."""
    names = set(module.inputs)
    found = {}
    for spec in reversed(specs):
        if spec.module.name in names:
            names |= set(spec.module.inputs)
            if spec.module.crossings == 1:
                found[spec.module.name] = spec.activation
    return dict(reversed(found.items()))


def _refuse_ambiguous_labels(modules: Sequence[Module], outputs: list[str]) -> None:
    """Raises ValueError where labels and targets would go by one key of `y`."""
    for module in modules:
        objective = module.objective
        if objective and objective.requires_labels and module.name in outputs:
            raise ValueError(
                f"Boundary {module.name!r} has the name of an output of the model, so "
                f"y[{module.name!r}] cannot be both the labels of its objective "
                f"{type(objective).__name__} and the targets of that output. Rename the "
                f"output (outputs {outputs}), or put the boundary between the layers "
                "yourself, under a name of its own: ModuleBoundary(objective, "
                f"name={module.name + '_labels'!r})."
            )


def _refuse_shared(owned: list[tuple[str, int]], what: str) -> None:
    owners: dict[int, str] = {}
    for name, key in owned:
        owner = owners.setdefault(key, name)
        if owner != name:
            raise ValueError(
                f"Boundaries {owner!r} and {name!r} share one {what}, so each would be "
                f"trained by the other's loss too. Give each {what} of its own."
            )

"""Building the heads of the objectives, once the modules are known."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_e2e.modules.graph import Module
from keras_e2e.objectives.base import ModelSpec, OutputSpec
from keras_e2e.utils.validation import check_reach_fits


def build_objectives(
    modules: Sequence[Module],
    module_inputs: Mapping[str, Any],
    inputs: list,
    outputs: Sequence[OutputSpec],
    activations: Mapping[str, Any],
    rests: Mapping[str, tuple],
) -> None:
    """Builds each objective's head on its boundary's activation.

    Args:
        modules: the modules, in order.
        module_inputs: what each module is given, by name.
        inputs: the model's inputs.
        outputs: the model's outputs.
        activations: what each boundary is given, by name.
        rests: the blocks behind each boundary, by name, where they are known.

    Raises:
        ValueError: an objective that two boundaries share, that reaches too far, or whose
            head does not fit; heads that share a variable.
    """
    _refuse_shared([(m.name, id(m.objective)) for m in modules if m.objective], "objective")
    ends = {
        m.name: [activations[m.name]] if m.boundary else [o.spec for o in outputs]
        for m in modules
    }
    for place, module in enumerate(modules):
        objective = module.objective
        if module.boundary is None or objective is None:
            continue
        check_reach_fits(objective.reach, len(modules), f"The objective of {module.name!r}")
        following = [m.name for m in modules if module.name in m.inputs]
        spec = ModelSpec(
            module_inputs[module.name],
            inputs,
            tuple(outputs),
            following=tuple(tuple(ends[name]) for name in following),
            index=place,
            num_modules=len(modules),
            following_blocks=rests.get(module.name, ()),
            name=module.name,
        )
        try:
            with keras.name_scope(module.boundary.name):
                objective.build_for(activations[module.name], spec)
        except ValueError as error:
            raise ValueError(
                f"The objective of boundary {module.name!r} cannot be built: "
                f"{error} (objective=None only marks the place.)"
            ) from error
    heads = [(m.name, id(v)) for m in modules for v in m.head_variables]
    _refuse_shared(heads, "head")


def _refuse_shared(owned: list[tuple[str, int]], what: str) -> None:
    owners: dict[int, str] = {}
    for name, key in owned:
        owner = owners.setdefault(key, name)
        if owner != name:
            raise ValueError(
                f"Boundaries {owner!r} and {name!r} share one {what}, so each would be "
                f"trained by the other's loss too. Give each {what} of its own."
            )

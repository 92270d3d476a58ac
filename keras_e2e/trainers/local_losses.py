"""The local losses of a step, from what its forward pass recorded."""

import contextlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

from keras import ops, tree

from keras_e2e.modules.forward_record import Crossing, ForwardRecord
from keras_e2e.modules.module import Module
from keras_e2e.objectives.base import Batch, LocalObjective, Output
from keras_e2e.trainers import targets
from keras_e2e.utils import compat


def build_outputs(
    model: Any, keys: list[str], y: Any, sample_weight: Any
) -> tuple[Output, ...]:
    """The outputs with their targets and compiled losses, for the objectives."""
    aliases = getattr(model, "output_names", None) or ()
    losses, factors = model.loss, compat.loss_weights(model)
    if len(keys) == 1:
        losses, factors = _only(losses), _only(factors)
    aligned = [
        targets.align_to_outputs(value, keys, aliases)
        for value in (y, sample_weight, losses, factors)
    ]
    return tuple(
        Output(key, target, weight, _weighted(loss, factor), loss)
        for key, target, weight, loss, factor in zip(keys, *aligned, strict=True)
    )


def compiled_outputs(model: Any) -> tuple[Output, ...]:
    """The outputs with their compiled losses, without targets; none until known."""
    keys = model._modular.keys()
    return build_outputs(model, keys, None, None) if keys else ()


@contextlib.contextmanager
def error_context(boundary: str) -> Iterator[None]:
    """Puts the boundary's name before a ValueError that an objective raises."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"Boundary {boundary!r}: {error}") from error


def missing(module: Module, y: Any, labels: Any) -> str | None:
    """Returns what an objective lacks: `"labels"`, `"targets"` or None."""
    objective = module.objective
    if objective is None:
        return None
    if objective.requires_labels and labels is None:
        return "labels"
    return "targets" if objective.requires_targets and y is None else None


def refuse_missing(module: Module, y: Any, labels: Any) -> None:
    """Raises ValueError where the labels or targets of an objective are not there."""
    absent = missing(module, y, labels)
    named = getattr(module.objective, "name", None)
    if absent == "labels":
        raise ValueError(
            f"Boundary {module.name!r}: its objective {named!r} needs "
            f"labels, in y under the key {module.name!r}, and y holds none. "
            f"Give y={{..., {module.name!r}: "
            "labels}, or use a mode in which this objective does not count."
        )
    if absent == "targets":
        raise ValueError(
            f"Boundary {module.name!r}: its objective {named!r} needs the "
            "model's targets, and no y was given. Give y, or use an objective "
            "without labels such as Reconstruction()."
        )


def is_left_unbuilt(state: Any, given: targets.StepTargets) -> bool:
    """Whether the compiled loss and metrics are not built now, for want of targets.

    On JAX, and under a strategy, Keras builds them before the first step by computing them
    as `evaluate` would. Without targets that fails; but a mode may do without a prediction,
    and where it does not, the step is refused with an error that names what is missing.
    """
    if given.y is not None or not compat.is_symbolic():
        return False
    refused = given.labels or any(
        missing(module, None, given.labels.get(module.name)) for module, _ in state.active()
    )
    return bool(refused) or state.stops_before_outputs()


def local_loss(
    module: Module,
    objective: LocalObjective,
    record: ForwardRecord,
    batch: Batch,
    extra_records: Mapping[Hashable, ForwardRecord],
) -> Any:
    """The loss of one module's objective, averaged over the crossings of its boundary.

    Args:
        module: The module.
        objective: Its objective.
        record: The `ForwardRecord` of this step.
        batch: The `Batch` that the objective is given; what belongs to this boundary is
            filled in here.
        extra_records: The `ForwardRecord`s of extra passes, by the keys of
            `extra_inputs`.

    Raises:
        ValueError: If the boundary was not crossed, or more than once with labels.
    """
    crossings = record.crossed(module.name)
    if not crossings:
        raise ValueError(
            f"Boundary {module.name!r} was not crossed in this step, so its local "
            "loss cannot be computed. Apply it in each call of the model."
        )
    if len(crossings) > 1 and objective.requires_labels:
        raise ValueError(
            f"Boundary {module.name!r} is crossed {len(crossings)} times in a step; "
            "labels under its name cannot be assigned to one of them. Apply the "
            "module once, to the stacked inputs."
        )
    entered = [
        tensor
        for crossing in record.crossings
        if crossing.boundary.module in module.inputs
        for tensor in _without_noise(crossing)
    ] or [tree.flatten(batch.x)[i] for i in module.model_inputs]
    batch = batch._replace(module_input=entered[0] if len(entered) == 1 else entered)
    if objective.requires_earlier:
        batch = batch._replace(earlier=_earlier(module, record))
    extra = {k: extra_records[k].activations(module.name) for k in objective.extra_inputs()}
    total = 0.0
    for place, crossing in enumerate(crossings):
        own = batch._replace(
            extra_activations={key: found[place] for key, found in extra.items()},
            predicted_gradient=crossing.predicted_gradient,
        )
        with error_context(module.name), objective.refusing_new_weights():
            total = total + objective.compute_loss(crossing.masked_activation(), own)
    return total / len(crossings) if len(crossings) > 1 else total


def _earlier(module: Module, record: ForwardRecord) -> dict:
    """What other modules have returned by now, by name."""
    others = (c for c in record.crossings if c.boundary.module != module.name)
    return {
        c.boundary.module: ops.stop_gradient(c.boundary.seen_of(_without_noise(c)))
        for c in others
    }


def _without_noise(crossing: Crossing) -> Sequence[Any]:
    """What a module is given, without the noise that its boundary adds."""
    if not crossing.boundary.noise:
        return crossing.outputs
    given = [ops.stop_gradient(tensor) for tensor in crossing.inputs]
    for tensor, output in zip(given, crossing.outputs, strict=True):
        compat.set_mask(tensor, compat.mask_of(output))
    return given


def _only(value: Any) -> Any:
    """The one entry of a container with one entry; anything else as it is."""
    flat = tree.flatten(value)
    return flat[0] if isinstance(value, (dict, list, tuple)) and len(flat) == 1 else value


def _weighted(loss: Any, factor: Any):
    """The compiled loss of one output, times its weight; None for no loss."""
    if loss is None:
        return None
    resolved = compat.resolve_loss(loss)

    def compiled(y_true, y_pred, sample_weight=None):
        value = resolved(y_true, y_pred, sample_weight)
        return value if factor is None else value * factor

    return compiled

"""The loss of one module, from what its boundary noted."""

import contextlib
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

from keras import ops, tree

from keras_e2e.modules.boundary import Collector, Crossing
from keras_e2e.modules.graph import Module
from keras_e2e.objectives.base import Batch, Output
from keras_e2e.trainers import targets as labels
from keras_e2e.utils import compat


def build_outputs(
    model: Any, keys: list[str], y: Any, sample_weight: Any
) -> tuple[Output, ...]:
    """The outputs with their targets and compiled losses, for the objectives."""
    aliases = getattr(model, "output_names", None) or ()
    losses, factors = model.loss, compat.loss_weights(model)
    if len(keys) == 1:
        losses, factors = _only(losses), _only(factors)
    targets = labels.align_to_outputs(y, keys, aliases)
    weights = labels.align_to_outputs(sample_weight, keys, aliases)
    losses = labels.align_to_outputs(losses, keys, aliases)
    factors = labels.align_to_outputs(factors, keys, aliases)
    return tuple(
        Output(key, target, weight, _weighted(loss, factor), loss)
        for key, target, weight, loss, factor in zip(
            keys, targets, weights, losses, factors, strict=True
        )
    )


@contextlib.contextmanager
def error_context(boundary: str) -> Iterator[None]:
    """Puts the boundary's name before a ValueError that an objective raises."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"Boundary {boundary!r}: {error}") from error


def missing(module: Module, y: Any, given: Any) -> str | None:
    """Which of `"labels"` and `"targets"` an objective requires and has not, or None."""
    objective = module.objective
    assert objective is not None, "a module without an objective has no local loss"
    if objective.requires_labels and given is None:
        return "labels"
    return "targets" if objective.requires_targets and y is None else None


def refuse_missing(module: Module, y: Any, given: Any) -> None:
    """Raises ValueError where the labels or targets of an objective are not there."""
    absent = missing(module, y, given)
    objective = module.objective
    assert objective is not None, "missing has seen to it"
    if absent == "labels":
        raise ValueError(
            f"Boundary {module.name!r}: its objective {objective.name!r} needs "
            f"labels, in y under the key {module.name!r}, and there are none. "
            f"Give y={{..., {module.name!r}: "
            "labels}, or use a mode in which this objective does not count."
        )
    if absent == "targets":
        raise ValueError(
            f"Boundary {module.name!r}: its objective {objective.name!r} needs the "
            "model's targets, and no y was given. Give y, or use an objective "
            "without labels such as Reconstruction()."
        )


def local_loss(
    module: Module,
    collector: Collector,
    flat_inputs: list,
    batch: Batch,
    views: Mapping[Hashable, Collector],
) -> Any:
    """The loss of one module's objective, averaged over the crossings of its boundary.

    Args:
        module: the module.
        collector: the crossings of this step.
        flat_inputs: the model's inputs as a flat list, in the order of the model's.
        batch: what the objective may look at; what is this boundary's is filled in here.
        views: the crossings of further passes.

    Raises:
        ValueError: the boundary was not crossed, or more than once with labels.
    """
    objective = module.objective
    assert objective is not None, "a module without an objective has no local loss"
    crossings = _of(module, collector)
    if not crossings:
        raise ValueError(
            f"Boundary {module.name!r} was not crossed in this step, so its local "
            "loss cannot be computed. A boundary must be crossed in each call."
        )
    if len(crossings) > 1 and objective.requires_labels:
        raise ValueError(
            f"Boundary {module.name!r} is crossed {len(crossings)} times in a step; "
            "labels under its name cannot tell the crossings apart. Apply the "
            "module once, to the stacked inputs."
        )
    entered = [
        _before_noise(c) for c in collector.crossings if c.boundary.module in module.inputs
    ] or [flat_inputs[i] for i in module.model_inputs]
    batch = batch._replace(module_input=entered[0] if len(entered) == 1 else entered)
    total = 0.0
    for place, crossing in enumerate(crossings):
        seen = {
            key: _activation(_of(module, views[key])[place])
            for key in objective.extra_inputs()
        }
        own = batch._replace(
            extra_activations=seen, predicted_gradient=crossing.predicted_gradient
        )
        with error_context(module.name):
            total = total + objective.compute_loss(_activation(crossing), own)
    return total / len(crossings) if len(crossings) > 1 else total


def activations(module: Module, collector: Collector) -> list:
    """What came in at each crossing of a module's boundary, with its mask."""
    return [_activation(crossing) for crossing in _of(module, collector)]


def _of(module: Module, collector: Collector) -> list[Crossing]:
    return [c for c in collector.crossings if c.boundary is module.boundary]


def _activation(crossing: Crossing) -> Any:
    # A layer's mask is noted on what it puts out, so behind the boundary.
    compat.set_mask(crossing.activation, compat.mask_of(crossing.output))
    return crossing.activation


def _before_noise(crossing: Crossing) -> Any:
    """What a module is given, without the noise that its boundary adds."""
    if not crossing.boundary.noise:
        return crossing.output
    given = ops.stop_gradient(crossing.activation)
    compat.set_mask(given, compat.mask_of(crossing.output))
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

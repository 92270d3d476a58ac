"""What an instrumented step shows the quantities of each module."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from keras import ops

from keras_e2e.diagnostics.quantity import ModuleView
from keras_e2e.modules.forward_record import Crossing
from keras_e2e.modules.module import Module

Gradients = Mapping[int, Any]


class Signals(NamedTuple):
    """Gradients of the loss with respect to tensors of the forward pass, as in `Seen`.

    Attributes:
        outputs: Gradients with respect to the model's outputs.
        entering: For each crossing, gradients with respect to what enters the boundary.
        leaving: For each crossing, gradients with respect to what leaves it.
    """

    outputs: list
    entering: list[list]
    leaving: list[list]


class Further(NamedTuple):
    """What extra passes found, by `id` of the variable; None where one was not made."""

    halves: Sequence[Gradients] = ()
    local: Gradients | None = None
    later: Gradients | None = None
    reference: tuple | None = None
    classes: Any = None


class Seen(NamedTuple):
    """What was seen in a step. Gradients are in float32, without a loss scale.

    Attributes:
        crossings: List with a `Crossing` for each time a boundary was crossed, in order.
        masks: List with the mask of the only tensor of each crossing, or None.
        signals: The `Signals`.
        local: Dict with the local losses by boundary, without weights; of several replicas
            this one's part of each, whose `total` is the loss of the whole batch.
        task: Scalar, the task loss, or this replica's part of it; None where it was not
            computed.
        before: Dict with the values from before the step of the variables that it may
            change, by `id`.
        after: Function that returns the value of a variable after the step.
        gradients: Dict with the gradients over all replicas, by `id` of the variable.
        further: What the extra passes found.
        num_examples: Scalar, how many examples the step saw, on all replicas.
        total: Function that sums a tensor over the replicas.
    """

    crossings: Sequence[Crossing]
    masks: Sequence[Any]
    signals: Signals
    local: Mapping[str, Any]
    task: Any
    before: Gradients
    after: Callable[[Any], Any]
    gradients: Gradients
    further: Further
    num_examples: Any
    total: Callable[[Any], Any]


def module_views(model: Any, seen: Seen) -> list[ModuleView]:
    """What a step shows of each module, in order.

    Args:
        model: The modular model.
        seen: What was `Seen` in the step.
    """
    return [_view(model._modular, module, seen) for module in model._modular.modules]


def _view(state: Any, module: Module, seen: Seen) -> ModuleView:
    ends = [i for i, c in enumerate(seen.crossings) if c.boundary is module.boundary]
    entered = [t for i in ends for t in seen.crossings[i].inputs]
    signal, sent_back = _signals(module, seen, ends, entered)
    own = state.trained_variables(module)

    def of(found: Gradients | None) -> Any:
        return None if found is None else [found.get(id(v)) for v in own]

    before, further = seen.before, seen.further
    return ModuleView(
        name=module.name,
        variables=[before[id(v)] for v in own if id(v) in before],
        gradients=of(seen.gradients),
        updates=[seen.after(v) - before[id(v)] if id(v) in before else None for v in own],
        loss=_loss_of(module, seen),
        activation=_joined([ops.cast(tensor, "float32") for tensor in entered]),
        signal=signal,
        input_signal=sent_back,
        total=seen.total,
        num_examples=seen.num_examples,
        halves=(of(further.halves[0]), of(further.halves[1])) if further.halves else None,
        local_gradients=of(further.local),
        later_gradients=of(further.later),
        prediction_losses=further.reference if module.boundary is None else None,
        classes=further.classes,
        shapes=[tuple(v.shape) for v in own],
        # Of a boundary that one tensor enters it is noted behind it.
        mask=seen.masks[ends[0]] if len(entered) == 1 else None,
    )


def _signals(module: Module, seen: Seen, ends: list[int], entered: list) -> tuple[Any, Any]:
    """The gradients at a module's outputs and at its inputs; None for none."""
    crossings, found = seen.crossings, seen.signals
    starts = [i for i, c in enumerate(crossings) if c.boundary.module in module.inputs]
    signals = [t for i in ends for t in found.entering[i]]
    if module.boundary is None:
        signals = found.outputs
    elif any(signal is not None for signal in signals):
        # Of several tensors that cross together, one may matter to no loss.
        signals = _filled(signals, entered)
    sent_back = [t for i in starts for t in found.leaving[i]]
    if all(signal is not None for signal in signals):
        # Where a signal comes in and none goes out, the module has swallowed it.
        left = [t for i in starts for t in crossings[i].outputs]
        sent_back = _filled(sent_back, left)
    return _joined(signals), _joined(sent_back)


def _loss_of(module: Module, seen: Seen) -> Any:
    """The local loss of a module; for the last one the task loss."""
    if module.boundary is None:
        return seen.task
    if module.objective is not None and module.objective.feedback_source:
        return None  # a signal of the objective's making adds 0: it has no loss
    return seen.local.get(module.name)


def _filled(gradients: list, tensors: list) -> list:
    """Gradients at some tensors, with zeros for those that there are not."""
    return [
        ops.zeros_like(tensor, dtype="float32") if gradient is None else gradient
        for gradient, tensor in zip(gradients, tensors, strict=True)
    ]


def _joined(tensors: list) -> Any:
    """Several tensors as one `(batch, features)` or as it is; None if one is absent."""
    if not tensors or any(t is None for t in tensors):
        return None
    if len(tensors) == 1:
        return tensors[0]
    # Outputs of several shapes, or several crossings: examples stay in the first axis.
    flat = [ops.reshape(t, (ops.shape(t)[0], -1)) for t in tensors]
    return ops.concatenate(flat, axis=1)

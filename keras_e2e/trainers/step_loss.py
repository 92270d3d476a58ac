"""The loss of a step: the compiled loss and the local losses of the training mode."""

from collections.abc import Callable
from typing import Any

from keras import ops

from keras_e2e.modules.forward_record import ForwardRecord
from keras_e2e.modules.step_context import StepContext, context_of, step_context
from keras_e2e.objectives.base import Batch
from keras_e2e.trainers.forward_pass import is_recorded
from keras_e2e.trainers.local_losses import (
    build_outputs,
    is_left_unbuilt,
    refuse_missing,
)
from keras_e2e.trainers.local_metrics import measured_modules, update_metrics
from keras_e2e.trainers.state import LocalModule
from keras_e2e.trainers.step_losses import StepLosses
from keras_e2e.trainers.targets import StepTargets


def step_loss(
    model: Any,
    task_loss: Callable[[StepTargets], Any],
    x: Any,
    given: StepTargets,
    y_pred: Any,
) -> Any:
    """The loss of a training step.

    Args:
        model: The modular model, after its forward pass.
        task_loss: Function that computes the compiled loss, with penalties.
        x: The inputs.
        given: The targets, as `StepTargets`.
        y_pred: The model's outputs; None where the mode makes no prediction.
    """
    state = model._modular
    _refuse_incomplete(state, given, state.active())
    with state.loss_logs.noted_task_loss(model, given.y, y_pred) as noted:
        task = task_loss(given)
    if not is_recorded(model):
        return task
    model._refuse_unknown_modules(f"training mode '{state.mode}'")
    losses = context_of(state).losses
    if losses is None or losses.summed:  # none were computed while the pass ran
        losses = StepLosses(model, _take_record(model), _batch(model, x, given), given)
        context_of(state).losses = losses
    total = losses.total(task)
    state.loss_logs.update(model, losses.local, noted, x)
    # Those that count have measured while they computed their loss.
    asked = measured_modules(state, training=True, testing=False)
    idle = [local for local in asked if not state.weight(local.module)]
    update_metrics(idle, losses.record, losses.batch, given.labels)
    return total


def losses_under_way(
    model: Any, context: StepContext, x: Any, record: ForwardRecord
) -> StepLosses:
    """The losses of a step whose forward pass is under way; `step_loss` goes on with them.

    Args:
        model: The modular model.
        context: The `StepContext` of the step.
        x: The inputs.
        record: What has crossed the boundaries so far.
    """
    if context.losses is None:
        given = model._split(*context.targets)
        context.losses = StepLosses(model, record, _batch(model, x, given), given)
    return context.losses


def refuse_incomplete_step(model: Any) -> None:
    """Raises ValueError for missing targets, before a step under way computes anything."""
    state = model._modular
    _refuse_incomplete(state, model._split(*context_of(state).targets), state.active())


def evaluation_loss(
    model: Any, task_loss: Callable[[StepTargets], Any], x: Any, given: StepTargets
) -> Any:
    """The loss of a step of `evaluate`: the compiled loss alone, with penalties.

    So it means the same in every mode. The metrics of the heads are updated.
    """
    state = model._modular
    _refuse_incomplete(state, given, [])
    if is_left_unbuilt(state, given):
        return None
    testing = context_of(state).testing
    with step_context(state, testing=True):  # also where a user calls `compute_loss`
        task = task_loss(given)
    measured = measured_modules(state, training=False, testing=testing)
    if measured:
        batch = _batch(model, x, given)._replace(sample_weight=None, training=False)
        update_metrics(measured, _take_record(model), batch, given.labels)
    return task


def _refuse_incomplete(state: Any, given: StepTargets, active: list[LocalModule]) -> None:
    """Raises ValueError for missing targets, before anything is computed.

    Keras's own error would not name the module.
    """
    if given.y is None and given.labels and not state.stops_before_outputs():
        raise ValueError(
            f"y holds labels for {sorted(given.labels)} but no targets for the model's "
            f"output {state.keys()}, whose loss counts in mode '{state.mode}'. Give "
            "them too, or train that module alone: 'sequential:NAME'."
        )
    for module, _ in active:
        refuse_missing(module, given.y, given.labels.get(module.name))


def sum_of_penalties(model: Any) -> Any:
    """The sum of the penalties of a pass that made no prediction; None without any."""
    penalties = [ops.sum(penalty) for penalty in model.losses]
    return sum(penalties[1:], penalties[0]) if penalties else None


def _batch(model: Any, x: Any, given: StepTargets) -> Batch:
    keys = model._modular.keys()
    outputs = build_outputs(model, keys, given.y, given.sample_weight)
    return Batch(model._in_order(x), outputs, None, given.single_weight(), None)


def _take_record(model: Any) -> ForwardRecord:
    record = context_of(model._modular).record
    if record is None:
        raise RuntimeError(
            f"{model.name}: compute_loss(training=True) adds the local losses of "
            "the latest call of the model with training=True in this thread, and "
            "there was none. Call the model first, in the same step."
        )
    return record

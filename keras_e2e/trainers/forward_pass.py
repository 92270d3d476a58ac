"""The forward passes of a modular model: recorded in training, plain elsewhere."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_e2e.modules.forward_record import ForwardRecord
from keras_e2e.modules.gate import Gate
from keras_e2e.modules.step_context import context_of, keep_record, step_context
from keras_e2e.modules.training_mode import TrainingMode
from keras_e2e.objectives.base import Batch, Output
from keras_e2e.trainers.local_losses import build_outputs, error_context
from keras_e2e.trainers.local_metrics import measured_modules
from keras_e2e.trainers.state import LocalModule


def forward(model: Any, inputs: Any, training: Any, mask: Any, **kwargs: Any) -> Any:
    """What a call of the model does. Its record is kept for the loss that follows."""
    state = model._modular
    context = context_of(state)
    if context.gate is not None:  # somebody else records this pass
        return model._plain_call(inputs, training, mask, **kwargs)
    if training and state.modules and is_recorded(model):
        gate = _training_gate(model)
        outputs = _run(model, inputs, mask, gate, **kwargs)
    elif not training and measured_modules(state, training=False, testing=context.testing):
        gate = Gate(state.boundary_ids)
        with step_context(state, gate=gate):
            outputs = model._plain_call(inputs, training, mask, **kwargs)
    else:
        return model._plain_call(inputs, training, mask, **kwargs)
    keep_record(state, gate.record)
    if training and context.after_pass is not None:
        context.after_pass()
    return outputs


def is_recorded(model: Any) -> bool:
    """Whether a training pass must record what crosses the boundaries."""
    state = model._modular
    if state.steps.measuring or state.mode.name != "end_to_end":
        return True
    return bool(measured_modules(state, training=True, testing=False))


def record_pass(
    model: Any, x: Any, training: bool, tap: Callable[[Any], Any] | None
) -> ForwardRecord:
    """A pass without side effects, and what crossed the boundaries in it."""
    state = model._modular
    gate = Gate(state.boundary_ids, tap=tap)
    # With values, or Keras finds none for its penalties of weights.
    values = [(v, v.value) for v in model.trainable_variables]
    with (
        keras.StatelessScope(values, collect_losses=True),
        step_context(state, gate=gate, mode=TrainingMode("end_to_end")),
    ):
        gate.record.outputs = model(x, training=training)
        gate.record.penalties = [ops.sum(penalty) for penalty in model.losses]
    return gate.record


def extra_records(model: Any, active: list[LocalModule], batch: Batch) -> dict:
    """The records of the extra passes that objectives ask for, each made once."""
    state = model._modular
    wanted: dict = {}
    for module, objective in active:
        for key, make_inputs in objective.extra_inputs().items():
            wanted.setdefault(key, (module.name, make_inputs))
    made = {}
    for key, (name, make_inputs) in wanted.items():
        gate = Gate(state.boundary_ids, state.flow().stopping)
        with error_context(name):
            inputs = make_inputs(batch)
        _run(model, inputs, None, gate)
        made[key] = gate.record
    return made


def _training_gate(model: Any) -> Gate:
    state = model._modular
    flow, context = state.flow(), context_of(state)
    return Gate(
        *(state.boundary_ids, flow.stopping, flow.routes, _outputs(model)),
        tap=context.tap,
        hold=context.hold,
        watch=context.watch,
    )


def _run(model: Any, inputs: Any, mask: Any, gate: Gate, **kwargs: Any) -> Any:
    """Runs the modules that train, and lets the gate record what crosses the boundaries."""
    state = model._modular
    with step_context(state, gate=gate):
        if state.mode.name == "sequential":
            outputs = model._sequential_call(inputs, state.mode.module, mask, **kwargs)
        else:
            outputs = model._plain_call(inputs, True, mask, **kwargs)
            outputs = gate.inject_output_feedback(state.modules[-1].name, outputs)
        return outputs if outputs is None else gate.watch_outputs(outputs)


def _outputs(model: Any) -> tuple[Output, ...]:
    """The targets of the step under way, where an objective predicts from them.

    None are known outside of a `train_step`.
    """
    state = model._modular
    if not any(o.feedback_source == "boundary" for _, o in state.with_objective()):
        return ()
    given = model._split(*context_of(state).targets)
    return build_outputs(model, state.keys(), given.y, given.sample_weight)

"""Metrics of the modules' own heads in `fit` and `evaluate`, besides the compiled ones."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras

from keras_e2e.modules.forward_record import ForwardRecord
from keras_e2e.modules.step_context import context_of
from keras_e2e.objectives.base import Batch
from keras_e2e.trainers.local_losses import is_left_unbuilt
from keras_e2e.trainers.state import LocalModule, ModularState
from keras_e2e.trainers.targets import StepTargets
from keras_e2e.utils import compat


def measured_modules(
    state: ModularState, training: bool, testing: bool
) -> list[LocalModule]:
    """The modules whose metrics were asked for and are updated in this step.

    Args:
        state: The model's `ModularState`.
        training: Boolean, whether the step trains.
        testing: Boolean, whether it is a step of `evaluate`. If both are false it is one
            of `predict`, which updates no metric.
    """
    asked = [local for local in state.with_objective() if local.objective.head_metrics()]
    if not training:
        return asked if testing else []
    if not asked or state.mode.name != "sequential":
        return asked
    inputs = {m.name: m.inputs for m in state.modules}
    pending = [str(state.mode.module)]
    crossed = set(pending)
    while pending:
        upstream = set(inputs[pending.pop()]) - crossed
        crossed |= upstream
        pending += upstream
    return [local for local in asked if local.module.name in crossed]


def update_metrics(
    measured: Iterable[LocalModule],
    record: ForwardRecord,
    batch: Batch,
    labels: Mapping[str, Any],
) -> None:
    """Updates the metrics of modules whose loss does not count in this step."""
    for module, objective in measured:
        own = batch._replace(labels=labels.get(module.name))
        for activation in record.activations(module.name):
            objective.measure(activation, own)


def metrics_of(modules: Iterable[LocalModule]) -> list[keras.metrics.Metric]:
    """The metrics that the objectives of modules were asked for."""
    return [metric for _, objective in modules for metric in objective.head_metrics()]


def step_metrics(
    model: Any,
    compiled_metrics: Callable[[StepTargets], dict],
    y_pred: Any,
    given: StepTargets,
) -> dict[str, Any]:
    """The logs of a step of `fit` or `evaluate`: all metrics that it updates.

    Args:
        model: The modular model, after its loss was computed.
        compiled_metrics: Function that updates the compiled metrics and returns the logs.
        y_pred: The model's outputs; None where the mode makes no prediction.
        given: The targets, as `StepTargets`.
    """
    state = model._modular
    if is_left_unbuilt(state, given):
        return {}
    testing = context_of(state).testing
    measured = measured_modules(state, training=not testing, testing=testing)
    current = {metric.name: metric.result() for metric in metrics_of(measured)}
    if y_pred is None and state.stops_before_outputs():
        # No prediction was made: report the loss only, not stale metrics.
        return {"loss": compat.loss_tracker(model).result(), **current}
    logs = compiled_metrics(given)
    stale = {metric.name for metric in metrics_of(state.with_objective())} - set(current)
    return {name: value for name, value in logs.items() if name not in stale}

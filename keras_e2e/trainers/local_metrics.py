"""Metrics of the modules' own heads in `fit` and `evaluate`, besides the compiled ones."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
from keras import ops

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
    """The logs of a step of `fit` or `evaluate`, with the same names in every mode.

    Args:
        model: The modular model, after its loss was computed.
        compiled_metrics: Function that updates the compiled metrics and returns the logs.
        y_pred: The model's outputs; None where the mode makes no prediction.
        given: The targets, as `StepTargets`.
    """
    state = model._modular
    if is_left_unbuilt(state, given):
        return {}
    if y_pred is not None or not state.stops_before_outputs():
        return compiled_metrics(given)
    if given.y is not None and state.predictions is not None:
        # Keras builds them, and so gives them their names, at the first prediction.
        compat.build_metrics(model, given.y, state.predictions)
    return model.get_metrics_result()


def current_results(model: Any, results: Callable[[], dict]) -> dict[str, Any]:
    """The results of all metrics: NaN if the step under way, or the latest, left one alone.

    They are in the logs all the same: who writes them down (`History`, `CSVLogger`) takes
    the names of the first epoch, or counts on as many numbers of each.

    Args:
        model: The modular model.
        results: Function that returns what Keras would.
    """
    state = model._modular
    if state.evaluates or context_of(state).testing or state.mode.name != "sequential":
        return results()
    updated = metrics_of(measured_modules(state, training=True, testing=False))
    if not state.stops_before_outputs():
        names = _names(metrics_of(state.with_objective()))
    elif all(getattr(metric, "built", True) for metric in model.metrics):
        names = _names(model.metrics) - {compat.loss_tracker(model).name}
    else:  # there are no targets, so their metrics have no names
        logged = [compat.loss_tracker(model), *updated]
        return {metric.name: metric.result() for metric in logged}
    undefined, nan = names - _names(updated), float("nan")
    return {
        name: ops.multiply(value, nan) if name in undefined else value
        for name, value in results().items()
    }


def _names(metrics: Iterable[keras.metrics.Metric]) -> set[str]:
    """The names under which the metrics are logged."""
    names: set[str] = set()
    for metric in metrics:
        result = metric.result()
        names |= {*result} if isinstance(result, dict) else {metric.name}
    return names

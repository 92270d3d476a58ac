"""Metrics of the modules' own heads in `fit` and `evaluate`, besides the compiled ones."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras

from keras_e2e.modules.forward_record import ForwardRecord
from keras_e2e.objectives.base import Batch
from keras_e2e.trainers.state import LocalModule, ModularState


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

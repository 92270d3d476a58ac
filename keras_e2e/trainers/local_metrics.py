"""Metrics of the modules' own heads in `fit` and `evaluate`, beside the compiled ones."""

from typing import Any

import keras

from keras_e2e.modules.graph import Module
from keras_e2e.objectives.base import Batch
from keras_e2e.trainers.local_losses import activations
from keras_e2e.utils import compat


class Measuring:
    """Mixin of modular models: the metrics that are reported."""

    _modular: Any
    _split: Any
    _take_forward: Any
    _forget_forward: Any

    @property
    def metrics(self):
        # Keras lists a metric of a layer inside of a layer more than once, and JAX's
        # trainer then gives its variables away twice.
        return list({id(metric): metric for metric in super().metrics}.values())

    def test_step(self, *args):
        # `predict` calls the model just so, and wants nothing of the heads.
        self._modular.local.testing = True
        try:
            return super().test_step(*args)
        finally:
            self._modular.local.testing = False
            self._forget_forward()

    def _testing(self) -> bool:
        return getattr(self._modular.local, "testing", False)

    def _measured(self, training: bool) -> list[Module]:
        """The modules whose metrics were asked for and are updated in this step."""
        state = self._modular
        asked = [m for m in state.modules if m.objective and m.objective.head_metrics()]
        if not training:
            return asked if self._testing() else []
        if not asked or state.mode.name != "sequential":
            return asked
        inputs = {m.name: m.inputs for m in state.modules}
        crossed, pending = {state.mode.module}, [state.mode.module]
        while pending:
            upstream = set(inputs[pending.pop()]) - crossed
            crossed |= upstream
            pending += upstream
        return [m for m in asked if m.name in crossed]

    def _collects(self) -> bool:
        return self._modular.collects() or bool(self._measured(training=True))

    def _measure(self, modules: list[Module], batch: Batch, given: dict) -> None:
        """Updates the metrics of modules whose loss does not count in this step."""
        for module in modules:
            assert module.objective is not None, "its metrics were asked for"
            own = batch._replace(labels=given.get(module.name))
            for activation in activations(module, self._take_forward()):
                module.objective.measure(activation, own)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        own_y, own_weight, _, _ = self._split(y, sample_weight)
        state = self._modular
        measured = self._measured(training=not self._testing())
        current = {metric.name: metric.result() for metric in _asked(measured)}
        if y_pred is None and state.stops_before_outputs():
            # No prediction was made: report the loss only, not stale metrics.
            return {"loss": compat.loss_tracker(self).result(), **current}
        logs = super().compute_metrics(x, own_y, y_pred, own_weight)
        stale = {metric.name for metric in _asked(state.modules)} - set(current)
        return {name: value for name, value in logs.items() if name not in stale}

    def get_metrics_result(self):
        """As in Keras, also before a metric has seen its first prediction."""
        if self._modular.stops_before_outputs() and not all(
            getattr(metric, "built", True) for metric in self.metrics
        ):
            return {"loss": compat.loss_tracker(self).result()}
        return super().get_metrics_result()


def _asked(modules: list[Module]) -> list[keras.metrics.Metric]:
    """The metrics that the objectives of modules were asked for."""
    return [metric for m in modules if m.objective for metric in m.objective.head_metrics()]

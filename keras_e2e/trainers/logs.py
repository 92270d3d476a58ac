"""What a modular model measures and logs: metrics in every mode, and each local loss."""

from typing import Any

from keras_e2e.modules.step_context import step_context
from keras_e2e.modules.training_mode import TrainingMode
from keras_e2e.trainers.compiled_names import refuse_boundary_names
from keras_e2e.trainers.local_metrics import current_results, step_metrics
from keras_e2e.trainers.state import ModularState
from keras_e2e.trainers.targets import StepTargets
from keras_e2e.utils.compat.logs import EpochLogs


class ModularLogs(EpochLogs):
    """The metrics and logs of modular models.

    Local losses are in the logs of epochs, which are read once, and in those of
    `train_on_batch`. They are not in the logs of the batches of `fit`: the progress bar
    would no longer fit into a line, and each of them would be read from the device.
    """

    _modular: ModularState

    @property
    def metrics(self):
        # Keras lists a metric of a layer inside of a layer more than once, and JAX's
        # trainer then gives its variables away twice.
        return list({id(metric): metric for metric in super().metrics}.values())

    @property
    def metrics_variables(self):
        tracker = self._modular.loss_logs.tracker
        own = [] if tracker is None else tracker.variables
        return [*super().metrics_variables, *own]

    def reset_metrics(self):
        super().reset_metrics()
        tracker = self._modular.loss_logs.tracker
        if tracker is not None:
            tracker.reset_state()

    def test_step(self, *args):
        with step_context(self._modular, testing=True):
            return super().test_step(*args)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        compiled = super().compute_metrics

        def compiled_metrics(given: StepTargets) -> dict:
            return compiled(x, given.y, y_pred, given.sample_weight)

        given = self._split(y, sample_weight)
        return step_metrics(self, compiled_metrics, y_pred, given)

    def get_metrics_result(self):
        return current_results(self, super().get_metrics_result)

    def make_test_function(self, force=False):
        refuse_boundary_names(self)
        self._modular.evaluates = True
        return super().make_test_function(force)

    def train_on_batch(self, x, *args, **kwargs):
        """As `keras.Model.train_on_batch`; a dict holds the local losses too."""
        logs = super().train_on_batch(x, *args, **kwargs)
        own = self._modular.loss_logs.averages() if isinstance(logs, dict) else {}
        return dict(sorted({**own, **logs}.items())) if own else logs

    def _epoch_logs(self, logs: dict[str, Any]) -> dict[str, Any]:
        if self._modular.evaluates:
            return logs
        own = self._modular.loss_logs.of_epoch(getattr(self, "history", None))
        return {**own, **logs}

    def _log_losses_of(self, mode: TrainingMode) -> None:
        """Logs what is logged in a mode, from the first epoch of this `fit` on."""
        self._modular.loss_logs.add(self._modular, mode)

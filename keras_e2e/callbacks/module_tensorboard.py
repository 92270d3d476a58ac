"""Writes the diagnostics of each module for TensorBoard while `fit` runs."""

import os
from collections.abc import Iterable
from typing import Any

from keras_e2e.callbacks.module_diagnostics import ModuleDiagnostics, QuantitySet
from keras_e2e.diagnostics import Quantity
from keras_e2e.modules.training_mode import TrainingMode

# Measurements from one verdict to the next; there is one at the end of an epoch, too.
VERDICT_EVERY = 10


class ModuleTensorBoard(ModuleDiagnostics):
    """Shows in TensorBoard whether each module gets a usable learning signal.

    Every `update_freq` steps one step also measures the quantities, the diagnostic numbers
    of each module (`keras_e2e.diagnostics`). They are written to the run
    `<log_dir>/modules` as `e2e_<quantity>/<NN>_<module>`, with formula and healthy range
    in the description; totals and the training mode to `e2e_summary/`; a text `e2e_mode`
    marks each switch of modes. The Custom Scalars dashboard has a chart over all modules
    for each quantity. The step is `optimizer.iterations` after the step that was measured.

    After each tenth measurement and at the end of each epoch each module is judged: the
    code of the verdict is written to `e2e_verdict/`, its confidence to
    `e2e_confidence/`, and all of them in words to the text `e2e_verdicts`.

    It measures at the same steps as `ModuleDiagnostics`, and like it has no side effects on
    training.

    Args:
        log_dir: String or path of the folder that TensorBoard reads.
        update_freq: Integer, the number of steps from one measurement to the next. The
            first step of all is measured. Defaults to 10.
        quantities: `"default"`, `"full"` (with those that are expensive), or a list of
            `Quantity` objects in place of the default ones. Verdicts need `gradient_snr`
            and `loss`; `[*e2e.diagnostics.default_quantities(), Mine()]` adds a quantity of
            your own. Defaults to `"default"`.
        expensive_update_freq: Integer, the number of steps from one measurement of the
            expensive quantities to the next, in place of their own schedules. Defaults
            to `None`: each keeps its schedule.

    Attributes:
        history: The measurements, as in `ModuleDiagnostics`.
        steps: List of the step of each measurement.
        modes: List of the `TrainingMode` of each measurement.

    Raises:
        ValueError, TypeError, RuntimeError: As `ModuleDiagnostics`.
        OSError: When training starts: If `log_dir` cannot be written.

    Example:

    >>> import keras, numpy as np, tempfile, keras_e2e as e2e
    >>> base = keras.Sequential([keras.Input((2,)), *map(keras.layers.Dense, (3, 1))])
    >>> model = e2e.modularize(base, 1)
    >>> model.compile("sgd", "mse")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     board = e2e.callbacks.ModuleTensorBoard(folder, update_freq=2)
    ...     logs = model.fit(
    ...         np.ones((12, 2)), np.ones(12), 4, verbose=0, callbacks=[board]
    ...     )
    >>> board.steps, [len(v) for v in board.history["grad_rms"].values()]
    ([1, 3], [2, 2])
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str],
        update_freq: int = 10,
        quantities: QuantitySet | Iterable[Quantity] = "default",
        expensive_update_freq: int | None = None,
    ):
        super().__init__(update_freq, quantities, expensive_update_freq)
        self.log_dir = self._path(log_dir=log_dir)
        self._run: Any = None  # a ModuleRun while `fit` runs
        self._mode: TrainingMode | None = None
        self._judged = 0

    def on_train_begin(self, logs=None):
        from keras_e2e.callbacks.module_run import ModuleRun  # loads TensorBoard

        super().on_train_begin(logs)
        step = self._iterations()
        run = ModuleRun(self.log_dir, step, self.module_names, self.quantities)
        self._close()  # after a fit that was interrupted
        self._run, self._mode, self._judged = run, None, 0
        run.parameters(step, [module.parameters for module in self.model.modules])

    def on_train_batch_begin(self, batch, logs=None):
        mode = self.model.training_mode
        if mode != self._mode:
            self.read_pending()  # measured in the mode before
            state = self.model._modular
            trained_by = [state.trained_by(module) for module in state.modules]
            self._run.mode(self._iterations(), mode, trained_by)
            self._mode = mode
        super().on_train_batch_begin(batch, logs)

    def on_measurement(self, step, measurements):
        """Writes the numbers, and now and then the verdicts."""
        self._run.measurements(step, measurements)
        if len(self.steps) >= self._judged + VERDICT_EVERY:
            self._judge(step)

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if len(self.steps) > self._judged:
            self._judge(self._iterations())
        self._run.flush()

    def on_train_end(self, logs=None):
        self._close()

    def _judge(self, step: int) -> None:
        self._judged = len(self.steps)
        self._run.verdicts(step, self.verdicts())

    def _close(self) -> None:
        if self._run is not None:
            self._run.close()
            self._run = None

"""Writes the diagnostics of each module for TensorBoard while `fit` runs."""

import os
from collections.abc import Iterable
from typing import Any

from keras_e2e.callbacks.module_diagnostics import ModuleDiagnostics
from keras_e2e.callbacks.quantity_sets import QuantitySet
from keras_e2e.diagnostics import Quantity
from keras_e2e.modules.training_mode import TrainingMode
from keras_e2e.trainers.saved_with_weights import State
from keras_e2e.utils.workers import is_chief

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
    training. Of several workers the chief alone writes.

    A model that is trained from its first step on gets a run of its own: where there is a
    run `modules`, as of an earlier trial of a hyperparameter search, the next is
    `modules_2`. Training that goes on (another `fit`, or after a crash) goes on in its run.
    If a write fails, on a full disk, say, it is named in a warning, and training goes on;
    writing is tried again each minute.

    Args:
        log_dir: String or path of the folder that TensorBoard reads.
        update_freq: Integer, the number of steps from one measurement to the next. The
            first step of all is measured. Defaults to 10.
        quantities: `"default"`, `"full"` (with those that are expensive), or a list of
            `Quantity` objects in place of the default ones. Verdicts need `loss` and are
            better with `skill`; `[*e2e.diagnostics.default_quantities(), Mine()]` adds a
            quantity of your own. Defaults to `"default"`.
        expensive_update_freq: Integer, the number of steps from one measurement of the
            expensive quantities to the next, in place of their own schedules. Defaults
            to `None`: each keeps its schedule.

    Attributes:
        history: The measurements, as in `ModuleDiagnostics`.
        steps: List of the step of each measurement.
        modes: List of the `TrainingMode` of each measurement.

    Raises:
        ValueError, TypeError: As `ModuleDiagnostics`.
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
        if not isinstance(log_dir, str | os.PathLike):
            raise TypeError(
                f"{self._who}: log_dir={log_dir!r}: expected the path of a folder, a "
                "string or a path object."
            )
        self.log_dir = os.fspath(log_dir)
        self._run: Any = None  # a ModuleRun while `fit` runs, of the chief
        self._folder: tuple[str, str] | None = None  # of the log_dir, that of the run
        self._mode: TrainingMode | None = None
        self._judged = 0

    def _prepare(self):
        super()._prepare()
        self._close()  # after a fit that was interrupted
        self._mode, self._judged = None, 0

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        if self._run is None and is_chief(self.model):
            self._open()  # by now other callbacks have restored what they restore

    def _open(self) -> None:
        """Begins a run, or goes on with one."""
        from keras_e2e.callbacks.module_run import (  # loads TensorBoard
            ModuleRun,
            run_folder,
        )

        step = self._iterations()
        if not step or self._folder is None or self._folder[0] != self.log_dir:
            self._folder = self.log_dir, run_folder(self.log_dir, step)
        self._run = ModuleRun(self._folder[1], step, self.module_names, self.quantities)
        parameters = [module.parameters for module in self.model.modules]
        self._run.parameters(step, parameters)

    def on_train_batch_begin(self, batch, logs=None):
        mode = self.model.training_mode
        if mode is not self._mode and mode != self._mode:
            self.read_pending()  # measured in the mode before
            state = self.model._modular
            trained_by = [state.trained_by(module) for module in state.modules]
            if self._run:
                self._run.mode(self._step(), mode, trained_by)
            self._mode = mode
        super().on_train_batch_begin(batch, logs)

    def on_measurement(self, step, measurements):
        """Writes the numbers, and now and then the verdicts."""
        if self._run:
            self._run.measurements(step, measurements)
        if len(self.steps) >= self._judged + VERDICT_EVERY:
            self._judge(step)

    def _step(self) -> int:
        """The optimizer's iteration; the latest measured where a loss scale skips all."""
        return max(self._iterations(), self.steps[-1] if self.steps else 0)

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if len(self.steps) > self._judged:
            self._judge(self._step())
        if self._run:
            self._run.flush()

    def on_train_end(self, logs=None):
        self._close()

    def get_state(self) -> State:
        """As in `ModuleDiagnostics`, with how many measurements were judged."""
        state = super().get_state()
        return state._replace(config={**state.config, "judged": self._judged})

    def set_state(self, state: State) -> None:
        """As in `ModuleDiagnostics`, with how many measurements were judged."""
        judged = int(state.config["judged"])
        super().set_state(state)
        self._judged = judged

    def _judge(self, step: int) -> None:
        self._judged = len(self.steps)
        if self._run:
            self._run.verdicts(step, self.verdicts())

    def _close(self) -> None:
        if self._run is not None:
            self._run.close()
            self._run = None

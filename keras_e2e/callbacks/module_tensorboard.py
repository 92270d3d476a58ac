"""Writes the diagnostics of each module for TensorBoard while `fit` runs."""

import os
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from tensorboard.plugins.custom_scalar import summary as custom_scalar

from keras_e2e import modes
from keras_e2e.diagnostics import Quantity, default_quantities
from keras_e2e.modes import TrainingMode
from keras_e2e.tensorboard import layout as charts
from keras_e2e.tensorboard.writer import Writer
from keras_e2e.training import ModularTraining


class ModuleTensorBoard(keras.callbacks.Callback):
    """Shows in TensorBoard whether each module gets a usable learning signal.

    Every `every` steps one step also computes the quantities. They go to the run
    `<log_dir>/modules` as `e2e_<quantity>/<NN>_<module>`, with formula and healthy
    range in the description; totals and the training mode to `e2e_summary/`; a text
    `e2e_mode` marks each switch. The Custom Scalars dashboard has a chart over all
    modules for each quantity. The step is `optimizer.iterations` after the reading.

    With `steps_per_execution=N` whole executions are instrumented, those in which a
    multiple of `every` falls, and the last of their N steps is written.

    Weights, logs and `val_` logs are what they are without it. Put it after
    `ModeSchedule` and other callbacks that set the mode when an epoch or batch begins.
    Several on one model must have equal quantities.

    Args:
        log_dir: where TensorBoard looks.
        every: steps from one reading to the next; the first step of all has one.
        quantities: the `Quantity` objects to compute; by default
            `diagnostics.default_quantities()`.

    Attributes:
        history: the readings, by quantity and module: a list as long as `steps`,
            NaN where a quantity did not apply. Starts anew with each `fit`.
        steps: the step of each reading.
        modes: the `TrainingMode` of each reading.

    Raises:
        ValueError: `every` is no positive integer, or there are no quantities or two
            of one name.
        TypeError: something else than `Quantity` objects is given. When training
            starts: the model is not modular.
        OSError: when training starts: `log_dir` cannot be written.
        RuntimeError: when training starts: the Keras backend has no diagnostics.

    Example:

    >>> import keras, numpy as np, tempfile, keras_e2e as e2e
    >>> base = keras.Sequential([keras.Input((2,)), *map(keras.layers.Dense, (3, 1))])
    >>> model = e2e.modularize(base, 1)
    >>> model.compile("sgd", "mse")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     board = e2e.callbacks.ModuleTensorBoard(folder, every=2)
    ...     logs = model.fit(
    ...         np.ones((12, 2)), np.ones(12), 4, verbose=0, callbacks=[board]
    ...     )
    >>> board.steps, [len(v) for v in board.history["grad_rms"].values()]
    ([1, 3], [2, 2])
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str],
        every: int = 10,
        quantities: Iterable[Quantity] | None = None,
    ):
        super().__init__()
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(
                f"ModuleTensorBoard(every={every!r}): expected a whole number of "
                "steps, 1 or larger."
            )
        self.log_dir = os.fspath(log_dir)
        self.every = every
        self.quantities = _checked(
            default_quantities() if quantities is None else list(quantities)
        )
        self.recorder: Any = None
        self.history: dict[str, dict[str, list[float]]] = {}
        self.steps: list[int] = []
        self.modes: list[TrainingMode] = []
        self._writer: Any = None
        self._mode: Any = None
        self._first_step = 0
        self._due = False

    def on_train_begin(self, logs=None):
        if not isinstance(self.model, ModularTraining):
            raise TypeError(
                f"ModuleTensorBoard needs a modular model; {self.model.name!r} is a "
                f"{type(self.model).__name__}. Use keras_e2e.modularize(model, ...)."
            )
        recorder = self.model.instrument(self.quantities)
        descriptions = charts.descriptions(recorder.module_names, self.quantities)
        writer = Writer(os.path.join(self.log_dir, "modules"), descriptions)
        self._close()  # after a fit that was interrupted
        self.recorder, self._writer = recorder, writer
        self._mode, self._due = None, False
        names = recorder.module_names
        self.history = {q.name: {name: [] for name in names} for q in self.quantities}
        self.steps, self.modes = [], []
        layout = charts.layout(names, self.quantities)
        writer.write(self._iterations(), custom_scalar.pb(layout))

    def on_epoch_begin(self, epoch, logs=None):
        if self.model._modular.recorder is not self.recorder:
            raise RuntimeError(
                f"{self.model.name!r} was instrumented with other quantities after this "
                "ModuleTensorBoard. Give one callback all of them."
            )
        self._first_step = self._iterations()

    def on_train_batch_begin(self, batch, logs=None):
        if self.model.training_mode != self._mode:
            self._mark_mode()
        self._due = self._is_due(batch)
        if self._due:
            self.model.request_diagnostics()

    def on_train_batch_end(self, batch, logs=None):
        if not self._due:
            return
        readings = self.recorder.read()
        step = self._iterations()
        self.steps.append(step)
        self.modes.append(self._mode)
        for name, kept in self.history.items():
            for module, values in kept.items():
                values.append(readings[name].get(module, float("nan")))
        self._writer.scalars(step, self._scalars(readings))

    def on_epoch_end(self, epoch, logs=None):
        self._writer.flush()

    def on_train_end(self, logs=None):
        self._close()

    def _iterations(self) -> int:
        return int(self.model.optimizer.iterations)

    def _is_due(self, batch: int) -> bool:
        """Whether a multiple of `every` falls in the execution that starts here.

        Counts batches from the step read when the epoch began: nothing to wait for.
        """
        steps = self.model.steps_per_execution
        in_epoch = (self.params or {}).get("steps")
        if in_epoch:
            steps = min(steps, in_epoch - batch)  # the last one may be shorter
        return -(self._first_step + batch) % self.every < steps

    def _mark_mode(self) -> None:
        """Notes a switch, with the old mode at the same step: a step function."""
        step, mode = self._iterations(), self.model.training_mode
        for each in (self._mode, mode):
            if each is not None:
                self._writer.scalars(step, [_mode_scalar(each)])
        text = f"Training mode **{mode}** from step {step} on."
        self._writer.text(step, charts.MODE_TEXT, text)
        self._mode = mode

    def _scalars(self, readings: dict[str, dict[str, float]]) -> list[tuple[str, float]]:
        scalars = [_mode_scalar(self._mode)]
        for quantity in self.quantities:
            for position, module in enumerate(self.recorder.module_names):
                if module in readings[quantity.name]:
                    tag = charts.module_tag(quantity.name, position, module)
                    scalars.append((tag, readings[quantity.name][module]))
            if quantity.healthy is not None:
                tags = charts.band_tags(quantity.name)
                scalars += zip(tags, quantity.healthy, strict=True)
        gains = readings.get("signal_gain")
        if gains:
            with np.errstate(over="ignore"):  # infinity is written as such
                product = np.prod(np.array([*gains.values()], "float32"))
            scalars.append((charts.SIGNAL_GAIN_PRODUCT, product))
        return scalars

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _mode_scalar(mode: TrainingMode) -> tuple[str, float]:
    return charts.MODE, modes.NAMES.index(mode.name)


def _checked(quantities: list[Quantity]) -> list[Quantity]:
    for quantity in quantities:
        if not isinstance(quantity, Quantity):
            raise TypeError(
                "ModuleTensorBoard: expected Quantity objects, such as "
                f"keras_e2e.diagnostics.GradRMS(); found {quantity!r}."
            )
    names = [quantity.name for quantity in quantities]
    if not names or len(set(names)) < len(names):
        raise ValueError(
            "ModuleTensorBoard: expected one or more quantities with different names; "
            f"found {names}."
        )
    return quantities

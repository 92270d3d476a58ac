"""Writes the diagnostics of each module for TensorBoard while `fit` runs."""

import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_e2e.callbacks.module_diagnostics import ModuleDiagnostics
from keras_e2e.diagnostics import Quantity, states
from keras_e2e.modules import training_mode
from keras_e2e.modules.training_mode import TrainingMode
from keras_e2e.visualization.tensorboard import tags as charts
from keras_e2e.visualization.tensorboard.run_data import TRAINED_BY

# Readings from one verdict to the next; there is one at the end of an epoch, too.
VERDICT_EVERY = 10


class ModuleTensorBoard(ModuleDiagnostics):
    """Shows in TensorBoard whether each module gets a usable learning signal.

    Every `every` steps one step also computes the quantities. They go to the run
    `<log_dir>/modules` as `e2e_<quantity>/<NN>_<module>`, with formula and healthy
    range in the description; totals and the training mode to `e2e_summary/`; a text
    `e2e_mode` marks each switch. The Custom Scalars dashboard has a chart over all
    modules for each quantity. The step is `optimizer.iterations` after the reading.

    Every tenth reading and at the end of each epoch each module is judged: the code of
    the verdict goes to `e2e_verdict/`, how sure it is to `e2e_confidence/`, and all of them in
    words to the text `e2e_verdicts`.

    When it reads, what it leaves alone and what it keeps is as in `ModuleDiagnostics`.

    Args:
        log_dir: where TensorBoard looks.
        every: steps from one reading to the next; the first step of all has one.
        quantities: `"default"`, `"full"`, or `Quantity` objects.
        periodic_every: steps from one reading of what is periodic to the next.

    Attributes:
        history: the readings, as in `ModuleDiagnostics`.
        steps: the step of each reading.
        modes: the `TrainingMode` of each reading.

    Raises:
        ValueError, TypeError, RuntimeError: as `ModuleDiagnostics`.
        OSError: when training starts: `log_dir` cannot be written.

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
        quantities: str | Iterable[Quantity] = "default",
        periodic_every: int = 200,
    ):
        super().__init__(every, quantities, periodic_every)
        self.log_dir = os.fspath(log_dir)
        self._writer: Any = None
        self._mode: Any = None
        self._judged = 0

    def on_train_begin(self, logs=None):
        # Here, so that `import keras_e2e` does not load TensorBoard.
        from keras_e2e.visualization.tensorboard import custom_scalars
        from keras_e2e.visualization.tensorboard.event_writer import Writer

        super().on_train_begin(logs)
        names = self.recorder.module_names
        descriptions = charts.descriptions(names, self.quantities)
        writer = Writer(os.path.join(self.log_dir, "modules"), descriptions)
        self._close()  # after a fit that was interrupted
        self._writer, self._mode, self._judged = writer, None, 0
        step = self._iterations()
        writer.write(step, custom_scalars.summary(names, self.quantities))
        sizes = [float(module.parameters) for module in self.model.modules]
        writer.scalars(step, self._by_module("parameters", sizes))

    def on_train_batch_begin(self, batch, logs=None):
        if self.model.training_mode != self._mode:
            self._mark_mode()
        super().on_train_batch_begin(batch, logs)

    def take(self, step, readings):
        self._writer.scalars(step, self._scalars(readings))
        if len(self.steps) >= self._judged + VERDICT_EVERY:
            self._judge(step)

    def on_epoch_end(self, epoch, logs=None):
        if len(self.steps) > self._judged:
            self._judge(self._iterations())
        self._writer.flush()

    def on_train_end(self, logs=None):
        self._close()

    def _mark_mode(self) -> None:
        """Notes a switch, with the old mode at the same step: a step function."""
        step, mode = self._iterations(), self.model.training_mode
        for each in (self._mode, mode):
            if each is not None:
                self._writer.scalars(step, [_mode_scalar(each)])
        state = self.model._modular
        taught = [TRAINED_BY.index(state.trained_by(module)) for module in state.modules]
        self._writer.scalars(step, self._by_module("trained_by", taught))
        text = f"Training mode **{mode}** from step {step} on."
        self._writer.text(step, charts.MODE_TEXT, text)
        self._mode = mode

    def _judge(self, step: int) -> None:
        found = self.verdicts()
        self._judged = len(self.steps)
        codes = [states.CODES[verdict.state] for verdict in found.values()]
        self._writer.scalars(
            step,
            [
                *self._by_module("verdict", codes),
                *self._by_module(
                    "confidence", [verdict.confidence for verdict in found.values()]
                ),
            ],
        )
        words = [f"* **{charts.plain(m)}**: {v.message}" for m, v in found.items()]
        self._writer.text(step, charts.VERDICTS_TEXT, "\n".join(words))

    def _by_module(self, group: str, values: Iterable[float]) -> list[tuple[str, float]]:
        names = self.recorder.module_names
        return [
            (charts.module_tag(group, position, name), value)
            for position, (name, value) in enumerate(zip(names, values, strict=True))
        ]

    def _scalars(self, readings: dict[str, dict[str, float]]) -> list[tuple[str, float]]:
        scalars = [_mode_scalar(self._mode)]
        for column in self.history:
            for position, module in enumerate(self.recorder.module_names):
                if module in readings[column]:
                    tag = charts.module_tag(column, position, module)
                    scalars.append((tag, readings[column][module]))
        for quantity in self.quantities:
            if quantity.healthy is not None and readings[quantity.name]:
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
    return charts.MODE, training_mode.NAMES.index(mode.name)

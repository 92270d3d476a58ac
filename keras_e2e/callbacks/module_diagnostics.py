"""Reads the diagnostics of each module while `fit` runs, and judges by them."""

from collections.abc import Iterable
from typing import Any

import keras

from keras_e2e.diagnostics import (
    Quantity,
    Verdict,
    default_quantities,
    full_quantities,
    judge,
)
from keras_e2e.modules.training_mode import TrainingMode
from keras_e2e.trainers.modular_trainer import ModularTrainer

SETS = {"default": default_quantities, "full": full_quantities}


class ModuleDiagnostics(keras.callbacks.Callback):
    """Keeps the diagnostics of each module while `fit` runs.

    Every `every` steps one step also computes the quantities; every `periodic_every`
    steps those that are dear, too (`Quantity.schedule`). With `steps_per_execution=N`
    whole executions are instrumented, those in which a multiple falls, and the last of
    their N steps is read.

    Weights, logs and `val_` logs are what they are without it. Put it after
    `TrainingModeScheduler` and other callbacks that set the mode when an epoch or batch begins.
    Several on one model must have equal quantities.

    Args:
        every: steps from one reading to the next; the first step of all has one.
        quantities: `"default"`, `"full"`, or `Quantity` objects.
        periodic_every: steps from one reading of what is periodic to the next; these
            steps have a reading in any case.

    Attributes:
        history: the readings, by name and module: a list as long as `steps`, NaN where
            there was none. Starts anew with each `fit`.
        steps: the step of each reading: `optimizer.iterations` after it.
        modes: the `TrainingMode` of each reading.

    Raises:
        ValueError: `every` or `periodic_every` is no positive integer, or there are no
            quantities, two of one name, or an unknown set.
        TypeError: something else than `Quantity` objects is given. When training
            starts: the model is not modular.
        RuntimeError: when training starts: the Keras backend has no diagnostics.

    Example:

    >>> import keras, numpy as np, keras_e2e as e2e
    >>> base = keras.Sequential([keras.Input((2,)), *map(keras.layers.Dense, (3, 1))])
    >>> model = e2e.modularize(base, 1)
    >>> model.compile("sgd", "mse")
    >>> readings = e2e.callbacks.ModuleDiagnostics(every=2)
    >>> logs = model.fit(np.ones((12, 2)), np.ones(12), 4, verbose=0, callbacks=[readings])
    >>> readings.steps, [verdict.state for verdict in readings.verdicts().values()]
    ([1, 3], ['unclear', 'unclear'])
    """

    def __init__(
        self,
        every: int = 10,
        quantities: str | Iterable[Quantity] = "default",
        periodic_every: int = 200,
    ):
        super().__init__()
        self._who = type(self).__name__
        for name, value in (("every", every), ("periodic_every", periodic_every)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"{self._who}({name}={value!r}): expected a whole number of steps, 1 "
                    "or larger."
                )
        self.every, self.periodic_every = every, periodic_every
        self.quantities = self._checked(quantities)
        self.recorder: Any = None
        self.history: dict[str, dict[str, list[float]]] = {}
        self.steps: list[int] = []
        self.modes: list[TrainingMode] = []
        self._first_step = 0
        self._due = False
        self._read_in: Any = None

    def on_train_begin(self, logs=None):
        if not isinstance(self.model, ModularTrainer):
            raise TypeError(
                f"{self._who} needs a modular model; {self.model.name!r} is a "
                f"{type(self.model).__name__}. Use keras_e2e.modularize(model, ...)."
            )
        self.recorder = self.model.instrument(self.quantities)
        self._due = False
        names = self.recorder.module_names
        columns = [name for q in self.quantities for name in q.columns]
        self.history = {column: {name: [] for name in names} for column in columns}
        self.steps, self.modes = [], []

    def on_epoch_begin(self, epoch, logs=None):
        self._first_step = self._iterations()

    def on_train_batch_begin(self, batch, logs=None):
        periodic = self._falls(batch, self.periodic_every)
        self._due = periodic or self._falls(batch, self.every)
        self._read_in = self.model.training_mode  # another callback may set the next one
        if self._due:
            self.model.request_diagnostics(
                [q.name for q in self.quantities if periodic or q.schedule is None]
            )

    def on_train_batch_end(self, batch, logs=None):
        if not self._due:
            return
        readings = self.model.read_diagnostics()
        self.steps.append(self._iterations())
        self.modes.append(self._read_in)
        for name, kept in self.history.items():
            for module, values in kept.items():
                values.append(readings[name].get(module, float("nan")))
        self.take(self.steps[-1], readings)

    def take(self, step: int, readings: dict[str, dict[str, float]]) -> None:
        """What a subclass does with a reading."""

    def verdicts(self) -> dict[str, Verdict]:
        """Judges each module by the readings so far (`diagnostics.judge`).

        The latest mode's readings count; the loss at the start is that of the first
        reading of all.
        """
        if not self.modes:
            return {}
        latest = self.modes[-1]
        since = len(self.modes)
        while since and self.modes[since - 1] == latest:
            since -= 1
        still = [m.name for m in self.model.modules if not m.variables]
        if latest.name == "sequential":
            still += [n for n in self.recorder.module_names if n != latest.module]
        return judge(self.history, since, still)

    def _iterations(self) -> int:
        return int(self.model.optimizer.iterations)

    def _falls(self, batch: int, every: int) -> bool:
        """Whether a multiple of `every` falls in the execution that starts here.

        Counts batches from the step read when the epoch began: nothing to wait for.
        """
        steps = self.model.steps_per_execution
        in_epoch = (self.params or {}).get("steps")
        if in_epoch:
            steps = min(steps, in_epoch - batch)  # the last one may be shorter
        return -(self._first_step + batch) % every < steps

    def _checked(self, quantities: str | Iterable[Quantity]) -> list[Quantity]:
        if isinstance(quantities, str):
            if quantities not in SETS:
                raise ValueError(
                    f"{self._who}(quantities={quantities!r}): expected one of "
                    f"{list(SETS)}, or Quantity objects."
                )
            return SETS[quantities]()
        given = list(quantities)
        for quantity in given:
            if not isinstance(quantity, Quantity):
                raise TypeError(
                    f"{self._who}: expected Quantity objects, such as "
                    f"keras_e2e.diagnostics.GradRMS(); found {quantity!r}."
                )
        names = [column for quantity in given for column in quantity.columns]
        if not names or len(set(names)) < len(names):
            raise ValueError(
                f"{self._who}: expected one or more quantities with different names; "
                f"found {names}."
            )
        return given

"""Measures the diagnostics of each module while `fit` runs, and judges by them."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import keras

from keras_e2e.callbacks.measurement_schedule import MeasurementSchedule
from keras_e2e.callbacks.measurement_state import pack, unpack
from keras_e2e.callbacks.places import places
from keras_e2e.callbacks.quantity_sets import QuantitySet, quantities_of
from keras_e2e.callbacks.steps import count_steps, next_epoch
from keras_e2e.diagnostics import Quantity, Verdict, judge
from keras_e2e.modules.training_mode import TrainingMode
from keras_e2e.trainers.modular_trainer import ModularTrainer
from keras_e2e.trainers.saved_with_weights import State
from keras_e2e.utils.validation import check_integer


class _Pending(NamedTuple):
    """What an execution measured, still on the device.

    Attributes:
        snapshot: Its numbers, not read yet.
        due: Names of the quantities that it was to measure.
        mode: The `TrainingMode` of the execution.
        after: The batch of the epoch that comes after it.
        execution: The number of the execution in this `fit`, from 1.
    """

    snapshot: Any
    due: list[str]
    mode: Any
    after: int
    execution: int


class ModuleDiagnostics(keras.callbacks.Callback):
    """Measures the diagnostics of each module while `fit` runs.

    A *quantity* is one diagnostic number of each module (`keras_e2e.diagnostics`). Every
    `update_freq` steps one step also computes the quantities; those that are expensive
    have a schedule of their own (`Quantity.schedule`), at whose steps the others are
    measured, too. With `steps_per_execution=N` whole executions are instrumented, those
    in which a multiple of `update_freq` falls, and the last of their N steps is measured.

    A step is an iteration of the optimizer. With gradient accumulation it is measured at
    the batch at which the weights change; the gradient is that of this batch. A batch that
    the optimizer skips, as `LossScaleOptimizer` does where gradients overflow, is no
    measurement: the next step is measured in its place. If gradients are not finite though
    the loss is not scaled up, they are measured as they are.

    The numbers are read from the device when the batch after the one that was measured has
    begun, so that training does not wait for them; at the latest when the epoch ends.

    Weights, logs and `val_` logs are the same as without this callback. Put it after
    `TrainingModeScheduler` and other callbacks that set the training mode when an epoch
    or batch begins.

    Args:
        update_freq: Integer, the number of steps from one measurement to the next.
            The first step of all is measured. Defaults to 10.
        quantities: `"default"`, `"full"` (with those that are expensive), or a list of
            `Quantity` objects in place of the default ones. Verdicts need `loss` and are
            better with `skill`; `[*e2e.diagnostics.default_quantities(), Mine()]` adds a
            quantity of your own. Defaults to `"default"`.
        expensive_update_freq: Integer, the number of steps from one measurement of the
            expensive quantities to the next, in place of their own schedules. Defaults
            to `None`: each keeps its schedule.

    Attributes:
        history: Dict from quantity to a dict from module to the list of its measurements,
            one for each entry of `steps`, NaN where there is none. Starts anew with each
            `fit`.
        steps: List of the step of each measurement: `optimizer.iterations` after it. They
            rise: where an optimizer counts no steps any more, each measurement counts one.
        modes: List of the `TrainingMode` of each measurement.

    Raises:
        ValueError: If a number of steps is not a positive integer, or there are no
            quantities, two of one name, or an unknown set.
        TypeError: If something else than `Quantity` objects is given. When training
            starts: If the model is not modular.

    Example:

    >>> import keras, numpy as np, keras_e2e as e2e
    >>> base = keras.Sequential([keras.Input((2,)), *map(keras.layers.Dense, (3, 1))])
    >>> model = e2e.modularize(base, 1)
    >>> model.compile("sgd", "mse")
    >>> watch = e2e.callbacks.ModuleDiagnostics(update_freq=2)
    >>> logs = model.fit(np.ones((12, 2)), np.ones(12), 4, verbose=0, callbacks=[watch])
    >>> watch.steps, [verdict.state for verdict in watch.verdicts().values()]
    ([1, 3], ['unclear', 'unclear'])
    """

    _schedule: MeasurementSchedule  # of the latest `fit`
    # As `self.model`. On JAX to ask for that gives the model its variables back: that
    # takes a while, so not in each batch.
    _trained: Any

    def __init__(
        self,
        update_freq: int = 10,
        quantities: QuantitySet | Iterable[Quantity] = "default",
        expensive_update_freq: int | None = None,
    ):
        super().__init__()
        self._who = type(self).__name__
        check_integer(f"{self._who}: update_freq", update_freq, 1)
        if expensive_update_freq is not None:
            check_integer(f"{self._who}: expensive_update_freq", expensive_update_freq, 1)
        self.update_freq = int(update_freq)
        self.expensive_update_freq = expensive_update_freq
        self.quantities = quantities_of(self._who, quantities)
        self.module_names: list[str] = []
        self.history: dict[str, dict[str, list[float]]] = {}
        self.steps: list[int] = []
        self.modes: list[TrainingMode] = []
        # The first measurement in the latest mode, and up to where it was looked for.
        self._since = self._looked_at = 0
        self._due: list[str] = []
        self._epoch = self._batch = 0
        self._executions = self._measured_execution = 0
        self._measured_in: Any = None
        self._pending: list[_Pending] = []

    @property
    def columns(self) -> list[str]:
        """The names of the numbers: those of the quantities, and their extra outputs."""
        return [column for quantity in self.quantities for column in quantity.columns]

    def on_train_begin(self, logs=None):
        self._prepare()
        self.model.instrument(self.quantities)
        self.model._modular.saved.register(self._who, self)

    def _prepare(self) -> None:
        """Checks the model and forgets the last `fit`; a subclass adds its own."""
        if not isinstance(self.model, ModularTrainer):
            raise TypeError(
                f"{self._who} needs a modular model; {self.model.name!r} is a "
                f"{type(self.model).__name__}. Use keras_e2e.modularize(model, ...)."
            )
        self._trained = self.model
        self.module_names = [module.name for module in self.model.modules]
        self._due, self._pending = [], []
        self._schedule = MeasurementSchedule(
            self.quantities, self.update_freq, self.expensive_update_freq
        )
        self._batch = self._executions = 0
        self.history = {
            column: {module: [] for module in self.module_names} for column in self.columns
        }
        self.steps, self.modes = [], []
        self._since = self._looked_at = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.read_pending()  # where a subclass does not when an epoch ends
        self.model._modular.saved.settle()
        self._epoch = epoch
        self._schedule.begin_epoch(self.model)

    def on_train_batch_begin(self, batch, logs=None):
        self._batch, self._executions = batch, self._executions + 1
        self._due = self._schedule.due_at(batch, self._steps_from(batch))
        if self._due:
            self._measured_in = self._trained.training_mode  # others may set the next
            self._trained.request_diagnostics(self._due)

    def on_train_batch_end(self, batch, logs=None):
        if self._pending:
            self.read_pending()  # of the batch before: this one is under way
        if self._due:
            self._keep(batch + 1)

    def _keep(self, after: int) -> None:
        """Keeps what the execution under way measured, to be read later."""
        if self._due:
            snapshot = self._trained._modular.recorder.snapshot()
            due, self._due = self._due, []
            self._pending.append(
                _Pending(snapshot, due, self._measured_in, after, self._executions)
            )

    def on_epoch_end(self, epoch, logs=None):
        """Reads what was measured; a subclass that overrides it calls it first."""
        self.read_pending()

    def on_train_end(self, logs=None):
        self.read_pending()

    def read_pending(self) -> None:
        """Takes in what was measured and is still on the device; waits for it."""
        while self._pending:
            self._take(self._pending.pop(0))

    def _take(self, pending: _Pending) -> None:
        snapshot = pending.snapshot
        self._schedule.correct(pending.after, snapshot.batches_now)
        if not snapshot.measured:
            self._schedule.missed.update(pending.due)
            return
        self._measured_execution = pending.execution
        found = snapshot.read()
        measurements = {
            column: found[column] if quantity.name in pending.due else {}
            for quantity in self.quantities
            for column in quantity.columns
        }
        step = self._schedule.step_after(snapshot.batches)
        self.steps.append(max(step, self.steps[-1] + 1) if self.steps else step)
        self.modes.append(pending.mode)
        for column, by_module in self.history.items():
            for module, values in by_module.items():
                values.append(measurements[column].get(module, float("nan")))
        self.on_measurement(self.steps[-1], measurements)

    def on_measurement(self, step: int, measurements: dict[str, dict[str, float]]) -> None:
        """Called with each measurement; a subclass overrides it.

        That is at the end of the batch after the one that was measured, or of the epoch.

        Args:
            step: Integer, `optimizer.iterations` after the step that was measured.
            measurements: Dict from quantity to a dict from module to number. There is no
                entry for a module that the quantity does not apply to, and none for any
                module where the quantity was not measured in this step.
        """

    def get_state(self) -> State:
        """The state that is saved with the weights while `fit` runs.

        Callbacks that save when a batch or an epoch ends may come before this one in the
        list: it does first what it does then. A subclass adds what it keeps.
        """
        done = self._batch + self._steps_from(self._batch)
        self._keep(done)
        self.read_pending()
        state = pack(self.history, self.steps, self.modes)
        config = {
            "mode": self.model.training_mode.get_config(),
            "missed": sorted(self._schedule.missed),
            "next_epoch": next_epoch(self, self._epoch, self._batch),
        }
        return state._replace(config={**state.config, **config})

    def set_state(self, state: State) -> None:
        """Takes up a state that was saved, when training resumes.

        Raises:
            ValueError: If it is of another model or other quantities.
        """
        mode = self.model.check_training_mode(state.config["mode"])
        missed = {str(name) for name in state.config["missed"]}
        self.history, self.steps, self.modes = unpack(state, self.history)
        self._since = self._looked_at = 0
        # Not by `model.training_mode`, which would begin the running averages anew.
        self.model._modular.mode = mode
        self._schedule.missed = missed

    def verdicts(self) -> dict[str, Verdict]:
        """Judges each module by the measurements so far (`diagnostics.judge`).

        The measurements in the latest mode count; the loss at the start is that of the
        first measurement of all.
        """
        self.read_pending()
        if not self.modes:
            return {}
        latest = self.modes[-1]
        for index in range(max(1, self._looked_at), len(self.modes)):
            if self.modes[index] != self.modes[index - 1]:
                self._since = index
        self._looked_at = len(self.modes)
        frozen = [m.name for m in self.model.modules if not m.variables]
        if latest.name == "sequential":
            frozen += [name for name in self.module_names if name != latest.module]
        return judge(self.history, self.steps, self._since, frozen, places(self.model))

    def _iterations(self) -> int:
        return count_steps(self.model)

    def _steps_from(self, batch: int) -> int:
        """The steps of the execution that starts here; the last one may be shorter."""
        steps = self._trained.steps_per_execution
        in_epoch = (self.params or {}).get("steps")
        return min(steps, in_epoch - batch) if in_epoch else steps

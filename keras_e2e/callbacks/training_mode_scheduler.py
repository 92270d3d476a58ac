"""Switches the training mode at given epochs or steps."""

import numbers
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import keras

from keras_e2e.callbacks.steps import StepCounter, count_batches, next_epoch
from keras_e2e.modules.training_mode import ModeName, TrainingMode
from keras_e2e.trainers.modular_trainer import ModularTrainer
from keras_e2e.trainers.saved_with_weights import SeedStates, State
from keras_e2e.utils.workers import is_chief, on_several_workers, told_by_all

Unit = Literal["epoch", "step"]
UNITS: tuple[str, ...] = get_args(Unit)
Mode = TrainingMode | ModeName
Schedule = Mapping[int, Mode] | Callable[[int], Mode | None]


class TrainingModeScheduler(keras.callbacks.Callback):
    """Switches the training mode at given epochs or steps.

    An entry is in force from its epoch (or step) on, also when training is resumed in
    the middle of the schedule (`initial_epoch`). Before the first entry the model's mode
    stays what it is. Steps count the optimizer's iterations, also where it accumulates the
    gradients of several batches or skips some; with `steps_per_execution=N` a switch
    happens when the next execution starts.

    A function in place of the entries is asked when each epoch (or step) begins. Of several
    workers the chief alone is asked, and all take its answer: it may depend on what each
    worker has another of, such as the time. Per step that costs an exchange in each.

    With `keras.callbacks.BackupAndRestore` a training that was killed goes on with the
    epoch that its weights are of, and with the states of the random generators.

    Put it before callbacks that look at the mode.

    Args:
        schedule: Dict from epoch (or step), an integer counted from 0, to training mode:
            a name, `"sequential:MODULE"` or a `TrainingMode`. Keys in ascending order. Or
            a function from epoch (or step) to training mode, or to None, which leaves the
            mode as it is.
        unit: `"epoch"` or `"step"`, what the keys of the schedule count. Defaults to
            `"epoch"`.

    Raises:
        ValueError: If the schedule is empty, a unit or mode is unknown, or a key is not
            an integer, negative or out of order. When training starts: If a mode does
            not fit the model. Nothing is changed then. When a function is asked: If its
            answer is no mode, or one that does not fit.
        TypeError: If the schedule is neither a dict nor a function. When training starts:
            If the model is not modular.

    Example: local first, then everything end to end.

    >>> import keras_e2e as e2e
    >>> schedule = e2e.callbacks.TrainingModeScheduler({0: "local", 10: "end_to_end"})
    >>> str(schedule.mode_at(12))
    'end_to_end'

    Every third epoch end to end:

    >>> schedule = e2e.callbacks.TrainingModeScheduler(
    ...     lambda epoch: "local" if epoch % 3 else "end_to_end")
    >>> [str(schedule.mode_at(epoch)) for epoch in (2, 3, 4)]
    ['local', 'end_to_end', 'local']
    """

    def __init__(self, schedule: Schedule, unit: Unit = "epoch"):
        super().__init__()
        if unit not in UNITS:
            raise ValueError(
                f"TrainingModeScheduler: unit={unit!r}: expected one of {list(UNITS)}."
            )
        self.unit = unit
        self.schedule: dict[int, TrainingMode] | Callable[[int], Any]
        self.schedule = schedule if callable(schedule) else _entries(schedule, unit)
        self._counter = StepCounter()
        self._latest: TrainingMode | None = None
        self._epoch = self._batch = 0

    def mode_at(self, when: int) -> TrainingMode | None:
        """The mode in force at an epoch (or step); None before the first entry.

        Args:
            when: Integer, the epoch or step, counted from 0.
        """
        if callable(self.schedule):
            mode = self.schedule(when)
            return None if mode is None else TrainingMode.get(mode)
        entries = [mode for key, mode in self.schedule.items() if key <= when]
        return entries[-1] if entries else None

    def on_train_begin(self, logs=None):
        if not isinstance(self.model, ModularTrainer):
            raise TypeError(
                f"TrainingModeScheduler needs a modular model; {self.model.name!r} is a "
                f"{type(self.model).__name__}. Use keras_e2e.modularize(model, ...)."
            )
        if not callable(self.schedule):
            modes = [*map(self.model.check_training_mode, self.schedule.values())]
            for mode in modes:
                self.model._log_losses_of(mode)
        # On JAX to ask for `self.model` takes a while: not in each batch.
        self._trained, self._batch = self.model, 0
        saved = self.model._modular.saved
        saved.register("TrainingModeScheduler", self, part=True)
        saved.register("seeds", SeedStates(self.model), part=True)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        if self.unit == "epoch":
            self._switch(self._decided(epoch))
        else:
            self._counter.begin_epoch(self.model)

    def on_train_batch_begin(self, batch, logs=None):
        self._batch = batch
        if self.unit == "step":
            self._switch(self._decided_in(batch))

    def _decided_in(self, batch: int) -> TrainingMode | None:
        """The mode of the step that a batch of this epoch belongs to."""
        step = self._counter.step_at(batch)
        mode = self._decided(step)
        if mode != self._latest:
            # The optimizer may have skipped batches: look before the mode is switched.
            self._counter.correct(batch, count_batches(self.model))
            if self._counter.step_at(batch) != step:
                mode = self._decided(self._counter.step_at(batch))
        return mode

    def _decided(self, when: int) -> TrainingMode | None:
        """The mode at an epoch or step, of a function's answers that of the chief."""
        if not callable(self.schedule) or not on_several_workers(self._trained):
            return self.mode_at(when)
        told = self.mode_at(when) if is_chief(self.model) else None
        config, *_ = told_by_all(
            self.model,
            "the answer of a TrainingModeScheduler's function",
            None if told is None else told.get_config(),
        )
        return None if config is None else TrainingMode.get(config)

    def _switch(self, mode: TrainingMode | None) -> None:
        self._latest = mode
        if mode is not None and mode != self._trained.training_mode:
            self.model.training_mode = mode

    # What must outlast a crash

    def get_state(self) -> State:
        """The epoch to go on with, saved with the weights of `BackupAndRestore`."""
        return State({"next_epoch": next_epoch(self, self._epoch, self._batch)})

    def set_state(self, state: State) -> None:
        """Nothing: the schedule says the mode of each epoch and step."""


def _entries(schedule: Any, unit: str) -> dict[int, TrainingMode]:
    """The schedule that a dict is; raises an error unless it is one."""
    if not isinstance(schedule, Mapping):
        raise TypeError(
            f"TrainingModeScheduler: schedule={schedule!r}: expected a dict from {unit} to "
            "training mode, such as {0: 'local', 10: 'end_to_end'}, or a function of the "
            f"{unit}."
        )
    if not schedule:
        raise ValueError(
            "TrainingModeScheduler({}): give at least one entry, such as {0: 'local'}."
        )
    _check_keys([*schedule], unit)
    return {int(key): TrainingMode.get(mode) for key, mode in schedule.items()}


def _check_keys(keys: list[Any], unit: str) -> None:
    """Raises ValueError unless they are integers that rise from 0 or later."""
    previous = -1
    for key in keys:
        if isinstance(key, bool) or not isinstance(key, numbers.Integral) or key < 0:
            raise ValueError(
                f"TrainingModeScheduler: {key!r} is not a valid {unit}; expected an "
                "integer of at least 0."
            )
        if key <= previous:
            raise ValueError(
                f"TrainingModeScheduler: {unit} {key} comes after {previous}. Put the "
                "entries in ascending order."
            )
        previous = int(key)

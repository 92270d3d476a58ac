"""Switches the training mode at given epochs or steps."""

import numbers
from collections.abc import Mapping
from typing import Any, Literal, get_args

import keras

from keras_e2e.callbacks.steps import StepCounter, count_batches
from keras_e2e.modules.training_mode import ModeName, TrainingMode
from keras_e2e.trainers.modular_trainer import ModularTrainer

Unit = Literal["epoch", "step"]
UNITS: tuple[str, ...] = get_args(Unit)


class TrainingModeScheduler(keras.callbacks.Callback):
    """Switches the training mode at given epochs or steps.

    An entry is in force from its epoch (or step) on, also when training is resumed in
    the middle of the schedule (`initial_epoch`). Before the first entry the model's mode
    stays what it is. Steps count the optimizer's iterations, also where it accumulates the
    gradients of several batches or skips some; with `steps_per_execution=N` a switch
    happens when the next execution starts.

    Put it before callbacks that look at the mode.

    Args:
        schedule: Dict from epoch (or step), an integer counted from 0, to training mode:
            a name, `"sequential:MODULE"` or a `TrainingMode`. Keys in ascending order.
        unit: `"epoch"` or `"step"`, what the keys of the schedule count. Defaults to
            `"epoch"`.

    Raises:
        ValueError: If the schedule is empty, a unit or mode is unknown, or a key is not
            an integer, negative or out of order. When training starts: If a mode does
            not fit the model. Nothing is changed then.
        TypeError: If the schedule is not a dict. When training starts: If the model is
            not modular.

    Example: local first, then everything end to end.

    >>> import keras_e2e as e2e
    >>> schedule = e2e.callbacks.TrainingModeScheduler({0: "local", 10: "end_to_end"})
    >>> str(schedule.mode_at(12))
    'end_to_end'
    """

    def __init__(
        self, schedule: Mapping[int, TrainingMode | ModeName], unit: Unit = "epoch"
    ):
        super().__init__()
        if unit not in UNITS:
            raise ValueError(
                f"TrainingModeScheduler: unit={unit!r}: expected one of {list(UNITS)}."
            )
        if not isinstance(schedule, Mapping):
            raise TypeError(
                f"TrainingModeScheduler: schedule={schedule!r}: expected a dict from "
                f"{unit} to training mode, such as {{0: 'local', 10: 'end_to_end'}}."
            )
        if not schedule:
            raise ValueError(
                "TrainingModeScheduler({}): give at least one entry, such as {0: 'local'}."
            )
        _check_keys([*schedule], unit)
        self.unit = unit
        self.schedule = {int(k): TrainingMode.get(mode) for k, mode in schedule.items()}
        self._counter = StepCounter()
        self._latest: TrainingMode | None = None

    def mode_at(self, when: int) -> TrainingMode | None:
        """The mode in force at an epoch (or step); None before the first entry.

        Args:
            when: Integer, the epoch or step, counted from 0.
        """
        entries = [mode for key, mode in self.schedule.items() if key <= when]
        return entries[-1] if entries else None

    def on_train_begin(self, logs=None):
        if not isinstance(self.model, ModularTrainer):
            raise TypeError(
                f"TrainingModeScheduler needs a modular model; {self.model.name!r} is a "
                f"{type(self.model).__name__}. Use keras_e2e.modularize(model, ...)."
            )
        modes = [self.model.check_training_mode(mode) for mode in self.schedule.values()]
        for mode in modes:
            self.model._log_losses_of(mode)

    def on_epoch_begin(self, epoch, logs=None):
        if self.unit == "epoch":
            self._switch(epoch)
        else:
            self._counter.begin_epoch(self.model)

    def on_train_batch_begin(self, batch, logs=None):
        if self.unit == "step":
            self._switch(self._step_at(batch))

    def _step_at(self, batch: int) -> int:
        """The step that a batch of this epoch belongs to."""
        step = self._counter.step_at(batch)
        if self.mode_at(step) != self._latest:
            # The optimizer may have skipped batches: look before the mode is switched.
            self._counter.correct(batch, count_batches(self.model))
            step = self._counter.step_at(batch)
        return step

    def _switch(self, when: int) -> None:
        mode = self._latest = self.mode_at(when)
        if mode is not None:
            self.model.training_mode = mode


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

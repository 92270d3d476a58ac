"""Which step training is at: an iteration of the optimizer, of one batch or more."""

import math
from typing import Any

import keras
import numpy as np

from keras_e2e.optimizers.module_optimizers import ModuleOptimizers
from keras_e2e.utils import compat


def count_steps(model: keras.Model) -> int:
    """The optimizer's iterations, under any strategy and on any backend.

    `int(optimizer.iterations)` fails where a strategy mirrors the variable.
    """
    return int(np.asarray(model.optimizer.iterations))


def batches_per_step(model: keras.Model) -> int:
    """How many batches a step takes: more than one where gradients are accumulated."""
    inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if isinstance(inner, ModuleOptimizers):
        return int(inner.batches_per_step)
    return inner.gradient_accumulation_steps or 1


def next_epoch(callback: keras.callbacks.Callback, epoch: int, batch: int) -> int | None:
    """The epoch that training goes on with after an execution; None if it is not known.

    Args:
        callback: One that `fit` has begun with.
        epoch: Integer, the epoch of the execution.
        batch: Integer, the batch that the execution begins with.
    """
    in_epoch = (callback.params or {}).get("steps")
    if in_epoch is None:
        return None
    return epoch + (batch + callback.model.steps_per_execution >= in_epoch)


class StepCounter:
    """Counts the steps of a `fit` on the host, so that nothing has to wait for the device.

    With gradient accumulation a step takes several batches. Batches that the optimizer
    skips (`LossScaleOptimizer`, where gradients overflow) count, until `correct` says how
    many it took.
    """

    def __init__(self) -> None:
        self._first, self._per_step, self._per_update = 0, 1, 1

    def begin_epoch(self, model: Any) -> None:
        """Takes the count from the optimizer."""
        inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        self._per_step = self._per_update = batches_per_step(model)
        if isinstance(inner, ModuleOptimizers):
            self._per_update = _batches_per_update(inner, model)
        self.correct(0, count_batches(model))

    def correct(self, batch: int, taken: int) -> None:
        """Notes how many batches the optimizer had taken before a batch of the epoch."""
        self._first = taken - batch

    def step_at(self, batch: int) -> int:
        """The step, counted from 0, that a batch of the epoch belongs to."""
        return (self._first + batch) // self._per_step

    def step_after(self, batches_taken: int) -> int:
        """The optimizer's iterations after so many batches."""
        return batches_taken // self._per_step

    def ends_in(self, batch: int, num_batches: int, every: int = 1) -> bool:
        """Whether a step that is a multiple of `every` ends in one of these batches.

        Where the optimizers of single modules accumulate for longer than the default, only
        steps count in which every module is updated.

        Args:
            batch: Integer, the first of the batches, counted from the epoch's first.
            num_batches: Integer, how many there are.
            every: Integer. Defaults to 1: any step.
        """
        return self.batches_before(batch, every) < num_batches

    def batches_before(self, batch: int, every: int = 1) -> int:
        """How many batches there are before the next in which such a step ends.

        Args:
            batch: As in `ends_in`.
            every: As in `ends_in`.
        """
        period = math.lcm(self._per_update, self._per_step * every)
        return (self._per_update - 1 - self._first - batch) % period


def count_batches(model: Any) -> int:
    """How many batches the optimizer has taken, those of an unfinished step included."""
    return int(np.asarray(compat.batches_taken(model.optimizer)))


def _batches_per_update(optimizer: ModuleOptimizers, model: Any) -> int:
    """After how many batches every module has been updated, and the default's too."""
    if not optimizer.built:  # the modules are not known yet
        return optimizer.batches_per_step
    own = [optimizer.optimizer_of(module.name) for module in model.modules]
    sizes = [each.gradient_accumulation_steps or 1 for each in own]
    return math.lcm(optimizer.batches_per_step, *sizes)

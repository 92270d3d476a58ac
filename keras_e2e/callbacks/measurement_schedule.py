"""Which quantities are due in which batches."""

from collections.abc import Sequence
from typing import Any

from keras_e2e.callbacks.steps import StepCounter
from keras_e2e.diagnostics import Quantity


class MeasurementSchedule:
    """Says at each execution what is to be measured.

    It looks ahead, for in most of the batches nothing is due, and they must cost nothing.

    Args:
        quantities: List of the `Quantity` objects.
        update_freq: Integer, the number of steps from one measurement to the next.
        expensive_update_freq: Integer, the same for those that have a schedule of their
            own, or None: each keeps its schedule.

    Attributes:
        missed: Set of the names of those that were due where nothing could be measured.
    """

    def __init__(
        self,
        quantities: Sequence[Quantity],
        update_freq: int,
        expensive_update_freq: int | None,
    ):
        self.missed: set[str] = set()
        self._counter = StepCounter()
        self._order = [quantity.name for quantity in quantities]
        self._always = [q.name for q in quantities if q.schedule is None]
        self._every = {
            quantity.name: expensive_update_freq or quantity.schedule
            for quantity in quantities
            if quantity.schedule is not None
        }
        self._update_freq = update_freq
        self._nothing_before = 0  # up to this batch nothing is due

    def begin_epoch(self, model: Any) -> None:
        """Takes the count of the steps from the optimizer."""
        self._counter.begin_epoch(model)
        self._nothing_before = 0

    def correct(self, batch: int, taken: int) -> None:
        """Notes how many batches the optimizer had taken before a batch of the epoch."""
        self._counter.correct(batch, taken)
        self._nothing_before = 0

    def step_after(self, batches_taken: int) -> int:
        """The optimizer's iterations after so many batches."""
        return self._counter.step_after(batches_taken)

    def due_at(self, batch: int, num_batches: int) -> list[str]:
        """The names of the quantities that an execution is to measure.

        Args:
            batch: Integer, its first batch, counted from the epoch's first.
            num_batches: Integer, how many it has.
        """
        if batch + num_batches <= self._nothing_before and not self.missed:
            return []
        periods = {self._update_freq, *self._every.values()}
        before = {every: self._counter.batches_before(batch, every) for every in periods}
        self._nothing_before = batch + min(before.values())
        due = [name for name, every in self._every.items() if before[every] < num_batches]
        if due or before[self._update_freq] < num_batches:
            due += self._always
        if self.missed and self._counter.ends_in(batch, num_batches):
            due = [name for name in self._order if name in {*due, *self.missed}]
            self.missed.clear()
        return due

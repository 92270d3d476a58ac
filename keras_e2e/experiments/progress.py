"""A progress bar that is a line now and then where there is no terminal to draw it in."""

import time
from typing import Any

from rich.progress import Progress, TaskID

# Seconds from one line to the next.
BETWEEN_LINES = 15.0


class BarOrLines(Progress):
    """As `rich.progress.Progress`; elsewhere than in a terminal it prints lines.

    Args:
        *columns: As in `Progress`.
        **options: As in `Progress`.
    """

    def __init__(self, *columns: Any, **options: Any):
        super().__init__(*columns, **options)
        self._said = time.monotonic()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        task = self.tasks[self.task_ids.index(task_id)]
        since = time.monotonic() - self._said
        if self.console.is_terminal or since < BETWEEN_LINES or task.finished:
            return  # the last state is printed anyway
        self.console.print(
            f"{task.description}: {task.completed:.0f} of {task.total or 0:.0f} after "
            f"{task.elapsed or 0:.0f} s",
            highlight=False,
            markup=False,
        )
        self._said = time.monotonic()

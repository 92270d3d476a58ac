"""What `ModuleTensorBoard` writes: one TensorBoard run on the modules of a model.

Loads TensorBoard, so it is imported where a `ModuleTensorBoard` starts, not before.
"""

import functools
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from keras_e2e.diagnostics import Quantity, Verdict, states
from keras_e2e.modules import training_mode
from keras_e2e.modules.training_mode import TRAINED_BY, TrainingMode
from keras_e2e.visualization.tensorboard import custom_scalars, event_writer, tags

# So many measurements and modes are written at once: one by one, between steps, each write
# would find nothing of what it takes in the processor's caches, and take ten times as long.
AT_ONCE = 10


class ModuleRun:
    """Writes measurements, modes and verdicts of the modules under their tags.

    Measurements and modes wait until there are ten of them, or half a minute is over: until
    then readers would not see them in any case. They have the time at which they came.

    Args:
        folder: String, the folder of the run (`run_folder`).
        step: Integer, the step at which writing begins.
        module_names: The modules, in order.
        quantities: The quantities that are written.

    Raises:
        OSError: If the folder cannot be written.
    """

    def __init__(
        self,
        folder: str,
        step: int,
        module_names: Sequence[str],
        quantities: Sequence[Quantity],
    ):
        self._names, self._quantities = module_names, quantities
        self._mode: TrainingMode | None = None
        # Functions that write, and when they were to do so.
        self._waiting: list[tuple[float, Callable[[], None]]] = []
        # By quantities and modules that were measured together.
        self._tags_of: dict[tuple, list[str]] = {}
        descriptions = tags.descriptions(module_names, quantities)
        self._writer = event_writer.Writer(folder, descriptions)
        self._writer.write(step, custom_scalars.summary(module_names, quantities))

    def parameters(self, step: int, counts: Iterable[int]) -> None:
        """Writes the number of parameters of each module."""
        self._writer.scalars(step, self._by_module("parameters", map(float, counts)))

    def mode(self, step: int, mode: TrainingMode, trained_by: Iterable[str]) -> None:
        """Marks a switch, with the old mode at the same step: a step function.

        Args:
            step: Integer, the step.
            mode: The mode from this step on.
            trained_by: What trains each module in it (`TRAINED_BY`).
        """
        self._later(functools.partial(self._write_mode, step, mode, trained_by))

    def _write_mode(self, step: int, mode: TrainingMode, trained_by: Iterable[str]) -> None:
        if self._mode is not None:
            self._writer.scalars(step, [_mode_scalar(self._mode)])
        codes = [TRAINED_BY.index(what) for what in trained_by]
        scalars = [_mode_scalar(mode), *self._by_module("trained_by", codes)]
        self._writer.scalars(step, scalars)
        text = f"Training mode **{mode}** from step {step} on."
        self._writer.text(step, tags.MODE_TEXT, text)
        self._mode = mode

    def measurements(self, step: int, measured: Mapping[str, Mapping[str, float]]) -> None:
        """Writes numbers, by quantity and module, and what follows from them."""
        self._later(functools.partial(self._write_measurements, step, measured))

    def _write_measurements(
        self, step: int, measured: Mapping[str, Mapping[str, float]]
    ) -> None:
        there = tuple([(column, *values) for column, values in measured.items()])
        names = self._tags_of.get(there)
        if names is None:
            names = self._tags_of[there] = self._tags(measured)
        numbers = [n for values in measured.values() for n in values.values()]
        for quantity in self._quantities:
            if quantity.healthy is not None and measured[quantity.name]:
                numbers += quantity.healthy
        gains = measured.get("signal_gain")
        if gains:
            numbers.append(math.prod(gains.values()))
        scalars = [*zip(names, numbers, strict=True)]
        if self._mode is not None:
            scalars.append(_mode_scalar(self._mode))
        self._writer.scalars(step, scalars)

    def _tags(self, measured: Mapping[str, Mapping[str, float]]) -> list[str]:
        """The tags of numbers, and of what follows from them, in order."""
        places = {name: position for position, name in enumerate(self._names)}
        found = [
            tags.module_tag(column, places[module], module)
            for column, values in measured.items()
            for module in values
        ]
        for quantity in self._quantities:
            if quantity.healthy is not None and measured[quantity.name]:
                found += tags.band_tags(quantity.name)
        return [*found, tags.SIGNAL_GAIN_PRODUCT] if measured.get("signal_gain") else found

    def verdicts(self, step: int, verdicts: Mapping[str, Verdict]) -> None:
        """Writes the verdict on each module, as numbers and as a text."""
        self._write_waiting()
        codes = [states.CODES[verdict.state] for verdict in verdicts.values()]
        sure = [verdict.confidence for verdict in verdicts.values()]
        names = [*verdicts]
        causes = [
            names.index(verdict.cause) + 1 if verdict.cause else 0
            for verdict in verdicts.values()
        ]
        scalars = [
            *self._by_module("verdict", codes),
            *self._by_module("confidence", sure),
            *self._by_module("cause", causes),
            *self._by_module("place", [v.place.code for v in verdicts.values()]),
        ]
        self._writer.scalars(step, scalars)
        lines = [f"* **{tags.plain(m)}**: {v.message}" for m, v in verdicts.items()]
        self._writer.text(step, tags.VERDICTS_TEXT, "\n".join(lines))

    def flush(self) -> None:
        """Lets readers see what was written."""
        self._write_waiting()
        self._writer.flush()

    def close(self) -> None:
        """Flushes and closes the file."""
        self._write_waiting()
        self._writer.close()

    def _later(self, write: Callable[[], None]) -> None:
        """Writes with others at once."""
        now = time.time()
        self._waiting.append((now, write))
        waited = now - self._waiting[0][0]
        if len(self._waiting) >= AT_ONCE or waited >= event_writer.FLUSH_SECONDS:
            self._write_waiting()

    def _write_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for at, write in waiting:
            with self._writer.at(at):
                write()

    def _by_module(self, group: str, values: Iterable[float]) -> list[tuple[str, float]]:
        return [
            (tags.module_tag(group, position, name), value)
            for position, (name, value) in enumerate(zip(self._names, values, strict=True))
        ]


def run_folder(log_dir: str, step: int) -> str:
    """The folder of a run that begins at a step.

    One that begins at the first step gets a folder of its own: `modules`, `modules_2` and
    so on. One that goes on from a later step goes on in the latest of them.

    Args:
        log_dir: String, the folder of the logs.
        step: Integer, the step at which writing begins.
    """
    from tensorflow.io import gfile

    names = gfile.listdir(log_dir) if gfile.isdir(log_dir) else []
    found = [re.fullmatch(r"modules(?:_(\d+))?/?", name) for name in names]
    latest = max([int(match[1] or 1) for match in found if match], default=0)
    number = latest if step and latest else latest + 1
    return os.path.join(log_dir, "modules" if number == 1 else f"modules_{number}")


def _mode_scalar(mode: TrainingMode) -> tuple[str, float]:
    return tags.MODE, training_mode.NAMES.index(mode.name)

"""The numbers of one instrumented execution, read from the device when asked for."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

# Entries before the numbers: the batches that the optimizer has taken by now; 1 where there
# is a measurement, else 0; the batches that it had taken after the step that was measured.
# Each number of batches takes two, for single precision counts to 2 ** 24 only.
HEAD = 5
UNIT = 2**20


class Snapshot:
    """The numbers as they are now; later steps do not change them.

    To make one does not wait for the device. What it holds is read at the first question,
    in one transfer.

    Args:
        values: Tensor with `HEAD` entries, the numbers by column and module, and 1 for each
            number that is there, 0 for the others.
        module_names: List of the names of the modules.
        columns: List of the names of the numbers.
    """

    def __init__(self, values: Any, module_names: Sequence[str], columns: Sequence[str]):
        self._on_device = values
        self._names, self._columns = list(module_names), list(columns)

    @functools.cached_property
    def _values(self) -> np.ndarray:
        held = self._on_device
        # NumPy warns of how TensorFlow's tensors convert themselves.
        values = held.numpy() if hasattr(held, "numpy") else np.asarray(held)
        del self._on_device
        return values

    @property
    def measured(self) -> bool:
        """Whether the execution had a step that is a measurement."""
        return bool(self._values[2])

    @property
    def batches(self) -> int:
        """How many batches the optimizer had taken after the step that was measured."""
        return _as_integer(self._values[3:5])

    @property
    def batches_now(self) -> int:
        """How many batches the optimizer had taken at the end of the execution."""
        return _as_integer(self._values[:2])

    def read(self) -> dict[str, dict[str, float]]:
        """The numbers by name and module, with no entry where there is none."""
        shape = (2, len(self._columns), len(self._names))
        values, there = self._values[HEAD:].reshape(shape).tolist()
        return {
            name: {
                module: value
                for module, value, is_there in zip(self._names, *of_column, strict=True)
                if is_there
            }
            for name, *of_column in zip(self._columns, values, there, strict=True)
        }


def as_floats(count: Any) -> list:
    """An integer tensor as the two entries that hold it exactly."""
    parts = count // UNIT, count % UNIT
    return [ops.cast(part, "float32") for part in parts]


def _as_integer(parts: np.ndarray) -> int:
    return int(parts[0]) * UNIT + int(parts[1])

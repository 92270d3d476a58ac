"""Quantities that are computed of all modules at once: in a few large operations."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_e2e.diagnostics.entries import spaced_entries, stride, sum_of_squares
from keras_e2e.diagnostics.quantity import ModuleView, Quantity

# A small step takes as long as it has operations, whatever their size: so what the modules
# have of the same kind goes into rows of this width of one matrix.
WIDTH = 256
# Variables of more entries are summed on their own: to join them would be to copy them.
LARGE = 65536


class JointQuantity(Quantity):
    """A quantity whose numbers of all modules come from the same operations.

    A subclass implements `compute_all` in place of `compute`, and `init_states` in place of
    `init_state`.

    Example: the largest absolute entry of the first gradient of each module.

    >>> from keras import ops
    >>> from keras_e2e.diagnostics.joint import JointQuantity
    >>> class LargestGradient(JointQuantity):
    ...     name, formula = "largest_gradient", "max abs(g)"
    ...     def compute_all(self, modules, state):
    ...         largest = [ops.max(ops.abs(m.gradients[0])) for m in modules]
    ...         return [ops.stack(largest)], [True] * len(modules), state
    """

    def init_states(self, shapes: list[list[tuple]]) -> list[tuple]:
        """Returns the shapes of the float32 tensors to keep between measurements.

        Args:
            shapes: List with, for each module, the shapes of its trainable variables.
        """
        return []

    def compute_all(
        self, modules: Sequence[ModuleView], state: list
    ) -> tuple[list | None, list[bool], list]:
        """Measures all modules.

        Args:
            modules: List of a `ModuleView` of each.
            state: List of the kept tensors, in the order of `init_states`.

        Returns:
            Three values: for each of `columns` a vector with a number for each module, or
            `None` if the quantity applies to none; a list that says to which modules it
            applies; and the list of the next kept tensors.
        """
        raise NotImplementedError

    def init_state(self, shapes: list[tuple]) -> list[tuple]:
        return self.init_states([shapes])

    def compute(self, module: ModuleView, state: list) -> tuple[Any, list]:
        columns, applies, following = self.compute_all([module], state)
        if columns is None or not applies[0]:
            return None, state
        numbers = tuple(column[0] for column in columns)
        return (numbers if self.extra_outputs else numbers[0]), following


class Rows:
    """Tensors of all modules, a few entries of the large ones, as rows of one matrix.

    Each module begins a row; the rest of its last row are zeros.

    Args:
        shapes: List with, for each module, the shapes of its tensors.
        entries: Integer, about how many entries of a tensor to take, at most.
    """

    def __init__(self, shapes: Sequence[Sequence[tuple]], entries: int = LARGE):
        self.entries = entries
        self._steps = [[stride(shape, entries) for shape in own] for own in shapes]
        self._sizes = [
            [-(-math.prod(s) // step) for s, step in zip(own, steps, strict=True)]
            for own, steps in zip(shapes, self._steps, strict=True)
        ]
        self._counts = [-(-sum(own) // WIDTH) for own in self._sizes]
        self._modules = np.repeat(np.arange(len(shapes)), self._counts).astype("int32")
        self.shape = (sum(self._counts), WIDTH)

    def join(self, tensors: Sequence[Sequence], *, weighted: bool = False) -> Any:
        """The tensors in rows.

        Args:
            tensors: List of lists of tensors, in the places of the shapes; zeros for None.
            weighted: Boolean, whether each entry stands for those left out, so that an
                inner product is about that of all entries. Defaults to `False`.
        """
        parts = []
        for own, steps, sizes, count in zip(
            tensors, self._steps, self._sizes, self._counts, strict=True
        ):
            for tensor, step, size in zip(own, steps, sizes, strict=True):
                if tensor is None:
                    parts.append(np.zeros(size, "float32"))
                    continue
                part = ops.cast(spaced_entries(tensor, self.entries), "float32")
                parts.append(part * math.sqrt(step) if weighted and step > 1 else part)
            missing = count * WIDTH - sum(sizes)
            parts += [np.zeros(missing, "float32")] if missing else []
        return ops.reshape(ops.concatenate(parts), self.shape)

    def sums(self, matrices: Sequence) -> list:
        """Of each of several such matrices a vector: the sum of each module's entries."""
        rows = ops.stack([ops.sum(matrix, axis=1) for matrix in matrices], axis=1)
        count = len(self._counts)
        found = ops.segment_sum(rows, self._modules, num_segments=count)
        return ops.unstack(found, len(matrices), axis=1)

    def spread(self, vector: Any) -> Any:
        """A vector with an entry for each module, as a column with one for each row."""
        return ops.expand_dims(ops.take(vector, self._modules), 1)


def shapes_of(module: ModuleView) -> list[tuple]:
    """The shapes of the variables that a module's gradients and updates have places for."""
    if module.shapes is not None:
        return list(module.shapes)
    pairs = itertools.zip_longest(module.gradients, module.updates)
    known = [u if g is None else g for g, u in pairs]
    return [(0,) if tensor is None else tuple(tensor.shape) for tensor in known]


def sums_of_squares(tensors: Sequence[Sequence]) -> Any:
    """A vector with the squared norm of each module's tensors; None counts for nothing.

    Args:
        tensors: List of a list of tensors for each module.
    """
    there = [[t for t in own if t is not None] for own in tensors]
    small, large = (
        [[t for t in own if (math.prod(t.shape) > LARGE) == is_large] for own in there]
        for is_large in (False, True)
    )
    rows = Rows([[tuple(t.shape) for t in own] for own in small])
    if not rows.shape[0]:
        return vector(map(sum_of_squares, large))
    (found,) = rows.sums([ops.square(rows.join(small))])
    return found + vector(map(sum_of_squares, large)) if any(large) else found


def vector(numbers: Iterable) -> Any:
    """Scalars as a vector in float32; zero for None."""
    return ops.stack([ops.cast(0.0 if n is None else n, "float32") for n in numbers])

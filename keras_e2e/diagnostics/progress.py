"""Quantities that say how far a module has come, and whether its steps help."""

import math
from typing import Any

from keras import ops

from keras_e2e.diagnostics.entries import dot, spaced_entries, stride, sum_of_squares
from keras_e2e.diagnostics.quantity import EXPENSIVE, ModuleView, Quantity
from keras_e2e.utils.validation import check_integer


class LossCredit(Quantity):
    """Change of the loss on a batch that is due to the module's step on that batch.

    The loss change allocation of Lan et al. 2019 (arXiv 1909.01440) for one step, by the
    trapezoidal rule: half the sum of the gradients before and after the step, times the
    step. The sum over all modules is about the change of the loss.

    Args:
        schedule: Integer or `None`: when it is measured (see `Quantity`). Defaults to
            every 200 steps.

    Example:

    >>> import keras_e2e as e2e
    >>> e2e.diagnostics.LossCredit().interpretation
    'below 0 the step lowered the loss'
    """

    name = "loss_credit"
    formula = "sum of .5 (g_t + g_{t+1}) . dtheta_t on the same batch"
    interpretation = "below 0 the step lowered the loss"
    source = "Lan et al. 2019 (arXiv 1909.01440)"
    schedule = EXPENSIVE
    extra_passes = ("later",)

    def compute(self, module: ModuleView, state: list) -> tuple[Any, list]:
        if module.later_gradients is None:
            return None, state
        before = dot(module.gradients, module.updates)
        after = dot(module.later_gradients, module.updates)
        if before is None or after is None:
            return None, state
        return 0.5 * (before + after), state


class Rotation(Quantity):
    """How far the weights have turned from where they were at the first measurement.

    `1 - cos(theta, theta at start)`: near 0 a module has never left its initialization.
    Evenly spaced entries of a large variable stand for all of them.

    Args:
        entries: Integer: how many entries of a variable to look at, at most. Defaults to
            65536.
        schedule: Integer or `None`: when it is measured (see `Quantity`). Defaults to
            every 200 steps.

    Raises:
        ValueError: If an argument is invalid.

    Example:

    >>> import keras_e2e as e2e
    >>> e2e.diagnostics.Rotation(entries=1000).entries
    1000
    """

    name = "rotation"
    formula = "1 - cos(theta, theta at the first measurement)"
    interpretation = "0: never left its initialization"
    source = "Carbonnelle & De Vleeschouwer 2018 (arXiv 1806.01603)"
    schedule = EXPENSIVE
    keep_across_modes = True

    def __init__(self, entries: int = 65536, **kwargs: Any):
        super().__init__(**kwargs)
        check_integer("Rotation: entries", entries, 1)
        self.entries = int(entries)

    def init_state(self, shapes: list[tuple]) -> list[tuple]:
        sizes = [-(-math.prod(s) // stride(s, self.entries)) for s in shapes]
        return [(), *[(size,) for size in sizes]]

    def compute(self, module: ModuleView, state: list) -> tuple[Any, list]:
        seen, *start = state
        if not start or len(module.variables) != len(start):
            return None, state  # the module, or a part of it, is frozen
        now = [spaced_entries(v, self.entries) for v in module.variables]
        start = [ops.where(seen > 0, old, new) for old, new in zip(start, now, strict=True)]
        lengths = [ops.sqrt(sum_of_squares(those)) for those in (start, now)]
        # As a distance of unit vectors: 1 - cos would be rounding error near 0.
        apart = sum_of_squares(
            [a / lengths[0] - b / lengths[1] for a, b in zip(start, now, strict=True)]
        )
        return apart / 2.0, [ops.ones_like(seen), *start]

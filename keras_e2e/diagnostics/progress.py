"""Quantities that tell how far a module has come, and whether its steps help."""

import math
from typing import Any

from keras import ops

from keras_e2e.diagnostics.quantity import (
    EXPENSIVE,
    ModuleView,
    Quantity,
    dot,
    some,
    spacing,
    sum_of_squares,
)


class LossCredit(Quantity):
    """What the module's step did to the loss on the batch it was made for.

    The loss change allocation of Lan et al. 2019 (arXiv 1909.01440) for one step, by the
    trapezoidal rule: half the sum of the gradients before and after it, times the step.
    The sum over all modules is about the change of the loss.
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
    """How far the weights have turned from where they were at the first reading.

    `1 - cos(theta, theta at start)`: near 0 a module has never left its initialisation.
    Of a large variable evenly spaced entries stand for all.

    Args:
        entries: how many entries of a variable to look at, at most.
    """

    name = "rotation"
    formula = "1 - cos(theta, theta at the first reading)"
    interpretation = "0: never left its initialisation"
    source = "Carbonnelle & De Vleeschouwer 2018 (arXiv 1806.01603)"
    schedule = EXPENSIVE
    keep_across_modes = True

    def __init__(self, entries: int = 65536, **kwargs: Any):
        super().__init__(**kwargs)
        if isinstance(entries, bool) or not isinstance(entries, int) or entries < 1:
            raise ValueError(
                f"Rotation(entries={entries!r}): expected a whole number, 1 or larger."
            )
        self.entries = entries

    def init_state(self, shapes: list[tuple]) -> list[tuple]:
        sizes = [-(-math.prod(s) // spacing(s, self.entries)) for s in shapes]
        return [(), *[(size,) for size in sizes]]

    def compute(self, module: ModuleView, state: list) -> tuple[Any, list]:
        seen, *start = state
        if not start or len(module.variables) != len(start):
            return None, state  # a module that stands still, or a part of it
        now = [some(v, self.entries) for v in module.variables]
        start = [ops.where(seen > 0, old, new) for old, new in zip(start, now, strict=True)]
        lengths = [ops.sqrt(sum_of_squares(those)) for those in (start, now)]
        # As a distance of unit vectors: 1 - cos would be rounding error near 0.
        apart = sum_of_squares(
            [a / lengths[0] - b / lengths[1] for a, b in zip(start, now, strict=True)]
        )
        return apart / 2.0, [ops.ones_like(seen), *start]

"""Whether a loss has moved, and whether it has plateaued."""

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

# Single measurements scatter: the latest this many count.
MEASUREMENTS = 10
# A loss that has fallen by less than this share of its starting value has not moved. It
# leaves room for the first steps, in which a model learns how frequent the classes are and
# nothing else.
UNMOVED = 0.1
# A loss has plateaued if it fell by less than this share over this many measurements.
MIN_DELTA, PLATEAU_SPAN = 0.05, 20


def at_start(losses: Sequence[float]) -> float:
    """The median of a loss's first three measurements; NaN without any."""
    first = list(itertools.islice(filter(math.isfinite, losses), 3))
    return float(statistics.median(first)) if first else float("nan")


def fallen(value: Any, start: float, share: float) -> Any:
    """Whether a loss has fallen by a share of what it was; it may be negative."""
    return value < start - share * abs(start) if np.isfinite(start) else value < start


def plateaued(
    losses: Sequence[float] | np.ndarray,
    span: int = PLATEAU_SPAN,
    min_delta: float = MIN_DELTA,
) -> bool:
    """Whether a loss fell by less than a share of itself over the latest measurements.

    Compares medians of ten measurements; with too few to compare it has not plateaued.

    Args:
        losses: The measurements of the loss; NaN where there was none.
        span: Integer: over how many measurements it must have fallen. Defaults to 20.
        min_delta: Float: the share by which it must have fallen. Defaults to 0.05.
    """
    values = np.asarray(losses[-2 * (span + MEASUREMENTS) :], float)
    values = values[np.isfinite(values)][-span - MEASUREMENTS :]
    if len(values) < span + MEASUREMENTS:
        return False
    earlier, late = values[:MEASUREMENTS], values[-MEASUREMENTS:]
    # A tenth of the time of NumPy's.
    before, now = (statistics.median(each.tolist()) for each in (earlier, late))
    return not fallen(now, before, min_delta)

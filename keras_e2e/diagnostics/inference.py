"""What measurements that arrive one by one say for certain: means and trends.

All bounds hold at every number of measurements at once, so looking often does not raise
the error: Howard, Ramdas, McAuliffe & Sekhon 2021, "Time-uniform, nonparametric,
nonasymptotic confidence sequences" (arXiv 1810.08240), equation (1.2), with the standard
error that the measurements themselves show.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

# The share of runs in which a bound may be wrong at any time.
ERROR = 0.01
# With fewer measurements their scatter is not known.
FEWEST = 5
# So many in a row above a bound are no chance (.4 % if half of all were).
STREAK = 8
# So many at the end that are above all before, among so many in all: if nothing has changed
# a chance of 1 in 4,060 and 1 in 715, and of .3 and .5 % at all looks together.
LEADS = {3: 30, 4: 13}


class Estimate(NamedTuple):
    """A number, its standard error, and how many measurements it is made of.

    Attributes:
        value: Float; NaN where there are too few measurements.
        error: Float, its standard error, as large as the measurements scatter; those that
            resemble the one before count for less.
        size: Integer, the number of measurements.
    """

    value: float
    error: float
    size: int

    @property
    def known(self) -> bool:
        """Whether there were measurements enough."""
        return math.isfinite(self.value) and math.isfinite(self.error)

    @property
    def low(self) -> float:
        """What it is above, up to an error of 1 %."""
        return self.value - margin(self.size) * self.error

    @property
    def high(self) -> float:
        """What it is below, up to an error of 1 %."""
        return self.value + margin(self.size) * self.error

    def above(self, bound: float) -> float:
        """How certain it is that the number is above a bound, from 0 to 1."""
        return certainty(self.value - bound, self.error)

    def times(self, factor: float) -> "Estimate":
        """The estimate of a multiple."""
        return Estimate(self.value * factor, self.error * abs(factor), self.size)


NOTHING = Estimate(math.nan, math.nan, 0)


def margin(count: int, error: float = ERROR) -> float:
    """How many standard errors a bound is away, so that it holds at all times.

    Args:
        count: Integer, the number of measurements.
        error: Float, the probability that any of the bounds is wrong. Defaults to 0.01.
    """
    doubled = math.log(max(2.0 * count, math.e))
    return 1.7 * math.sqrt(math.log(doubled) + 0.72 * math.log(10.4 / error))


def certainty(distance: float, error: float) -> float:
    """How certain it is, from 0 to 1, that a distance with this standard error is real."""
    if error > 0.0:
        return NormalDist().cdf(distance / error)
    return 1.0 if distance > 0 else 0.5 if distance == 0 else 0.0


def mean(values: Sequence[float] | np.ndarray) -> Estimate:
    """The mean of measurements; those that are not finite are left out."""
    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    if len(known) < FEWEST:
        return NOTHING
    average = float(known.mean())
    error = float(known.std(ddof=1)) / math.sqrt(len(known))
    return Estimate(average, error * _inflation(known - average), len(known))


def rises_above(values: Sequence[float] | np.ndarray, bound: float) -> bool:
    """Whether the latest measurements are above a bound, by too many for chance.

    That is the latest eight, or the latest three or four if they are also above all that
    were before.
    """
    latest = values[-STREAK:]
    if len(latest) == STREAK and all(value > bound for value in latest):
        return True
    return any(
        len(values) >= among and _leads(values, lead, bound)
        for lead, among in LEADS.items()
    )


def _leads(values: Sequence[float] | np.ndarray, count: int, bound: float) -> bool:
    if not all(map(math.isfinite, values[-count:])):
        return False
    before = max(filter(math.isfinite, values[:-count]), default=math.inf)
    return min(values[-count:]) > max(before, bound)


class Trend(NamedTuple):
    """How a loss falls, by a line over the logarithm of the step.

    A learning curve flattens: what a doubling of the steps brings is, as a rule, no more
    than what the last doubling brought. So the line through the latter half of the
    measurements, continued, is what as many steps again may bring at most.

    Attributes:
        level: `Estimate` of the loss at the end.
        fall: `Estimate` of its fall while the number of steps doubles.
        steps: Integer, the number of steps so far.
    """

    level: Estimate
    fall: Estimate
    steps: int

    def fall_within(self, steps: int) -> Estimate:
        """The fall to be expected within so many further steps."""
        return self.fall.times(math.log2(1.0 + steps / self.steps))


def trend(steps: Sequence[int], losses: Sequence[float] | np.ndarray) -> Trend | None:
    """The trend of a loss over the latter half of its steps; None with too few.

    Args:
        steps: The step of each measurement, rising.
        losses: The loss at each; those that are not finite are left out.
    """
    at, values = np.asarray(steps, float), np.asarray(losses, float)
    if len(at) < 2 * FEWEST:
        return None
    # The first measurement is made at the first step, which is none for a logarithm.
    at = at - at[0] + max(1.0, float(np.median(np.diff(at[:FEWEST]))) / 2.0)
    chosen = np.isfinite(values) & (at >= at[-1] / 2.0)
    if chosen.sum() < FEWEST:
        return None
    x, y = np.log2(at[chosen] / at[-1]), values[chosen]
    count, spread = len(x), float(np.square(x - x.mean()).sum())
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / spread
    left = y - y.mean() - slope * (x - x.mean())
    scatter = math.sqrt(float(np.square(left).sum()) / (count - 2)) * _inflation(left)
    fall = Estimate(-slope, scatter / math.sqrt(spread), count)
    away = scatter * math.sqrt(1.0 / count + x.mean() ** 2 / spread)
    level = Estimate(float(y.mean() - slope * x.mean()), away, count)
    return Trend(level, fall, int(at[-1]))


def _inflation(left: np.ndarray) -> float:
    """By how much a standard error grows because neighbors resemble each other.

    As for an autoregressive series of first order; negative correlation is not trusted.
    """
    square = float(np.square(left).sum())
    if square == 0.0:
        return 1.0
    resemblance = float((left[1:] * left[:-1]).sum()) / square
    resemblance = min(max(resemblance, 0.0), 0.9)
    return math.sqrt((1.0 + resemblance) / (1.0 - resemblance))

"""What the measurements of one module say: faults, and whether its loss still moves."""

import functools
import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from keras_e2e.diagnostics import inference
from keras_e2e.diagnostics.inference import NOTHING, Estimate, Trend
from keras_e2e.diagnostics.plateau import MEASUREMENTS, at_start, plateaued

# How far it looks back for quantities that are expensive, and how many measurements of the
# loss it looks at, evenly spaced: a verdict costs as much late in a run as early.
LOOKBACK = 500
# The signal at a module's input, relative to that at its output. A module of many layers
# may well lose two decades.
GAIN_LOW, GAIN_HIGH = 1e-3, 1e3
# With so many of its units dormant, a module passes next to nothing on.
ALL = 0.95
# As many steps again that lower the loss by less than this share of what was gained.
CONVERGED = 0.02
# BatchNorm's moving averages lag by hundreds of steps (momentum .99): before, what is
# predicted for examples held out is another thing than what training sees.
SETTLED = 500
# More than this share of the loss of a constant prediction is far from nothing.
FAR = 0.25
# A skill below this is hardly any: the loss is at the level of a constant prediction.
# Where there is no skill, a loss that has fallen by less than `UNMOVED` of its start.
INFORMED, UNMOVED = 0.02, 0.1
# An expected fall of the loss within `HORIZON` steps below this share of it is negligible.
NEGLIGIBLE, HORIZON = 0.05, 1000


class Learning(NamedTuple):
    """What the loss that a module serves says of its learning.

    Attributes:
        start: Float, the loss at the start of training.
        trend: `Trend` of the loss, None with too few measurements.
        skill: `Estimate` of the skill over the latter half; not known without one.
        skill_now: The same over the latest eighth, ten measurements at least: a loss that
            falls at last has no use for what was before.
        above: Boolean, whether each of the latest eight skills is above next to nothing,
            or the latest few are, and above all before: one that is rising has no mean to
            speak of.
        far: Boolean, whether much of the loss is left.
        rests: Boolean, whether it fell by less than 5 % over the latest measurements
            (`plateau.plateaued`): no proof that it will not fall again.
        surrogate: Boolean, whether its value says nothing of progress.
    """

    start: float
    trend: Trend | None
    skill: Estimate
    skill_now: Estimate
    above: bool
    far: bool
    rests: bool
    surrogate: bool = False

    @property
    def gained(self) -> float:
        """By how much the loss has fallen since the start."""
        return self.start - self.trend.level.value if self.trend else math.nan

    def informed(self) -> float:
        """How certain it is, from 0 to 1, that something was learned from the inputs."""
        if self.skill.known:
            streak = self.above * sign_test(inference.STREAK, inference.STREAK)
            return max(self.skill.above(INFORMED), self.skill_now.above(INFORMED), streak)
        if self.trend is None:
            return 0.0
        moved = self.trend.level.times(-1.0)
        return moved.above(-(self.start - UNMOVED * abs(self.start)))

    def is_informed(self) -> bool:
        """Whether it is beyond doubt that something was learned from the inputs."""
        if self.skill.known:
            return self.above or any(
                s.low > 0.0 and s.value > INFORMED for s in (self.skill, self.skill_now)
            )
        if self.trend is None:
            return False
        return self.trend.level.high < self.start - UNMOVED * abs(self.start)

    def is_uninformed(self) -> bool:
        """Whether it is beyond doubt that next to nothing was learned from the inputs."""
        if self.skill.known:
            return self.skill.high < NEGLIGIBLE
        if self.trend is None:
            return False
        return self.trend.level.low > self.start - UNMOVED * abs(self.start)

    def is_falling(self) -> bool:
        """Whether the loss falls, beyond doubt."""
        return self.trend is not None and self.trend.fall.low > 0.0

    def is_flat(self) -> bool:
        """Whether as many steps again would bring next to nothing, beyond doubt."""
        if self.trend is None or self.trend.steps < SETTLED:
            return False
        return self.trend.fall.high < CONVERGED * self.gained

    def flat(self) -> float:
        """How certain it is that as many steps again would bring next to nothing."""
        if self.trend is None:
            return 0.0
        return 1.0 - self.trend.fall.above(CONVERGED * self.gained)

    def is_hopeless(self) -> bool:
        """Whether the next thousand steps would bring next to nothing.

        With an error of 1 % at each look, not at all together: what is said of the skill
        holds at all.
        """
        if self.trend is None:
            return False
        ahead = self.trend.fall_within(max(HORIZON, self.trend.steps))
        return ahead.above(UNMOVED * abs(self.start)) < inference.ERROR


class Evidence:
    """The measurements of one module, and what they say.

    Args:
        measured: Dict from quantity to its measurements, NaN where there was none; those
            of `loss` are of the loss that the module serves.
        learned: `Learning`, of that loss.
        first: The first measurement of `dormant_fraction`, be it in another mode.

    Attributes:
        learning: That of the arguments.
        latest: Dict from quantity to the latest ten measurements, and to the latest ten
            that are numbers or infinite.
        numbers: Dict of the medians of the latter, and `loss at start`.
        size: Integer, the number of measurements of the loss.
    """

    def __init__(
        self,
        measured: Mapping[str, Sequence[float]],
        learned: Learning,
        first: Sequence[float] = (),
    ):
        self._measured, self.learning, self._first = measured, learned, first
        self.size = len(measured["loss"])
        self.latest = {name: _latest(values) for name, values in measured.items()}
        known = {name: values for name, (_, values) in self.latest.items() if values}
        numbers = {name: statistics.median(values) for name, values in known.items()}
        numbers["loss at start"] = learned.start
        self.numbers = {n: value for n, value in numbers.items() if not math.isnan(value)}

    def share(
        self, quantity: str, says: Callable[[float], bool], ever: bool = False
    ) -> float:
        """How certain it is that most measurements say so: a sign test of the latest.

        Args:
            quantity: String.
            says: Function that says whether a measurement does.
            ever: Boolean, whether old ones will do where there are none of late. Defaults
                to `False`.
        """
        _, known = self.latest.get(quantity, ([], []))
        if ever and not known:
            known = self._past(quantity)
        if len(known) < MEASUREMENTS:
            return 0.0
        return sign_test(sum(map(says, known)), len(known))

    def _past(self, quantity: str) -> list[float]:
        """The last ten measurements that are not NaN, however old."""
        values = map(float, reversed(self._measured.get(quantity, ())))
        known = itertools.filterfalse(math.isnan, values)
        return [*itertools.islice(known, MEASUREMENTS)][::-1]

    def dormant(self, bound: float) -> float:
        """How certain it is that too many units are dormant, and it is a fault.

        It is one where they were so from the start. Units that fall silent while all is
        learned are not needed: two of ten suffice for a parity. Where nothing is learned
        and some units act, noise has silenced the others: no signal is the cause.
        """
        learned = self.learning
        fine = learned.is_informed() and not learned.far
        some_act = self.numbers.get("dormant_fraction", 1.0) < ALL
        silenced = learned.is_uninformed() and learned.is_hopeless() and some_act
        born = any(value >= bound for value in self._first)
        if (fine or silenced or learned.surrogate) and not born:
            return 0.0
        return self.share("dormant_fraction", lambda value: value >= bound)

    def mean(self, quantity: str, share: float = 1.0) -> Estimate:
        """The mean of the latest share of the measurements."""
        values = self._measured.get(quantity, ())
        count = min(int(share * len(values)), LOOKBACK)
        return inference.mean(values[len(values) - count :])

    def blown(self, trained: bool = False) -> float:
        """As `share`, of measurements that are infinite, or NaN after numbers.

        A loss is never NaN but for that: it is measured in every mode that trains the
        module.

        Args:
            trained: Boolean, whether steps are known to change the module, so that an
                update of NaN is one. Defaults to `False`.
        """
        gradients = self.latest.get("grad_rms", ([], []))[1]
        found = 0.0
        for name in {"loss", "grad_rms", "update_ratio"} & set(self.latest):
            # A weight that gets a gradient makes a step, so a ratio of NaN is one of NaN.
            stepped = name == "update_ratio" and (
                trained or any(map(math.isfinite, gradients))
            )
            last, _ = self.latest[name]
            certainty = sign_test(sum(not math.isfinite(v) for v in last), len(last))
            # Nothing is said by a quantity that was never measured.
            if certainty > found and (name == "loss" or stepped or self._past(name)):
                found = certainty
        return found

    def is_frozen(self, still: float) -> bool:
        """Whether no weight changed in any of the latest measurements."""
        last, _ = self.latest.get("update_ratio", ([], []))
        # NaN where no weight may change.
        return bool(last) and all(math.isnan(v) or v <= still for v in last)

    def has_signal(self) -> bool:
        """Whether its steps lower the loss on fresh batches, beyond doubt and enough."""
        descent = self.mean("descent", 0.5)
        enough = NEGLIGIBLE * abs(self.learning.start) / HORIZON
        return descent.known and descent.low > 0 and descent.value > enough


def learning(
    steps: Sequence[int],
    losses: Sequence[float],
    skills: Sequence[float],
    since: int,
) -> Learning:
    """What a loss says, from all its measurements.

    Args:
        steps: The step of each measurement.
        losses: The loss at each.
        skills: The skill at each; empty if it was not measured.
        since: Integer, the index of the first measurement in the present mode.
    """
    if not len(losses):
        return Learning(math.nan, None, NOTHING, NOTHING, False, False, False)
    count = len(losses) - since
    every = max(1, count // LOOKBACK)
    # Counted from the end, so that the latest is among them.
    chosen = slice(since + (count - 1) % every if count else since, None, every)
    start = at_start(losses)
    own = inference.trend(steps[chosen], losses[chosen])
    skill = inference.mean(skills[since + count // 2 :: every])
    skill_now = inference.mean(skills[-max(MEASUREMENTS, count // 8) :: every])
    if not skill_now.known or count < MEASUREMENTS:
        skill_now = skill
    level = own.level.value if own else math.nan
    left = 1.0 - skill_now.value if skill.known else level / start if start > 0 else 0.0
    if level < 0.0:  # how low such a loss may get is not known
        left = 0.0
    above = inference.rises_above(skills[since:], INFORMED)
    rests = plateaued(losses[since:])
    return Learning(start, own, skill, skill_now, above, left > FAR, rests)


@functools.cache
def sign_test(says: int, count: int) -> float:
    """How certain it is that more than half of all measurements say so.

    One less the probability that as many or more of `count` would if half did.
    """
    if not count:
        return 0.0
    tail = sum(math.comb(count, k) for k in range(says, count + 1))
    return 1.0 - tail / 2.0**count


def _latest(values: Sequence[float]) -> tuple[list[float], list[float]]:
    """The latest ten measurements, and the latest ten that are not NaN, in order.

    An expensive quantity is measured now and then, so these may lie further back; one that
    has come to have no value has no latest ones.
    """
    last = [float(value) for value in values[-MEASUREMENTS:]]
    known = [value for value in last if not math.isnan(value)]
    if len(known) < MEASUREMENTS:
        far = [float(value) for value in values[-LOOKBACK:]]
        places = [i for i, value in enumerate(far) if not math.isnan(value)]
        usual = len(far) / max(len(places), 1)
        stale = not places or len(far) - places[-1] > 2 * usual + 1
        known = [] if stale else [far[i] for i in places[-MEASUREMENTS:]]
    return last, known

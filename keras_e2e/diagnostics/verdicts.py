"""From measurements to verdicts: what state is each module in?

Plain faults first, by sign tests on the latest measurements; then whether the loss that
the module serves still falls, by bounds that hold however often they are looked at
(`inference`). `benchmarks/verdicts.py` measures how often a verdict is right.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from keras_e2e.diagnostics import reasons, states
from keras_e2e.diagnostics.advice import advise
from keras_e2e.diagnostics.causes import name_causes
from keras_e2e.diagnostics.evidence import (
    GAIN_HIGH,
    GAIN_LOW,
    LOOKBACK,
    NEGLIGIBLE,
    SETTLED,
    Evidence,
    Learning,
    learning,
)
from keras_e2e.diagnostics.plateau import MEASUREMENTS
from keras_e2e.diagnostics.states import Place

# A gradient relative to the largest of any module.
GRADIENT_LOW = 1e-5
# Dormant units: healthy ReLU networks leave up to half of theirs unused.
DORMANT = 0.7
# Size of the steps relative to the weights: below it is rounding.
STILL = 1e-7
# A mean cosine between local and task gradient that is worth a word. Where the task's
# gradient is noise it scatters about zero, so it need not be asked for.
CONFLICT = -0.1
# How certain it must be that the mean is below zero.
OPPOSED = 0.999
# Numbers that advice takes for those of a loss.
_OF_VALUES = ("loss", "loss at start")
# How certain a fault must be: eight of ten measurements, say.
CERTAIN = 0.94
# No verdict is more certain than this: it rests on one training.
MOST = 0.99


class Verdict(NamedTuple):
    """What the measurements of one module say: its state, and how certain that is.

    Attributes:
        state: String, the name of the state; `states.STATES` says what each means.
        confidence: Float from 0 to 1: of the verdicts of this confidence so many are
            right, in the trainings of `benchmarks/verdicts.py`.
        numbers: Dict of the medians that the verdict rests on, by quantity, and
            `loss at start`.
        no_signal_reason: What `AutoMode` acts on, whatever the state, which may name a
            cause (dormant units, say): `"starved"`, or `"stalled"` where the loss rests
            with much of it left, be it for good or not. Empty otherwise.
        why: String, what the state does not say, in a sentence: why an unclear module is
            not judged, or which numbers are not finite, for instance; empty otherwise.
        cause: String, the module whose fault this one's state is an effect of; empty if
            it is no effect.
        place: `Place`, what the module is and has, which the advice depends on.

    Example:

    >>> from keras_e2e.diagnostics import Verdict
    >>> verdict = Verdict("frozen", 0.99, {"update_ratio": 0.0})
    >>> verdict.alarm, str(verdict).split(". ")[0]
    (True, 'Frozen (99 % confidence): update_ratio 0')
    """

    state: str
    confidence: float
    numbers: dict[str, float]
    no_signal_reason: str = ""
    why: str = ""
    cause: str = ""
    place: Place = Place()

    def __str__(self) -> str:
        return self.message

    @property
    def alarm(self) -> bool:
        """Whether something is wrong here that should be looked at; no effect is."""
        return states.BY_NAME[self.state].alarm and not self.cause

    @property
    def message(self) -> str:
        """The verdict as a text, with the numbers and what to do."""
        if self.cause:
            return f"{self.summary}. Effect of {self.cause}: mend that first."
        meaning = states.BY_NAME[self.state].meaning
        if self.place.surrogate:
            meaning = states.OF_SURROGATES.get(self.state, meaning)
        said = " ".join(filter(None, [meaning, self.why]))
        if self.state in ("unclear", "exploding"):
            said = self.why or meaning
        advice = advise(self.state, self.place, self.numbers)
        more = f"What now: {states.GUIDE}#{self.state}" if advice else ""
        return " ".join(filter(None, [f"{self.summary}.", said, advice, more]))

    @property
    def summary(self) -> str:
        """State, confidence and numbers alone, without what they mean and what to do."""
        return states.summary(self.state, self.confidence, self.numbers)


def judge(
    history: Mapping[str, Mapping[str, Sequence[float]]],
    steps: Sequence[int],
    since: int = 0,
    frozen: Sequence[str] = (),
    places: Mapping[str, Place] | None = None,
) -> dict[str, Verdict]:
    """Judges every module by its measurements: which state is it in?

    First come plain faults, by sign tests on the latest ten measurements: exploding,
    dormant, vanishing, frozen, conflicting. Then the loss that the module serves, its own
    or the task's: whether it has left the level of a constant prediction (`skill`),
    whether it falls, and whether as many steps again would bring next to nothing. One
    fault has many effects: `Verdict.cause` says which module comes first. The value of a
    surrogate (`Place.surrogate`) says nothing: a module that serves one is starved where
    the predictions have been the same for all examples over the latter half of 500 steps or
    more, and else unclear.

    Args:
        history: Dict of dicts: by quantity and module the measurements over time, NaN where
            there was none (`callbacks.ModuleDiagnostics.history`), modules in order.
        steps: The step of each measurement, rising (`ModuleDiagnostics.steps`).
        since: Integer, the index of the first measurement in the present training mode.
            Earlier ones count for the loss at the start only. Defaults to 0.
        frozen: Names of the modules that nothing trains on purpose: of those without
            weights, and those that the training mode freezes, it judges what they do to
            the signal alone. Defaults to
            none.
        places: Dict from module to `Place`: whether it has an objective, labels, and so
            on, which the advice depends on. Defaults to `None`: nothing is known.

    Returns:
        A dict with a `Verdict` for each module.

    Example:

    >>> from keras_e2e.diagnostics import judge
    >>> losses = {"encoder": [float("nan")] * 40, "out": [0.69, 0.70] * 20}
    >>> history = {"loss": losses, "skill": {"encoder": losses["encoder"],
    ...                                      "out": [0.001, -0.001] * 20}}
    >>> verdicts = judge(history, steps=range(1, 400, 10))
    >>> verdicts["encoder"].state, verdicts["out"].cause
    ('starved', 'encoder')
    """
    modules = list(next(iter(history.values()), {}))
    places = places or {}

    def late(quantity: str, module: str) -> Sequence[float]:
        values = history.get(quantity, {}).get(module, ())
        return values[max(since, len(values) - LOOKBACK) :]

    of_loss: dict[str, Learning] = {}
    found = {}
    evidence = {}
    for module in modules:
        measured = {quantity: late(quantity, module) for quantity in history}
        # A module without a loss of its own serves the task, whose loss is the last's. An
        # objective that does not count is in no conflict: its head was never trained.
        own = any(map(math.isfinite, measured.get("loss", ())[-LOOKBACK:]))
        serves = module if own else modules[-1]
        if not own:
            measured.pop("local_alignment", None)
        # With the loss it also has the skill of what it serves.
        measured |= {quantity: late(quantity, serves) for quantity in ("loss", "skill")}
        if serves not in of_loss:
            losses = history.get("loss", {}).get(serves, ())
            skills = history.get("skill", {}).get(serves, ())
            of_loss[serves] = learning(steps, losses, skills, since)._replace(
                surrogate=places.get(serves, Place()).surrogate
            )
        first = history.get("dormant_fraction", {}).get(module, ())[:1]
        evidence[module] = Evidence(measured, of_loss[serves], first)
    gradients = [e.numbers.get("grad_rms", math.nan) for e in evidence.values()]
    largest = max(filter(math.isfinite, gradients), default=math.nan)
    for module in modules:
        place = places.get(module, Place(task=module == modules[-1]))
        place = place._replace(surrogate=evidence[module].learning.surrogate)
        trained = bool(place.trained)
        verdict = _judge_one(evidence[module], largest, module in frozen, trained)
        found[module] = verdict._replace(place=place)
    return name_causes(found)


def _judge_one(evidence: Evidence, largest: float, frozen: bool, trained: bool) -> Verdict:
    """The verdict on one module.

    Args:
        evidence: The `Evidence` of the module.
        largest: Float, the largest gradient of any module.
        frozen: Boolean, whether the training mode freezes the module on purpose.
        trained: Boolean, whether steps are known to change the module.
    """
    if frozen:
        return _judge_by_gain(evidence)
    blown = evidence.blown(trained)
    if blown >= CERTAIN:
        wild = reasons.not_finite(evidence)
        return Verdict("exploding", min(blown, MOST), evidence.numbers, why=wild)
    if evidence.size < MEASUREMENTS:
        few = reasons.too_few(evidence)
        return Verdict("unclear", 0.0, evidence.numbers, why=few)
    by_loss = _judge_by_loss(evidence)
    for state, certainty in _faults(evidence, largest):
        if certainty >= CERTAIN:
            confidence = min(certainty, MOST)
            return by_loss._replace(state=state, confidence=confidence, why="")
    return by_loss


def _judge_by_gain(evidence: Evidence) -> Verdict:
    """The verdict on a module that nothing trains: what it does to the signal."""
    gain = evidence.numbers.get("signal_gain", math.nan)
    for state, certainty in _faults_of_gain(evidence):
        if certainty >= CERTAIN and evidence.size >= MEASUREMENTS:
            return Verdict(state, min(certainty, MOST), {"signal_gain": gain})
    return Verdict("unclear", 0.0, evidence.numbers, why=reasons.FROZEN)


def _faults_of_gain(evidence: Evidence) -> list[tuple[str, float]]:
    """How certain it is that a module makes too much or too little of the signal."""
    share = evidence.share
    return [
        ("exploding", share("signal_gain", lambda v: v > GAIN_HIGH, ever=True)),
        ("vanishing", share("signal_gain", lambda v: v < GAIN_LOW)),
    ]


def _faults(evidence: Evidence, largest: float) -> list[tuple[str, float]]:
    """How certain each plain fault is, causes before effects."""
    exploding, vanishing = _faults_of_gain(evidence)
    # Steps get small where there is nothing left to learn.
    learned = evidence.learning
    converged = not learned.surrogate and learned.is_informed() and learned.is_flat()
    aligned = evidence.mean("local_alignment")
    still = evidence.is_frozen(0.0 if converged else STILL)
    # Of an expensive quantity there are too few looks to add up their errors.
    against = 1.0 - aligned.above(0.0) if aligned.value < CONFLICT else 0.0
    return [
        # What has exploded may be dead by now.
        exploding,
        # Dead units pass no signal on, and without one nothing moves.
        ("dormant", evidence.dormant(DORMANT)),
        vanishing,
        # Where all are 0 the loss is, too: nothing is left to learn.
        (
            "vanishing",
            evidence.share("grad_rms", lambda v: v <= GRADIENT_LOW * largest > 0.0),
        ),
        ("frozen", 1.0 if still and largest != 0.0 else 0.0),
        ("conflicting", against if against > OPPOSED else 0.0),
    ]


def _judge_by_loss(evidence: Evidence) -> Verdict:
    """The verdict on a module without a plain fault, by the loss that it serves."""
    learned, numbers = evidence.learning, evidence.numbers
    if learned.surrogate:
        return _judge_by_surrogate(evidence)
    reason = "stalled" if learned.is_informed() and learned.far and learned.rests else ""

    def verdict(state: str, confidence: float, reason: str = reason) -> Verdict:
        return Verdict(state, min(confidence, MOST), numbers, reason)

    if learned.trend is None:
        return Verdict("unclear", 0.0, numbers, why=reasons.LACKING)
    if learned.is_informed() and learned.is_flat():
        return verdict("stalled" if learned.far else "converged", learned.flat())
    if learned.is_informed() or learned.is_falling():
        falling = learned.trend.fall.above(0.0)
        return verdict("healthy", max(learned.informed(), falling))
    if learned.is_uninformed() and learned.is_hopeless() and not evidence.has_signal():
        return verdict("starved", 1.0 - learned.informed(), "starved")
    missing = reasons.undecided(learned, evidence)
    return Verdict("unclear", 0.0, numbers, why=missing)


def _judge_by_surrogate(evidence: Evidence) -> Verdict:
    """The verdict on a module without a plain fault whose loss says nothing of progress.

    Whether the predictions depend on the inputs shows all the same: the skill is 0 if they
    do not. More than that it does not say: of examples that are gone through several times
    some are learned by heart, and where all actions are right the differences are noise.
    """
    skill, trend = evidence.learning.skill, evidence.learning.trend
    settled = trend is not None and trend.steps >= SETTLED
    blind = skill.known and skill.low > -NEGLIGIBLE and skill.high < NEGLIGIBLE
    numbers = {n: v for n, v in evidence.numbers.items() if n not in _OF_VALUES}
    if settled and blind and not evidence.has_signal():
        return Verdict("starved", MOST, numbers, "starved")
    return Verdict("unclear", 0.0, numbers)

"""From numbers to words: what state is each module in?

A decision list over the latest readings, from the plain to the subtle. Heuristic: the
thresholds are set by the runs of `benchmarks/verdicts.py`, and each is said here.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_e2e.diagnostics import states

# Single readings stray: the latest this many count.
READINGS = 10
# Of what is periodic there are fewer; below this many nothing is said.
PERIODIC_READINGS = 3
# How far it looks back for them: what is rarer than one in eighty is not judged by. A
# verdict then costs as much late in a run as early.
LOOKBACK = 500
# A gradient SNR below this is taken for noise (digits, k-tuple parity: BUILD_NOTES.md).
SNR_FLOOR = 0.02
# A loss that has fallen by less than this share of its starting value has not moved. It
# leaves room for the first steps, in which a model learns how frequent the classes are and
# nothing else.
UNMOVED = 0.1
# A loss is at rest that has not fallen by more than this share over so many readings. One
# that rests above this share of where it began may have more to learn.
REST, RESTING, FAR = 0.05, 20, 0.25
# Signal that comes out of a module, relative to what went in; and a gradient relative to
# the largest of any module. A module of many layers may well lose two decades.
GAIN_LOW, GAIN_HIGH = 1e-3, 1e3
GRADIENT_LOW = 1e-5
# Units at rest: ReLU networks in good health leave up to half of theirs unused.
DORMANT = 0.7
# Size of the steps relative to the weights: below it is rounding.
STILL = 1e-7
# A cosine between local and task gradient that is no coincidence, where the task's own
# gradient agrees with itself.
CONFLICT, RELIABLE = -0.1, 0.05
# Of what training achieves, the share that is lost with the module frozen. Below it
# training does as well without.
IDLE = 0.02
# The share of readings that must say so.
MAJORITY = 0.7


class Verdict(NamedTuple):
    """What the numbers say of one module.

    Attributes:
        state: a name from `diagnostics.states`.
        confidence: the share of the readings that say so, from 0 to 1; less where there are few.
        numbers: the medians behind it, by quantity, and `loss at start`.
        no_signal_reason: "starved" or "stalled" where noise and loss say so, whatever the state, which
            may name a cause (dormant units, say); else empty.
    """

    state: str
    confidence: float
    numbers: dict[str, float]
    no_signal_reason: str = ""

    @property
    def alarm(self) -> bool:
        """Whether something is wrong, and should be seen to."""
        return states.BY_NAME[self.state].alarm

    @property
    def message(self) -> str:
        """The verdict as a text, with the numbers and what to do."""
        return states.in_words(self.state, self.confidence, self.numbers)


def judge(
    history: Mapping[str, Mapping[str, Sequence[float]]],
    since: int = 0,
    standing: Sequence[str] = (),
) -> dict[str, Verdict]:
    """Judges every module from its readings.

    Args:
        history: by quantity and module the readings over time, NaN where there was none
            (`callbacks.ModuleTensorBoard.history`), modules in order.
        since: the reading from which on the present training mode is in force. Earlier
            ones count for the loss at the start only.
        standing: modules that the mode lets stand still on purpose.

    Returns:
        A `Verdict` for each module.

    Example:

    >>> from keras_e2e.diagnostics import judge
    >>> history = {"loss": {"encoder": [float("nan")] * 20, "out": [0.69] * 20},
    ...            "gradient_snr": {"encoder": [0.0] * 20, "out": [0.0] * 20}}
    >>> judge(history)["encoder"].state
    'starved'
    """
    modules = list(next(iter(history.values()), {}))

    def late(quantity: str, module: str) -> np.ndarray:
        values = history.get(quantity, {}).get(module, ())
        return np.asarray(values[max(since, len(values) - LOOKBACK) :], float)

    largest = [_median(late("grad_rms", module)) for module in modules]
    finite = [value for value in largest if np.isfinite(value)]
    found = {}
    for module in modules:
        readings = {quantity: late(quantity, module) for quantity in history}
        # A module without a loss of its own serves the task, whose loss is the last's. An
        # objective that does not count is in no conflict: its head was never trained.
        own = "loss" in readings and np.isfinite(readings["loss"]).any()
        serves = module if own else modules[-1]
        if not own:
            readings.pop("local_alignment", None)
        readings["loss"] = late("loss", serves)
        found[module] = _judge_one(
            readings,
            at_start(history.get("loss", {}).get(serves, ())),
            max(finite, default=float("nan")),
            module in standing,
        )
    return found


def with_measured(
    verdicts: Mapping[str, Verdict], measured: Mapping[str, Mapping[str, float]]
) -> dict[str, Verdict]:
    """Adds to verdicts what was measured on demand, and judges by it which are idle.

    A module is idle that is healthy or converged otherwise, and without the training of
    which the task does as well: `frozen_utility` below 0.02. It is as sure as the verdict
    that it takes the place of.

    Args:
        verdicts: by module (`judge`).
        measured: by quantity and module, NaN where there is no number
            (`OnDemand.measure`).

    Example:

    >>> from keras_e2e.diagnostics.verdicts import Verdict, with_measured
    >>> verdicts = {name: Verdict("healthy", 0.9, {}) for name in ("encoder", "out")}
    >>> measured = {"frozen_utility": {"encoder": 0.01, "out": 0.6}}
    >>> [verdict.state for verdict in with_measured(verdicts, measured).values()]
    ['idle', 'healthy']
    """
    found = {}
    for module, verdict in verdicts.items():
        own = {name: values[module] for name, values in measured.items()}
        own = {name: value for name, value in own.items() if not math.isnan(value)}
        numbers = {**verdict.numbers, **own}
        state = verdict.state
        if state in ("healthy", "converged") and own.get("frozen_utility", 1.0) < IDLE:
            state = "idle"
        found[module] = verdict._replace(state=state, numbers=numbers)
    return found


def at_start(losses: Sequence[float]) -> float:
    """The median of a loss's first three readings; NaN without any."""
    first = list(itertools.islice(filter(math.isfinite, losses), 3))
    return float(np.median(first)) if first else float("nan")


def fallen(value: Any, start: float, share: float) -> Any:
    """Whether a loss has fallen by a share of what it was; it may be negative."""
    return value < start - share * abs(start) if np.isfinite(start) else value < start


def resting(losses: Sequence[float], span: int = RESTING, share: float = REST) -> bool:
    """Whether a loss has not fallen by that share from so many readings ago until now.

    Medians of ten readings are compared; with too few readings it is not at rest.
    """
    values = np.asarray(losses, float)
    values = values[np.isfinite(values)][-span - READINGS :]
    if len(values) < span + READINGS:
        return False
    before, now = np.median(values[:READINGS]), np.median(values[-READINGS:])
    return not fallen(now, before, share)


def _judge_one(readings: dict, start: float, largest: float, still: bool) -> Verdict:
    numbers = {name: _median(values) for name, values in readings.items() if len(values)}
    numbers["loss at start"] = start
    numbers = {name: value for name, value in numbers.items() if not np.isnan(value)}

    def share(quantity: str, says: Callable, latest: int = READINGS) -> float:
        """The share of the latest readings that say so; 0 where there are too few."""
        values = readings.get(quantity, np.empty(0))
        values = values[~np.isnan(values)][-latest:]
        enough = PERIODIC_READINGS if latest < READINGS else READINGS
        return float(np.mean(says(values))) if len(values) >= enough else 0.0

    noise = share("gradient_snr", lambda v: v < SNR_FLOOR)
    unmoved = share("loss", lambda v: ~fallen(v, start, UNMOVED))
    far = numbers.get("loss", 0.0) > FAR * start > 0
    no_signal_reason = ""
    if noise >= MAJORITY and unmoved >= MAJORITY:
        no_signal_reason = "starved"
    elif noise >= MAJORITY and far and resting(readings["loss"]):
        no_signal_reason = "stalled"

    def verdict(state: str, confidence: float) -> Verdict:
        return Verdict(state, confidence, numbers, no_signal_reason)

    may_blow = {"loss", "grad_rms", "update_ratio"} & set(readings)
    blown = max(_blown(readings[name]) for name in may_blow)
    if blown >= MAJORITY:
        return verdict("exploding", blown)
    if still or len(readings["loss"]) < READINGS:
        return verdict("unclear", 0.0)
    # Causes before effects: dead units pass no signal on, and without one nothing moves.
    checks = [
        ("exploding", share("signal_gain", lambda v: v > GAIN_HIGH)),
        ("dormant", share("dormant_fraction", lambda v: v >= DORMANT)),
        ("vanishing", share("signal_gain", lambda v: v < GAIN_LOW)),
        ("vanishing", share("grad_rms", lambda v: v <= GRADIENT_LOW * largest)),
        ("frozen", _frozen(readings)),
    ]
    for state, says in checks:
        if says >= MAJORITY:
            return verdict(state, says)
    opposed = share("local_alignment", lambda v: v < CONFLICT, PERIODIC_READINGS * 2)
    # The median: single cosines of noisy halves stray far.
    if opposed >= MAJORITY and numbers.get("reliability", 0.0) > RELIABLE:
        return verdict("conflicting", opposed)
    if no_signal_reason == "starved":
        return verdict("starved", min(noise, unmoved))
    if noise >= MAJORITY:
        return verdict(no_signal_reason or "converged", min(noise, 1.0 - unmoved))
    # A signal that comes and goes, and has moved nothing yet.
    wavering = unmoved >= MAJORITY and noise > 1.0 - MAJORITY
    if wavering or "gradient_snr" not in numbers:
        return verdict("unclear", 0.0)
    return verdict("healthy", 1.0 - noise)


def _frozen(readings: dict) -> float:
    """The share of readings in which the weights stood still; all must have."""
    moved = readings.get("update_ratio", np.empty(0))[-READINGS:]
    if not len(moved):
        return 0.0
    # Nothing to read where no weight may move. With accumulated gradients most steps
    # move nothing, so a single one that does acquits.
    return 1.0 if np.all(np.isnan(moved) | (moved <= STILL)) else 0.0


def _blown(values: np.ndarray) -> float:
    """The share of the latest readings that are infinite, or NaN after numbers."""
    if np.isnan(values).all():  # nothing was read
        return 0.0
    return float(np.mean(~np.isfinite(values[-READINGS:])))


def _median(values: np.ndarray) -> float:
    latest = values[~np.isnan(values)][-READINGS:]
    return float(np.median(latest)) if len(latest) else float("nan")

"""From measurements to verdicts: what state is each module in?

A decision list over the latest measurements, from plain faults to subtle ones. Heuristic:
the thresholds are set by the runs of `benchmarks/verdicts.py`, and each is stated here.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from keras_e2e.diagnostics import reasons, states
from keras_e2e.diagnostics.plateau import (
    MEASUREMENTS,
    UNMOVED,
    at_start,
    fallen,
    plateaued,
)

# Of expensive quantities there are fewer; with fewer than this many they say nothing.
EXPENSIVE_MEASUREMENTS = 3
# How far it looks back for them: what is rarer than one in eighty is not judged by. A
# verdict then costs as much late in a run as early.
LOOKBACK = 500
# A loss that plateaus above this share of where it began may have more to learn.
FAR = 0.25
# A gradient SNR below this is taken for noise (digits, k-tuple parity: BUILD_NOTES.md).
SNR_FLOOR = 0.02
# The signal at a module's input, relative to that at its output; and a gradient relative
# to the largest of any module. A module of many layers may well lose two decades.
GAIN_LOW, GAIN_HIGH = 1e-3, 1e3
GRADIENT_LOW = 1e-5
# Dormant units: healthy ReLU networks leave up to half of theirs unused.
DORMANT = 0.7
# Size of the steps relative to the weights: below it is rounding.
STILL = 1e-7
# A cosine between local and task gradient that is no coincidence, where the task's own
# gradient agrees with itself.
CONFLICT, RELIABLE = -0.1, 0.05
# Of what training achieves, the share that is lost with the module frozen. Below it
# training does as well without.
IDLE = 0.02
# The share of measurements that must say so.
MAJORITY = 0.7


class Verdict(NamedTuple):
    """What the measurements of one module say: its state, and how certain that is.

    Attributes:
        state: String, the name of the state; `states.STATES` says what each means.
        confidence: Float from 0 to 1, the share of the measurements that say so; less
            where there are few.
        numbers: Dict of the medians that the verdict rests on, by quantity, and
            `loss at start`.
        no_signal_reason: `"starved"` or `"stalled"` where the SNR and the loss say that no
            usable signal arrives, whatever the state, which may name a cause (dormant
            units, say); empty otherwise.
        why: String, why an unclear module is not judged, in a sentence; empty otherwise.

    Example:

    >>> from keras_e2e.diagnostics import Verdict
    >>> verdict = Verdict("frozen", 1.0, {"update_ratio": 0.0})
    >>> verdict.alarm, verdict.message.split(". ")[0]
    (True, 'Frozen (100 % confidence): update_ratio 0')
    """

    state: str
    confidence: float
    numbers: dict[str, float]
    no_signal_reason: str = ""
    why: str = ""

    @property
    def alarm(self) -> bool:
        """Whether something is wrong that should be looked at."""
        return states.BY_NAME[self.state].alarm

    @property
    def message(self) -> str:
        """The verdict as a text, with the numbers and what to do."""
        return states.message(self.state, self.confidence, self.numbers, self.why)

    @property
    def summary(self) -> str:
        """State, confidence and numbers alone, without what they mean and what to do."""
        return states.summary(self.state, self.confidence, self.numbers)


def judge(
    history: Mapping[str, Mapping[str, Sequence[float]]],
    since: int = 0,
    frozen: Sequence[str] = (),
) -> dict[str, Verdict]:
    """Judges every module by its measurements: which state is it in?

    It follows rules over the latest ten measurements, from plain faults (frozen weights) to
    subtle ones; their thresholds are heuristics. The states are those of
    `keras_e2e.diagnostics.states.STATES`, such as `"healthy"`, `"starved"` (the gradient is
    noise and the loss is where it began), `"converged"` or, with too few measurements,
    `"unclear"`.

    Args:
        history: Dict of dicts: by quantity and module the measurements over time, NaN where
            there was none (`callbacks.ModuleDiagnostics.history`), modules in order.
        since: Integer, the index of the first measurement in the present training mode.
            Earlier ones count for the loss at the start only. Defaults to 0.
        frozen: Names of the modules that the training mode freezes on purpose. Defaults to
            none.

    Returns:
        A dict with a `Verdict` for each module.

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
        measured = {quantity: late(quantity, module) for quantity in history}
        # A module without a loss of its own serves the task, whose loss is the last's. An
        # objective that does not count is in no conflict: its head was never trained.
        own = "loss" in measured and np.isfinite(measured["loss"]).any()
        serves = module if own else modules[-1]
        if not own:
            measured.pop("local_alignment", None)
        measured["loss"] = late("loss", serves)
        start = at_start(history.get("loss", {}).get(serves, ()))
        found[module] = _judge_one(
            _Evidence(measured, start),
            max(finite, default=float("nan")),
            module in frozen,
        )
    return found


def with_measured(
    verdicts: Mapping[str, Verdict], measured: Mapping[str, Mapping[str, float]]
) -> dict[str, Verdict]:
    """Adds to verdicts what was measured on demand, and says which modules are idle.

    A module is idle if it is healthy or converged otherwise, and the task does as well
    without training it: `frozen_utility` is below 0.02. The confidence stays that of the
    verdict that this one replaces.

    Args:
        verdicts: Dict of verdicts by module, from `judge`.
        measured: Dict of dicts by quantity and module, NaN where there is no number, from
            `OnDemand.measure`.

    Returns:
        A dict with a `Verdict` for each module.

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


class _Evidence:
    """The latest measurements of one module, and the share of them that say something.

    Attributes:
        measured: Dict from quantity to its measurements, NaN where there was none.
        numbers: Dict of their medians, and `loss at start`.
        noise: Float, the share of the measurements of the SNR that are noise.
        unmoved: Float, the share of those of the loss that are no lower than at the start.
    """

    def __init__(self, measured: dict[str, np.ndarray], start: float):
        self.measured, self.start = measured, start
        numbers = {name: _median(v) for name, v in measured.items() if len(v)}
        numbers["loss at start"] = start
        self.numbers = {n: value for n, value in numbers.items() if not np.isnan(value)}
        self.noise = self.share("gradient_snr", lambda v: v < SNR_FLOOR)
        self.unmoved = self.share("loss", lambda v: ~fallen(v, start, UNMOVED))

    def share(self, quantity: str, says: Callable, latest: int = MEASUREMENTS) -> float:
        """The share of the latest measurements that say so; 0 if there are too few."""
        values = self.measured.get(quantity, np.empty(0))
        values = values[~np.isnan(values)][-latest:]
        enough = EXPENSIVE_MEASUREMENTS if latest < MEASUREMENTS else MEASUREMENTS
        return float(np.mean(says(values))) if len(values) >= enough else 0.0

    def blown(self) -> float:
        """The share of the latest measurements that are infinite, or NaN after numbers."""
        may_blow = {"loss", "grad_rms", "update_ratio"} & set(self.measured)
        return max(_blown(self.measured[name]) for name in may_blow)

    def frozen(self) -> float:
        """1 if no weight changed in any of the latest measurements, otherwise 0."""
        moved = self.measured.get("update_ratio", np.empty(0))[-MEASUREMENTS:]
        if not len(moved):
            return 0.0
        # NaN where no weight may change. With accumulated gradients most steps change
        # nothing, so a single one that does acquits.
        return 1.0 if np.all(np.isnan(moved) | (moved <= STILL)) else 0.0

    def no_signal_reason(self) -> str:
        """Why no usable signal arrives, by SNR and loss; empty if one does."""
        far = self.numbers.get("loss", 0.0) > FAR * self.start > 0
        if self.noise >= MAJORITY and self.unmoved >= MAJORITY:
            return "starved"
        if self.noise >= MAJORITY and far and plateaued(self.measured["loss"]):
            return "stalled"
        return ""


def _judge_one(evidence: _Evidence, largest: float, frozen: bool) -> Verdict:
    """The verdict on one module.

    Args:
        evidence: The `_Evidence` of the module.
        largest: Float, the largest gradient of any module.
        frozen: Boolean, whether the training mode freezes the module on purpose.
    """
    noise, unmoved, share = evidence.noise, evidence.unmoved, evidence.share
    reason = evidence.no_signal_reason()

    def verdict(state: str, confidence: float) -> Verdict:
        return Verdict(state, confidence, evidence.numbers, reason)

    def unclear(why: str) -> Verdict:
        return Verdict("unclear", 0.0, evidence.numbers, reason, why)

    blown = evidence.blown()
    if blown >= MAJORITY:
        return verdict("exploding", blown)
    if frozen:
        return unclear(reasons.FROZEN)
    if len(evidence.measured["loss"]) < MEASUREMENTS:
        return unclear(reasons.too_few(evidence.measured))
    # Causes before effects: dead units pass no signal on, and without one nothing moves.
    checks = [
        ("exploding", share("signal_gain", lambda v: v > GAIN_HIGH)),
        ("dormant", share("dormant_fraction", lambda v: v >= DORMANT)),
        ("vanishing", share("signal_gain", lambda v: v < GAIN_LOW)),
        ("vanishing", share("grad_rms", lambda v: v <= GRADIENT_LOW * largest)),
        ("frozen", evidence.frozen()),
    ]
    for state, says in checks:
        if says >= MAJORITY:
            return verdict(state, says)
    opposed = share("local_alignment", lambda v: v < CONFLICT, EXPENSIVE_MEASUREMENTS * 2)
    # The median: single cosines of noisy halves scatter widely.
    if opposed >= MAJORITY and evidence.numbers.get("reliability", 0.0) > RELIABLE:
        return verdict("conflicting", opposed)
    if reason == "starved":
        return verdict("starved", min(noise, unmoved))
    if noise >= MAJORITY:
        return verdict(reason or "converged", min(noise, 1.0 - unmoved))
    if "gradient_snr" not in evidence.numbers:
        return unclear(reasons.LACKING)
    # A signal that comes and goes, and has moved nothing yet.
    if unmoved >= MAJORITY and noise > 1.0 - MAJORITY:
        return unclear(reasons.CONTRADICTING)
    return verdict("healthy", 1.0 - noise)


def _blown(values: np.ndarray) -> float:
    if np.isnan(values).all():  # nothing was measured
        return 0.0
    return float(np.mean(~np.isfinite(values[-MEASUREMENTS:])))


def _median(values: np.ndarray) -> float:
    latest = values[~np.isnan(values)][-MEASUREMENTS:]
    return float(np.median(latest)) if len(latest) else float("nan")

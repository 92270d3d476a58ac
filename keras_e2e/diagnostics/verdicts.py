"""From numbers to words: what state is each module in?

A decision list over the latest readings, from the plain to the subtle. Heuristic: the
thresholds are set by the runs of `benchmarks/verdicts.py`, and each is said here.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_e2e.diagnostics import states

# Single readings stray: the latest this many count.
READINGS = 10
# Of what is periodic there are fewer; below this many nothing is said.
PERIODIC_READINGS = 3
# A gradient SNR below this is taken for noise (digits, k-tuple parity: BUILD_NOTES.md).
SNR_FLOOR = 0.02
# A loss above this share of its starting value has not moved. It leaves room for the first
# steps, in which a model learns how frequent the classes are and nothing else.
UNMOVED = 0.9
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
# The share of readings that must say so.
MAJORITY = 0.7

Readings = Mapping[str, Any]


class Verdict(NamedTuple):
    """What the numbers say of one module.

    Attributes:
        state: a name from `diagnostics.states`.
        sure: the share of the readings that say so, from 0 to 1; less where there are few.
        numbers: the medians behind it, by quantity, and `loss at start`.
    """

    state: str
    sure: float
    numbers: dict[str, float]

    @property
    def alarm(self) -> bool:
        """Whether something should be done."""
        return states.BY_NAME[self.state].alarm

    @property
    def words(self) -> str:
        """The verdict as a text, with the numbers and what to do."""
        return states.in_words(self.state, self.sure, self.numbers)


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
    late = {
        module: {
            quantity: np.asarray(values.get(module, ())[since:], float)
            for quantity, values in history.items()
        }
        for module in modules
    }
    largest = [_median(late[m].get("grad_rms", ())) for m in modules]
    finite = [value for value in largest if np.isfinite(value)]
    found = {}
    for module in modules:
        readings = late[module]
        own = _values(history, "loss", module)
        # A module without a loss of its own serves the task, whose loss is the last's.
        serves = module if np.isfinite(own[since:]).any() else modules[-1]
        losses = _values(history, "loss", serves)
        start = losses[np.isfinite(losses)][:3]
        readings["loss"] = losses[since:]
        found[module] = _judge_one(
            readings,
            float(np.median(start)) if len(start) else float("nan"),
            max(finite, default=float("nan")),
            module in standing,
        )
    return found


def _judge_one(readings: Readings, start: float, largest: float, still: bool) -> Verdict:
    numbers = {name: _median(values) for name, values in readings.items() if len(values)}
    numbers["loss at start"] = start
    numbers = {name: value for name, value in numbers.items() if not np.isnan(value)}

    def share(quantity: str, says: Callable, latest: int = READINGS) -> float:
        """The share of the latest readings that say so; 0 where there are too few."""
        values = np.asarray(readings.get(quantity, ()), float)
        values = values[~np.isnan(values)][-latest:]
        enough = PERIODIC_READINGS if latest < READINGS else READINGS
        return float(np.mean(says(values))) if len(values) >= enough else 0.0

    def verdict(state: str, sure: float) -> Verdict:
        return Verdict(state, sure, numbers)

    blown = max(
        _blown(readings.get(name, ())) for name in ("loss", "grad_rms", "update_ratio")
    )
    if blown >= MAJORITY:
        return verdict("exploding", blown)
    if still or len(readings.get("loss", ())) < READINGS:
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
    noise = share("gradient_snr", lambda v: v < SNR_FLOOR)
    unmoved = share("loss", lambda v: v > UNMOVED * start)
    if noise >= MAJORITY and unmoved >= MAJORITY:
        return verdict("starved", min(noise, unmoved))
    if noise >= MAJORITY:
        return verdict("converged", min(noise, 1.0 - unmoved))
    # A signal that comes and goes, and has moved nothing yet.
    wavering = unmoved >= MAJORITY and noise > 1.0 - MAJORITY
    if wavering or "gradient_snr" not in numbers:
        return verdict("unclear", 0.0)
    return verdict("healthy", 1.0 - noise)


def _frozen(readings: Readings) -> float:
    """The share of readings in which the weights stood still; all must have."""
    moved = np.asarray(readings.get("update_ratio", ()), float)[-READINGS:]
    if not len(moved):
        return 0.0
    # Nothing to read where no weight may move. With accumulated gradients most steps
    # move nothing, so a single one that does acquits.
    return 1.0 if np.all(np.isnan(moved) | (moved <= STILL)) else 0.0


def _blown(values: Sequence[float]) -> float:
    """The share of the latest readings that are infinite, or NaN after numbers."""
    latest = np.asarray(values, float)[-READINGS:]
    if not len(latest) or np.isnan(values).all():
        return 0.0
    return float(np.mean(~np.isfinite(latest)))


def _values(history: Mapping, quantity: str, module: str) -> np.ndarray:
    return np.asarray(history.get(quantity, {}).get(module, ()), float)


def _median(values: Any) -> float:
    latest = np.asarray(values, float)
    latest = latest[~np.isnan(latest)][-READINGS:]
    return float(np.median(latest)) if len(latest) else float("nan")

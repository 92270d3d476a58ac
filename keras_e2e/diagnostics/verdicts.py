"""From numbers to words: does a module get a usable learning signal?"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# A gradient SNR below this is taken for noise. Heuristic; see BUILD_NOTES.md for the
# readings it was set by.
SNR_FLOOR = 0.02
# A loss above this share of its starting value has not moved.
UNMOVED = 0.95
# Single readings stray: the median over this many of the latest ones counts.
READINGS = 10


class Verdict(NamedTuple):
    """What the numbers say of one module.

    Attributes:
        state: `"starved"` (no usable signal: a low SNR with the loss where it began),
            `"learning"`, `"converged"` (a low SNR with a loss that has fallen) or
            `"unclear"` (too few readings).
        snr: the median gradient SNR over the latest readings.
        loss: the median of the loss over them.
        start: the loss at the start.
    """

    state: str
    snr: float
    loss: float
    start: float


def verdict(losses: Sequence[float], snrs: Sequence[float]) -> Verdict:
    """Judges one module from its readings.

    A low gradient SNR alone says nothing: it is low after convergence too. Low with the
    loss still at its starting value, it means starvation. A heuristic, not a test.

    Args:
        losses: the loss that the module serves, at each reading.
        snrs: its `gradient_snr` at the same readings; NaN readings are left out.

    Returns:
        A `Verdict`; `"unclear"` below 10 readings.

    Example:

    >>> from keras_e2e.diagnostics.verdicts import verdict
    >>> verdict([0.69] * 20, [0.0] * 20).state
    'starved'
    >>> verdict([0.69] * 10 + [0.01] * 10, [0.3] * 10 + [0.0] * 10).state
    'converged'
    """
    losses_, snrs_ = np.asarray(losses, float), np.asarray(snrs, float)
    finite = np.isfinite(snrs_)
    late = slice(-READINGS, None)
    start = float(np.median(losses_[:3])) if len(losses_) else float("nan")
    if finite.sum() < READINGS or len(losses_) < READINGS:
        return Verdict("unclear", float("nan"), float("nan"), start)
    snr = float(np.median(snrs_[finite][late]))
    loss = float(np.median(losses_[late]))
    if snr >= SNR_FLOOR:
        state = "learning"
    else:
        state = "starved" if loss > UNMOVED * start else "converged"
    return Verdict(state, snr, loss, start)

"""Why a module is judged so, or is not, in a sentence each."""

import math

from keras_e2e.diagnostics.evidence import HORIZON, UNMOVED, Evidence, Learning
from keras_e2e.diagnostics.plateau import MEASUREMENTS

FROZEN = "It has no weights, or the training mode does not train them."
LACKING = "A verdict takes the quantity loss, which was not measured."


def too_few(evidence: Evidence) -> str:
    """Says how many measurements there are, and how to get more.

    Args:
        evidence: `Evidence` of the module.
    """
    count = evidence.size
    if not count and any(last for last, _ in evidence.latest.values()):
        return LACKING
    return (
        f"A verdict takes {MEASUREMENTS} measurements in one training mode; so far there "
        f"{'is' if count == 1 else 'are'} {count}. Lower update_freq or train longer."
    )


def not_finite(evidence: Evidence) -> str:
    """Says which numbers are no longer finite.

    Args:
        evidence: `Evidence` of the module.
    """
    wild = {}
    for name in ("loss", "grad_rms", "update_ratio"):
        last, _ = evidence.latest.get(name, ([], []))
        count = sum(not math.isfinite(value) for value in last)
        if count:
            wild[name] = f"{name} in {count} of the latest {len(last)} measurements"
    found = ", ".join(wild.values())
    weights = wild.keys() == {"update_ratio"}
    end = " Some weights have become NaN." if weights else ""
    return f"Numbers are NaN or infinite: {found}.{end}"


def undecided(learned: Learning, evidence: Evidence) -> str:
    """Says what the measurements leave open, and about how many more steps it takes.

    Args:
        learned: `Learning` of the loss that the module serves.
        evidence: `Evidence` of the module.
    """
    steps = _steps_needed(learned)
    more = f"about {steps:,} more steps" if steps else "a longer training"
    if not learned.is_uninformed():
        what = "whether the loss has left the level of a constant prediction"
    elif not learned.is_hopeless():
        what = "whether the loss is about to fall"
    else:
        return (
            "A signal arrives that could lower the loss, and it has not fallen yet: "
            f"{more} should tell."
        )
    return f"It is not clear yet {what}: {more} should tell, or a lower update_freq."


def _steps_needed(learned: Learning) -> int:
    """How many more steps halve what is uncertain of the fall of the loss; 0 if unknown."""
    if learned.trend is None:
        return 0
    ahead = learned.trend.fall_within(max(HORIZON, learned.trend.steps))
    allowed = UNMOVED * abs(learned.start)
    short = max(1.0, (ahead.high - ahead.value) / max(allowed, 1e-12))
    return int(float(f"{learned.trend.steps * min(short**2, 10.0):.1g}"))

"""Which modules are idle, by what was measured on demand."""

import math
from collections.abc import Mapping

from keras_e2e.diagnostics.verdicts import Verdict

# Of what training achieves, the share that is lost with the module frozen. Below it
# training does as well without.
IDLE = 0.02


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

    >>> from keras_e2e.diagnostics import Verdict
    >>> from keras_e2e.diagnostics.idle import with_measured
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

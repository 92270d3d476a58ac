"""One fault, one alarm: which module's state is an effect of another's."""

import math
from collections.abc import Mapping
from typing import Any

from keras_e2e.diagnostics.evidence import GAIN_HIGH, GAIN_LOW

# A module in one of these states is at fault itself, whatever the others do.
OWN = ("conflicting",)


def name_causes(verdicts: Mapping[str, Any]) -> dict[str, Any]:
    """Notes in each alarming verdict which module's fault it is an effect of.

    Signals flow back and activations forward, so one fault shows in many modules: dead
    units leave the modules behind them without input and those before them without
    signal. The first in this order is the cause, the others are its effects:

    1. a module through which the signal explodes, the worst of them; or else the first
       whose numbers are not finite;
    2. the first whose units are dormant or that swallows the signal: those behind it lack
       input, those before it lack a signal;
    3. the first that does not change although it gets a gradient, or is not trainable;
    4. the first that is starved.

    Args:
        verdicts: Dict from module, in order, to its `Verdict`.

    Returns:
        The verdicts, those of effects with `cause`.
    """
    alarming = [name for name, verdict in verdicts.items() if verdict.alarm]
    root = _root({name: verdicts[name] for name in alarming})
    found = dict(verdicts)
    for name in alarming:
        verdict = verdicts[name]
        if name != root and not _is_own(verdict):
            found[name] = verdict._replace(cause=root)
    return found


def _root(alarming: Mapping[str, Any]) -> str:
    """The module whose fault comes first; empty without any."""
    by_state = {
        state: [name for name, verdict in alarming.items() if verdict.state == state]
        for state in ("exploding", "dormant", "vanishing", "frozen", "starved")
    }

    def gain(name: str) -> float:
        return alarming[name].numbers.get("signal_gain", math.nan)

    # The gain of a module whose numbers are not finite may be one from before.
    growing = [name for name in by_state["exploding"] if gain(name) > GAIN_HIGH]
    if growing:
        return max(growing, key=gain)
    if by_state["exploding"]:
        return by_state["exploding"][0]
    swallowed = any(gain(name) < GAIN_LOW for name in alarming)
    # Where one swallows the signal, those before it lack it: their gradients are small, and
    # of the first module, which has no input, the gain is not known.
    vanishing = [n for n in by_state["vanishing"] if gain(n) < GAIN_LOW or not swallowed]
    blocking = [name for name in alarming if name in (*by_state["dormant"], *vanishing)]
    if blocking:
        return blocking[0]
    moved = [name for name in by_state["frozen"] if _is_own(alarming[name])]
    for names in (moved, *by_state.values()):
        if names:
            return names[0]
    return next(iter(alarming), "")


def _is_own(verdict: Any) -> bool:
    """Whether the fault is the module's own: nothing before or behind it explains it."""
    if verdict.state == "frozen":
        # Not trainable, or it gets a gradient and does not follow it.
        numbers = verdict.numbers
        return "update_ratio" not in numbers or numbers.get("grad_rms", 0.0) > 0.0
    return verdict.state in OWN

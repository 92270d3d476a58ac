"""The states that a module may be in: what each means and what to do about it."""

import math
from collections.abc import Mapping
from typing import NamedTuple


class State(NamedTuple):
    """One state.

    Attributes:
        name: String, one word; its place in `STATES` is its code in TensorBoard.
        alarm: Boolean, whether something is wrong that should be looked at.
        meaning: String, what it says of the module, in a sentence.
        advice: String, what to do, or what could be done; empty if nothing is to be done.
        evidence: Tuple of the names of the quantities that it is judged by.
    """

    name: str
    alarm: bool
    meaning: str
    advice: str
    evidence: tuple[str, ...]


# The order is that of the codes in log files: new ones go to the end.
STATES = (
    State(
        "unclear",
        False,
        "Fewer than ten measurements to judge by (a lower update_freq or a longer training "
        "gives more), or they contradict each other.",
        "",
        (),
    ),
    State(
        "healthy",
        False,
        "A usable signal gets through and the loss moves.",
        "",
        ("gradient_snr", "loss"),
    ),
    State(
        "converged",
        False,
        "Little signal is left because there is little left to learn.",
        "",
        ("gradient_snr", "loss"),
    ),
    State(
        "starved",
        True,
        "The gradient is noise, and the loss is where it began: no usable signal gets "
        "through.",
        "Give the module an objective of its own and train it in mode 'local' first; a few "
        "intermediate labels do most.",
        ("gradient_snr", "loss"),
    ),
    State(
        "vanishing",
        True,
        "Hardly any signal reaches the module, or comes back out of it.",
        "Look for saturated or dead units, or weights at zero; normalize, add a skip "
        "connection, or put a boundary behind the module before it.",
        ("signal_gain", "grad_rms"),
    ),
    State(
        "exploding",
        True,
        "The signal grows on its way back through this module.",
        "Lower the learning rate or the initial weights, normalize, or clip the gradient.",
        ("signal_gain", "grad_rms"),
    ),
    State(
        "dormant",
        True,
        "Most units of the module are hardly ever active.",
        "Lower the learning rate, start the biases higher, or use an activation that "
        "does not die, such as leaky ReLU.",
        ("dormant_fraction",),
    ),
    State(
        "frozen",
        True,
        "The weights do not change.",
        "If that is not intended: check `trainable`, the learning rate and the training "
        "mode.",
        ("update_ratio",),
    ),
    State(
        "conflicting",
        True,
        "The local objective pulls against the task.",
        "Lower its weight, take another objective, or train the module end to end.",
        ("local_alignment", "reliability"),
    ),
    State(
        "stalled",
        False,
        "The loss fell and plateaued far above zero, and the gradient is noise: either "
        "this is all there is to learn, or no usable signal gets through any more.",
        "Compare the loss with what is possible. If there should be more: lower the "
        "learning rate, or train the module on labels of its own, if you have some.",
        ("gradient_snr", "loss"),
    ),
    State(
        "idle",
        False,
        "It trains, and the task does as well with this module frozen: what it learns is "
        "not needed.",
        "Leave it frozen, shrink it or remove it, one module at a time; or, if it should "
        "matter, give it an objective of its own.",
        ("frozen_utility",),
    ),
)
BY_NAME = {state.name: state for state in STATES}
CODES = {state.name: code for code, state in enumerate(STATES)}


def message(
    state: str, confidence: float, numbers: Mapping[str, float], why: str = ""
) -> str:
    """A verdict as a text: state, confidence, the numbers that it rests on, what to do.

    Args:
        state: String, the name of the state.
        confidence: Float from 0 to 1.
        numbers: Dict of numbers by the name of the quantity, and `loss at start`. Those
            that are no evidence for this state are left out of the text.
        why: String, a sentence in place of the meaning of the state. Defaults to none.

    Example:

    >>> from keras_e2e.diagnostics.states import message
    >>> message("converged", 0.9, {"gradient_snr": 0.0, "loss": 0.01}).split(". ")[0]
    'Converged (90 % confidence): gradient_snr 0, loss 0.01'
    """
    known = BY_NAME[state]
    head = summary(state, confidence, numbers)
    return " ".join(filter(None, [f"{head}.", why or known.meaning, known.advice]))


def summary(state: str, confidence: float, numbers: Mapping[str, float]) -> str:
    """State, confidence and numbers alone, without a period.

    Args:
        state: As in `message`.
        confidence: As in `message`.
        numbers: As in `message`.
    """
    known = BY_NAME[state]
    shown = [f"{name} {numbers[name]:.3g}" for name in known.evidence if name in numbers]
    if "loss" in known.evidence and "loss at start" in numbers and shown:
        shown[-1] += f" ({numbers['loss at start']:.3g} at the start)"
    head = state.capitalize()
    if state != "unclear" and math.isfinite(confidence):
        head += f" ({100 * confidence:.0f} % confidence)"
    if shown:
        head += f": {', '.join(shown)}"
    return head

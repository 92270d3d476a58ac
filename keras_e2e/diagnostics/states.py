"""The states that a module may be in, and what each means."""

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


class Place(NamedTuple):
    """What a module is and has, which the advice depends on.

    Attributes:
        task: Boolean, whether it is the last module, which the task loss trains.
        objective: String, the class of its objective; empty without one.
        labels: Boolean, whether the labels that the objective requires were given; `None`
            where it requires none, or that is not known.
        normalized: Boolean, whether a layer that normalizes is in it.
        trained: Boolean, whether the steps change any of its weights; `None` where that
            is not known. It goes into no log.
        surrogate: Boolean, whether the loss that it serves is a surrogate: its value says
            nothing of progress, as that of `rewards.PPO`.
    """

    task: bool = False
    objective: str = ""
    labels: bool | None = None
    normalized: bool = False
    trained: bool | None = None
    surrogate: bool = False

    @property
    def code(self) -> int:
        """The place as a number for a log file."""
        labels = (None, False, True).index(self.labels)
        own = self.task + 2 * bool(self.objective) + 4 * labels
        return own + 16 * self.normalized + 32 * self.surrogate

    @classmethod
    def from_code(cls, code: int) -> "Place":
        """The place of a `code`; the objective goes by no name."""
        labels = (None, False, True, None)[code // 4 % 4]
        objective = "objective" if code & 2 else ""
        normalized, surrogate = bool(code & 16), bool(code & 32)
        return cls(bool(code & 1), objective, labels, normalized, surrogate=surrogate)


# The order is that of the codes in log files: new ones go to the end.
STATES = (
    State(
        "unclear",
        False,
        "What was measured so far does not decide it: train on, or lower update_freq.",
        "",
        (),
    ),
    State(
        "healthy",
        False,
        "It learns: the loss falls, or has left the level of a constant prediction, and no "
        "fault is found.",
        "",
        ("skill", "loss"),
    ),
    State(
        "converged",
        False,
        "As many steps again would lower the loss by less than 2 % of what was gained, and "
        "little of it is left.",
        "",
        ("skill", "loss"),
    ),
    State(
        "starved",
        True,
        "No usable signal: the loss is that of a prediction which is the same for all "
        "examples, and at this rate the next thousand steps would hardly lower it.",
        "Give the module an objective of its own and train it in mode 'local' first; a few "
        "intermediate labels do most.",
        ("skill", "loss"),
    ),
    State(
        "vanishing",
        True,
        "Hardly any signal comes out of the module on its way back, or reaches it.",
        "Look for saturated units, weights or factors near zero, and stopped gradients; "
        "normalize, or add a skip connection.",
        ("signal_gain", "grad_rms"),
    ),
    State(
        "exploding",
        True,
        "The signal grows on its way back through this module, or numbers are no longer "
        "finite.",
        "Check inputs and targets for NaN and infinity; lower the learning rate or the "
        "initial weights, normalize, or clip the gradient.",
        ("signal_gain", "grad_rms", "loss"),
    ),
    State(
        "dormant",
        True,
        "Most units of the module are hardly ever active.",
        "Lower the learning rate, start the biases (beta, after a normalization) higher, "
        "or use an activation that does not die, such as leaky ReLU.",
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
        ("local_alignment",),
    ),
    State(
        "stalled",
        False,
        "As many steps again would lower the loss by less than 2 % of what was gained, and "
        "much of it is left: either this is all there is to learn, or no usable signal "
        "gets through any more.",
        "Compare the loss with what is possible. If there should be more: lower the "
        "learning rate, or train the module on labels of its own, if you have some.",
        ("skill", "loss"),
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
GUIDE = "docs/guides/what_now.md"
"""The page of the documentation that has a section for each state."""

BY_NAME = {state.name: state for state in STATES}
CODES = {state.name: code for code, state in enumerate(STATES)}

# What is said in place of a state's meaning where the loss is a surrogate.
OF_SURROGATES = {
    "unclear": "The loss is a surrogate, whose value says nothing of progress: a module "
    "that serves it is found starved or faulty, or is not judged. Look at episode_return, "
    "and at gradient_snr while it does not rise.",
    "starved": "No usable signal: the predictions are the same for all examples, and have "
    "been for hundreds of steps.",
}


def summary(state: str, confidence: float, numbers: Mapping[str, float]) -> str:
    """State, confidence and numbers alone, without a period.

    Args:
        state: As in `message`.
        confidence: As in `message`.
        numbers: As in `message`.
    """
    known = BY_NAME[state]
    shown = [
        f"{name} {numbers[name]:.3g}"
        for name in known.evidence
        if not math.isnan(numbers.get(name, math.nan))
    ]
    if "loss" in known.evidence and "loss at start" in numbers and shown:
        shown[-1] += f" ({numbers['loss at start']:.3g} at the start)"
    head = state.capitalize()
    if state != "unclear" and math.isfinite(confidence):
        head += f" ({100 * confidence:.0f} % confidence)"
    if shown:
        head += f": {', '.join(shown)}"
    return head

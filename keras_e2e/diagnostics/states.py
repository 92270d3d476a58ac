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
    """

    task: bool = False
    objective: str = ""
    labels: bool | None = None
    normalized: bool = False
    trained: bool | None = None

    @property
    def code(self) -> int:
        """The place as a number for a log file."""
        labels = (None, False, True).index(self.labels)
        return self.task + 2 * bool(self.objective) + 4 * labels + 16 * self.normalized

    @classmethod
    def from_code(cls, code: int) -> "Place":
        """The place of a `code`; the objective goes by no name."""
        labels = (None, False, True, None)[code // 4 % 4]
        objective = "objective" if code & 2 else ""
        return cls(bool(code & 1), objective, labels, bool(code & 16))


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
BY_NAME = {state.name: state for state in STATES}
# Steps below the healthy band of `update_ratio`, and a skill that is hardly any.
SMALL_STEPS, HARDLY = 1e-4, 0.02
CODES = {state.name: code for code, state in enumerate(STATES)}


def advice(state: str, place: Place, numbers: Mapping[str, float] | None = None) -> str:
    """What to do about a state, by what the module is and has, and by its numbers.

    Args:
        state: String, the name of the state.
        place: `Place` of the module.
        numbers: Dict from quantity to what was measured of the module. Defaults to
            `None`: nothing is known.

    Example:

    >>> from keras_e2e.diagnostics.states import Place, advice
    >>> advice("starved", Place(), {"update_ratio": 5e-6}).split(": ")[0]
    'The steps are small (update_ratio 5e-06, about 0.001 is usual)'
    """
    numbers = numbers or {}
    if state == "starved":
        return f"{_check_first(numbers)} {_advice_when_starved(place)}"
    if state == "dormant" and _nothing_learned(numbers):
        return (
            f"{BY_NAME[state].advice} Some units are still active and nothing is learned: "
            "check as well that inputs and targets belong together."
        )
    if state == "frozen" and numbers and "update_ratio" not in numbers:
        return (
            "None of its weights is trainable. If that is not intended: set `trainable`, "
            "and compile again."
        )
    if state == "frozen" and place.task:
        return "If that is not intended: check `trainable` and the learning rate."
    if state in ("vanishing", "exploding") and place.normalized:
        return BY_NAME[state].advice.replace("normalize, ", "")
    return BY_NAME[state].advice


def _check_first(numbers: Mapping[str, float]) -> str:
    """What is soon checked, and would look the same."""
    ratio = numbers.get("update_ratio", math.nan)
    if ratio < SMALL_STEPS:
        return (
            f"The steps are small (update_ratio {ratio:.3g}, about 0.001 is usual): raise "
            "the learning rate first."
        )
    return (
        "First check that inputs and targets belong together, and that the learning rate "
        "is not too low."
    )


def _nothing_learned(numbers: Mapping[str, float]) -> bool:
    """Whether nothing is learned although some units are active."""
    active = numbers.get("dormant_fraction", 1.0) < 1.0
    return active and numbers.get("skill", 1.0) < HARDLY


def _advice_when_starved(place: Place) -> str:
    if place.task:
        return (
            "If that is not it, what this module is given tells it nothing: set a boundary "
            "with labels of its own before it."
        )
    if place.objective and place.labels is not False:
        return (
            "If that is not it, train it by its own objective, in mode 'local', and end to "
            "end later: callbacks.AutoMode() does so by itself."
        )
    if place.objective:
        return (
            "If that is not it: its objective needs labels that y does not hold. Give "
            "y={..., NAME: labels}; ten or a hundred labeled examples help."
        )
    return (
        "If that is not it, give its boundary an objective, best one with labels of its "
        "own, and train in mode 'local' first: callbacks.AutoMode() does so by itself."
    )


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

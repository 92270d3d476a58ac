"""What to do about a module's state, by what the module is and by its numbers."""

import math
from collections.abc import Mapping

from keras_e2e.diagnostics.states import BY_NAME, Place

# Steps below the healthy band of `update_ratio`, and a skill that is hardly any.
SMALL_STEPS, HARDLY = 1e-4, 0.02
# Predictions that differ by so little with the inputs do not depend on them; noise alone
# scatters more. A loss at the start of so many times that of a constant prediction is not
# one of weights and inputs of the usual size.
BLIND, WILD = 1e-4, 10.0


def advise(state: str, place: Place, numbers: Mapping[str, float] | None = None) -> str:
    """What to do about a state, by what the module is and has, and by its numbers.

    Args:
        state: String, the name of the state.
        place: `Place` of the module.
        numbers: Dict from quantity to what was measured of the module. Defaults to
            `None`: nothing is known.

    Example:

    >>> from keras_e2e.diagnostics.advice import advise
    >>> from keras_e2e.diagnostics.states import Place
    >>> advise("starved", Place(), {"update_ratio": 5e-6}).split(": ")[0]
    'The steps are small (update_ratio 5e-06, about 0.001 is usual)'
    """
    numbers = numbers or {}
    if state == "starved":
        return f"{_check_first(numbers, place.surrogate)} {_advice_when_starved(place)}"
    if state == "unclear":
        return _scales(numbers)
    known = BY_NAME[state].advice
    if state == "exploding" and math.isfinite(numbers.get("loss", math.nan)):
        known = (
            "Look for weights that are far larger than those of its neighbors, and give "
            "them their initial values again; normalize, or clip the gradient."
        )
    if state == "vanishing" and numbers.get("signal_gain") == 0.0:
        known = (
            "It is exactly 0, as behind stop_gradient, argmax, a comparison, rounding or a "
            "cast to integers: look for such an operation, or for units that are all off."
        )
    if state in ("vanishing", "exploding") and place.normalized:
        known = known.replace("normalize, ", "")
    # Weights that are too large in the first module show in the modules behind it.
    if state in ("vanishing", "dormant") and _times_constant(numbers) > WILD:
        return f"{_scales(numbers)} If that is not it: {known[0].lower()}{known[1:]}"
    if state == "dormant" and _nothing_learned(numbers):
        return (
            f"{known} Some units are still active and nothing is learned: check as well "
            "that inputs and targets belong together."
        )
    if state == "dormant" and _is_blind(numbers):
        return (
            f"{known} Check as well that what goes in is not scaled down to next to "
            "nothing."
        )
    if state == "frozen" and numbers and "update_ratio" not in numbers:
        return (
            "None of its weights is trainable. If that is not intended: set `trainable`, "
            "and compile again."
        )
    if state == "frozen" and place.task:
        return "If that is not intended: check `trainable` and the learning rate."
    return known


def _check_first(numbers: Mapping[str, float], surrogate: bool) -> str:
    """What is soon checked, and would look the same."""
    ratio = numbers.get("update_ratio", math.nan)
    if 0.0 < ratio < SMALL_STEPS:
        return (
            f"The steps are small (update_ratio {ratio:.3g}, about 0.001 is usual): raise "
            "the learning rate first."
        )
    if surrogate:
        return (
            "First check that returns differ from episode to episode, for rewards that are "
            "all alike teach nothing, that the observations have a standard deviation of "
            "about 1, and that the learning rate is not too low."
        )
    scales = _scales(numbers)
    if scales:
        return scales
    return (
        "First check that inputs and targets belong together, that the inputs have a "
        "standard deviation of about 1, and that the learning rate is not too low."
    )


def _scales(numbers: Mapping[str, float]) -> str:
    """What is wrong with the size of inputs, targets or weights; empty if it looks fine."""
    times = _times_constant(numbers)
    if times > WILD:
        return (
            f"At the start the loss was {times:.2g} times that of a constant prediction: "
            "scale inputs and targets first (mean 0, standard deviation 1), or take "
            "smaller initial weights."
        )
    if numbers.get("grad_rms") == 0.0:
        return (
            "The gradient is exactly 0, as where probabilities are 0 or 1, at which "
            "their loss is cut off: scale inputs and targets first (mean 0, standard "
            "deviation 1), or let the model return logits (`from_logits=True`)."
        )
    if _is_blind(numbers):
        return (
            "The predictions do not depend on the inputs: check first that these are not "
            "scaled down to next to nothing (a standard deviation of about 1 is usual)."
        )
    return ""


def _times_constant(numbers: Mapping[str, float]) -> float:
    """How many times that of a constant prediction the loss was at the start."""
    skill = numbers.get("skill", math.nan)
    constant = numbers.get("loss", math.nan) / (1.0 - skill) if skill < 1.0 else math.nan
    return numbers.get("loss at start", math.nan) / constant if constant > 0 else math.nan


def _is_blind(numbers: Mapping[str, float]) -> bool:
    """Whether the predictions do not depend on the inputs."""
    return abs(numbers.get("skill", math.nan)) < BLIND


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

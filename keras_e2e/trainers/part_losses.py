"""What the losses are made of that a step differentiates together (`loss_parts`)."""

from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

from keras_e2e.modules.loss_parts import LossPart
from keras_e2e.trainers.sharing import layers_of_others, shares_variables
from keras_e2e.trainers.step_losses import StepLosses
from keras_e2e.utils.compat import calls


def part_loss(part: LossPart, losses: StepLosses, penalties: Callable[[], list]) -> Any:
    """The loss of a part; None for none.

    Args:
        part: The `LossPart`.
        losses: The `StepLosses` of the step.
        penalties: Function that returns what `part_penalties` does. It is called once the
            losses are computed, whose heads may add to it.
    """
    terms = [*map(losses.term, part.losses)]
    terms += penalties()
    terms = [term for term in terms if term is not None]
    if not terms:
        return None
    return ops.sum(ops.stack(terms)) if len(terms) > 1 else terms[0]


def part_penalties(model: Any, part: LossPart, variables: Sequence, testing: bool) -> list:
    """The penalties of a part, where they are not in the compiled loss.

    Args:
        model: The modular model, in whose pass layers have added their penalties.
        part: The `LossPart`.
        variables: List of the variables that the step may change.
        testing: Boolean, whether it is a step of `evaluate`.
    """
    state = model._modular
    if not part.penalties or state.modules[-1].name in part.losses:
        return []
    idle = state.idle_objectives(testing)
    if shares_variables(model):
        # Else its owner would be trained by what the others add as they use it.
        idle = [*idle, *layers_of_others(model, part.trains)]
    movable = {id(v) for v in part_variables(model, part, variables)}
    return [
        calls.summed(model, penalty)
        for penalty in [
            *calls.penalties_of_calls(model, idle),
            *calls.penalties_of_weights(model, movable),
        ]
    ]


def part_variables(model: Any, part: LossPart, variables: Sequence) -> list:
    """Those of the variables that a part may change."""
    modules = model._modular.modules
    trained: set[int] = set()
    others: set[int] = set()
    for module in modules:
        into = trained if module.name in part.trains else others
        # Which of them are trained was settled by the first step, as in Keras.
        into.update(id(v) for v in module.all_variables)
    # What belongs to no module the compiled loss trains.
    rest = modules[-1].name in part.losses
    return [v for v in variables if id(v) in trained or (rest and id(v) not in others)]

"""Whether a step takes a module's gradients at its boundary, or all of them at the end."""

from typing import Any

import keras

from keras_e2e.optimizers.apply_apart import why_not_apart
from keras_e2e.trainers.loss_reads import loss_that_reads_weights
from keras_e2e.trainers.sharing import shares_variables


def why_one_pass(model: Any) -> str | None:
    """Why a step in the mode in force keeps the activations of the whole model.

    As a rule a module's gradients are taken as soon as its boundary is crossed, and its
    activations are given up there, before the next module runs.

    Args:
        model: The modular model.

    Returns:
        String, the reason; None where no activation is kept beyond the loss that it is
        there for.
    """
    state = model._modular
    parts = state.flow().parts
    if len(parts) == 1:
        if state.mode.name == "sequential":
            return None  # the modules before run in inference mode and keep nothing
        if not state.flow().stopping:
            return "no boundary stops the gradient"
        return "each loss waits for a signal from the next module"
    for module, objective in state.active():
        if objective.extra_inputs():
            name = type(objective).__name__
            return f"{name} at {module.name!r} compares passes over the whole model"
    if model._has_own_loss():
        return f"{type(model).__name__} computes its loss after the pass"
    if keras.backend.backend() != "tensorflow":
        return f"the {keras.backend.backend()} backend orders the modules itself"
    return None


def why_one_apply(model: Any) -> str | None:
    """Why a step in the mode in force applies the gradients of all modules at its end.

    Where the optimizer steps on each variable by itself, a module's gradients are applied
    where they are taken, at its boundary, and given up.

    Args:
        model: The modular model.

    Returns:
        String, the reason; None where they are applied at the boundary.
    """
    reason = why_one_pass(model)
    if reason is not None or len(model._modular.flow().parts) == 1:
        return reason or "one module trains"
    return why_together(model)


def why_together(model: Any) -> str | None:
    """What of `why_one_apply` holds in every mode.

    Args:
        model: The modular model; before `compile` only what that does not decide is known.
    """
    if shares_variables(model):
        return "modules share variables, which later modules still read"
    if any(v.regularizer is not None for v in model.trainable_variables):
        return "the loss has penalties of weights, which are read at the end"
    if getattr(model, "optimizer", None) is None:
        return None
    if (reason := why_not_apart(model.optimizer)) is not None:
        return reason
    if (loss := loss_that_reads_weights(model.loss)) is not None:
        return f"the loss {loss!r} holds layers or variables, which it may read at the end"
    return None

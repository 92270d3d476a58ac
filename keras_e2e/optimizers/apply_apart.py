"""Applying the gradients of a step module by module."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_e2e.optimizers.module_optimizers import ModuleOptimizers

# Whose step on a variable depends on that variable and the number of the step alone.
# (Nadam keeps a product over all steps; of Muon and others of later versions nothing is
# promised.)
_SEPARABLE = (
    *("SGD", "RMSprop", "Adam", "AdamW", "Adadelta", "Adagrad", "Adamax"),
    *("Adafactor", "Ftrl", "Lion", "Lamb"),
)


def why_not_apart(optimizer: Any) -> str | None:
    """Why an optimizer needs the gradients of all modules at once; None if it does not.

    Args:
        optimizer: A Keras optimizer.
    """
    kind = type(optimizer)
    if kind is ModuleOptimizers:
        return "gradients are accumulated" if optimizer.accumulates else None
    if kind not in [getattr(keras.optimizers, name, None) for name in _SEPARABLE]:
        return f"a step of {kind.__name__} is not taken variable by variable"
    if optimizer.gradient_accumulation_steps:
        return "gradients are accumulated"
    if optimizer.global_clipnorm:
        return "global_clipnorm is a norm over all gradients"
    if optimizer.use_ema:
        return "use_ema averages all weights at each apply"
    return None


def apply_apart(optimizer: Any, gradients: Sequence, variables: Sequence) -> None:
    """Applies some gradients of a step that goes on: only the last apply counts it.

    Args:
        optimizer: An optimizer to which `why_not_apart` has no objection.
        gradients: List of the gradients, None where there is none.
        variables: List of the variables.
    """
    optimizer.apply(gradients, variables)
    optimizer.iterations.assign_sub(1)


def apply_at(
    optimizer: Any, iteration: Any, gradients: Sequence, variables: Sequence
) -> None:
    """Applies some gradients of a step of which several are under way: none counts it.

    The optimizer's own count, which all of them would read and write, stays as it is.

    Args:
        optimizer: An optimizer to which `why_not_apart` has no objection.
        iteration: The number of the step, the first being 0: what becomes a tensor of the
            dtype of the count.
        gradients: List of the gradients, None where there is none.
        variables: List of the variables.
    """
    count = optimizer.iterations
    # On TensorFlow optimizers write weights and their own state past the scope. It keeps
    # the rest: counts, and weights that a constraint has changed.
    with keras.StatelessScope() as scope:
        scope.add_update((count, iteration))
        optimizer.apply(gradients, variables)
    for variable in [*optimizer.variables, *variables]:
        value = scope.get_current_value(variable)
        if value is not None and variable is not count:
            variable.assign(value)


def count_step(optimizer: Any) -> None:
    """Ends a step of which everything was applied apart."""
    optimizer.iterations.assign_add(1)

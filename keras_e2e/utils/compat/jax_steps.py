"""Private names of Keras, and less known ones of JAX, that a training step on JAX takes.

The rest of them stand in `compat`.
"""

from collections.abc import Callable
from typing import Any

import keras


def update_metrics(
    model: keras.Model, values: list, loss: Any, x: Any, y: Any, y_pred: Any, weight: Any
) -> tuple[dict, list]:
    """The logs of a step, and the next values of the metrics' variables.

    Stands for `JAXTrainer._update_metrics_variables`: Keras's own step ends with it.

    Args:
        model: The model.
        values: List of the values of `metrics_variables`.
        loss: Scalar, the loss of the step, without a loss scale.
        x: The inputs.
        y: The targets.
        y_pred: The model's outputs.
        weight: The sample weights, or None.
    """
    return model._update_metrics_variables(values, loss, x, y, y_pred, weight)


def no_cotangent(value: Any) -> Any:
    """Says to a function that `jax.vjp` returned that no gradient comes from a value.

    An array of zeros would have the whole backward pass computed, on zeros.
    """
    import jax
    from jax.interpreters import ad

    return ad.Zero(jax.typeof(value))


def tapped(tensor: Any, source: Any, note: Callable[[Any], None]) -> Any:
    """The tensor itself, as one of its own, whose gradient is noted.

    Nothing is added to what is computed. The gradient is noted when a function that
    `jax.vjp` returned is called, and not at all where none gets there.

    Args:
        tensor: A tensor.
        source: A scalar by which the function is differentiated; its gradient is 0. So
            that the gradient is known behind `stop_gradient`, too.
        note: Function that is called with the gradient.
    """
    import jax
    from jax.custom_derivatives import SymbolicZero

    @jax.custom_vjp
    def tap(tensor, source):
        return tensor

    def forward(tensor, source):
        return tensor.value, None

    def backward(_, gradient):
        if isinstance(gradient, SymbolicZero):
            return None, None
        note(gradient)
        return gradient, None

    tap.defvjp(forward, backward, symbolic_zeros=True)
    return tap(tensor, source)

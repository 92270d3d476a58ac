"""How a model ends: the activation that an auxiliary head must end with too."""

from collections.abc import Callable
from typing import Any

import keras

from keras_e2e.utils import compat

# Layers with weights whose raw values go through `activation` at the end, or that have
# none. Of any other layer with weights it is not known how it ends.
_SHOWN = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
)


def ending_of(tensor: keras.KerasTensor) -> Callable | None:
    """Returns the activation between a model's last weights and one of its outputs.

    Goes back from the output through calls without weights that keep the shape (a
    softmax layer, an operation, a cast), also into nested models, to the layer that
    computes the raw values (logits), and includes that layer's own activation function.

    Args:
        tensor: `keras.KerasTensor`, an output of a Functional model.

    Returns:
        A function from raw values to outputs, or None if the model does not show how it
        ends (a custom layer, or several branches that end in a softmax each).

    Example:

    >>> import keras
    >>> from keras_e2e.objectives.heads.output_activation import ending_of
    >>> outputs = keras.layers.Dense(3, activation="softmax")(keras.Input((4,)))
    >>> ending = ending_of(outputs)
    >>> float(ending(keras.ops.ones((1, 2)))[0, 0])
    0.5
    """
    steps: list[Callable] = []
    known = _walk_back(tensor, steps)
    if not known:
        return None

    def ending(values: Any) -> Any:
        for step in reversed(steps):
            values = step(values)
        return values

    # Early-exit models are made of layers where they can be.
    ending.steps = tuple(reversed(steps))  # type: ignore[attr-defined]
    return ending


def _walk_back(tensor: keras.KerasTensor, steps: list[Callable]) -> bool:
    """Collects the steps, last one first, and returns whether all of them are known."""
    while True:
        call = compat.producing_call(tensor)
        operation = call.operation
        if isinstance(operation, keras.layers.InputLayer):
            return True
        if compat.is_functional(operation) and compat.has_stock_call(operation):
            place = [id(t) for t in call.outputs].index(id(tensor))
            inner = compat.as_functional(operation)
            if operation.weights:
                return _walk_back(inner.outputs[place], steps)
        elif getattr(operation, "weights", None):
            activation = getattr(operation, "activation", None)
            if isinstance(operation, _SHOWN):
                if callable(activation):
                    steps.append(activation)
                return True
            return False
        if len(call.inputs) != 1 or len(call.outputs) != 1:
            return not _ends_in_activation(call)
        if call.inputs[0].shape != tensor.shape:
            return not _ends_in_activation(call)
        steps.append(lambda values, call=call: call.repeat([values]))
        tensor = call.inputs[0]


def _ends_in_activation(call: compat.GraphCall) -> bool:
    """Whether what is joined or reshaped here went through an activation before."""
    return any(
        keras.activations.serialize(activation) != "linear"
        for tensor in call.inputs
        if callable(
            activation := getattr(
                compat.producing_call(tensor).operation, "activation", None
            )
        )
    )

"""Where a graph makes probabilities of raw values (logits), and the gradient under them."""

from typing import Any

import keras
from keras import ops

from keras_e2e.modules.boundary import ModuleBoundary
from keras_e2e.utils import compat

_KINDS = {"softmax": keras.activations.softmax, "sigmoid": keras.activations.sigmoid}


def probabilities_at_outputs(graph: Any) -> list[str | None]:
    """For each output of a graph of layers, `"softmax"`, `"sigmoid"` or None.

    Args:
        graph: A Functional model.
    """
    return [*map(_kind, compat.as_functional(graph).outputs)]


def probabilities_at_boundaries(graph: Any) -> dict[str, list[str | None]]:
    """The same for the tensors that enter each boundary of a graph, by the module's name.

    Args:
        graph: A Functional model with boundaries.
    """
    found: dict[str, list[str | None]] = {}
    for call in compat.graph_calls(graph):
        if not isinstance(call.operation, ModuleBoundary):
            continue
        name, kinds = call.operation.module, [*map(_kind, call.inputs)]
        # Of a boundary that is crossed several times, what holds of all crossings.
        pairs = zip(found.setdefault(name, kinds), kinds, strict=True)
        found[name] = [first if first == other else None for first, other in pairs]
    return found


def under_probability(kind: str | None, probability: Any, gradient: Any) -> Any:
    """The gradient at the raw values under a probability; None for None.

    Args:
        kind: `"softmax"`, `"sigmoid"`, or None: the tensor is no probability.
        probability: The tensor.
        gradient: The gradient at it, or None.
    """
    if kind is None or gradient is None:
        return gradient
    probability = ops.cast(probability, gradient.dtype)
    if kind == "sigmoid":
        return gradient * probability * (1.0 - probability)
    mean = ops.sum(gradient * probability, axis=-1, keepdims=True)
    return probability * (gradient - mean)


def _kind(tensor: keras.KerasTensor) -> str | None:
    """What makes a probability of raw values in the call that made a tensor."""
    call = compat.producing_call(tensor)
    operation = call.operation
    if compat.is_functional(operation) and compat.has_stock_call(operation):
        place = [id(t) for t in call.outputs].index(id(tensor))
        return _kind(compat.as_functional(operation).outputs[place])
    activation = getattr(operation, "activation", None)
    for kind, function in _KINDS.items():
        if activation is function:
            return kind
        # A layer, or an operation of `keras.ops`.
        if type(operation).__name__ == kind.title():
            return kind if getattr(operation, "axis", -1) == -1 else None
    return None

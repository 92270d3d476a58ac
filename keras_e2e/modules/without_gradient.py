"""Which operations of a graph let no gradient pass."""

from collections.abc import Iterable, Iterator
from typing import Any

import keras

from keras_e2e.modules.graph import OUTPUT, Graph
from keras_e2e.modules.stretches import calls_of_modules
from keras_e2e.utils import compat

# Classes of `keras.ops` that return floats, whose gradient is 0 everywhere or stopped.
_FLAT = {"Ceil", "Floor", "Round", "Sign", "StopGradient", "Trunc"}


def without_gradient(graph: Graph, last: str) -> dict[str, list[str]]:
    """For each module the names of its operations that let no gradient pass.

    They are those of `keras.ops` that stop it or are flat, and whatever makes integers or
    booleans of floats (argmax, a comparison, a cast), those of nested models among them.
    What happens inside of a layer is not seen.

    Args:
        graph: The `Graph` of the model, with its boundaries.
        last: String, the name of the last module.
    """
    return {
        last if module == OUTPUT else module: [*_names(calls)]
        for module, calls in calls_of_modules(graph).items()
    }


def _names(calls: Iterable[Any]) -> Iterator[str]:
    for call in calls:
        if compat.is_functional(call.operation):
            yield from _names(compat.graph_calls(call.operation))
        elif _ends_gradient(call):
            yield call.operation.name


def _ends_gradient(call: Any) -> bool:
    operation = call.operation
    # A layer of such a name may well have a gradient of its own (straight through).
    if not isinstance(operation, keras.Layer) and type(operation).__name__ in _FLAT:
        return True
    return _any_float(call.inputs) and not _any_float(call.outputs)


def _any_float(tensors: list) -> bool:
    return any("float" in tensor.dtype for tensor in tensors)

"""Names for what nested graphs hold, once it stands in the outer one."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import tree

from keras_e2e.models.placed import PlacedBoundaries
from keras_e2e.modules.boundary import ModuleBoundary
from keras_e2e.utils import compat
from keras_e2e.utils.graphs import input_like, layer_name, unique


class InlinedNames:
    """Calls what a graph holds, each under a name that is there once.

    A layer or operation of a nested graph whose name another one has as well (an encoder
    that was made twice) is called inside of a stock Functional model, which holds it alone
    and goes by its path: `left_dense` for `left/dense`. So it keeps its own name.

    Args:
        model: A Functional model or built Sequential.
        opened: Function of a layer: whether it is a nested graph that is taken into the
            outer one, layer by layer.

    Raises:
        ValueError: If several boundaries have one name.
    """

    def __init__(self, model: keras.Model, opened: Callable[[Any], bool]):
        self._names: dict[int, str] = {}  # by `id`, of what is to be called by another name
        self._made: dict[tuple[int, str], keras.Model] = {}
        self._opened = opened
        found = list(self._inlined(model, ""))
        holders: dict[str, list] = {}
        for _, operation in found:
            holders.setdefault(operation.name, []).append(operation)
        holders = {name: unique(each) for name, each in holders.items()}
        self._taken = set(holders)
        for label, operation in found:
            several = len(holders[operation.name]) > 1
            if several and isinstance(operation, ModuleBoundary):
                raise ValueError(
                    f"Two boundaries go by the name {operation.name!r}. Give each "
                    "ModuleBoundary a name of its own."
                )
            if several and label != operation.name and id(operation) not in self._names:
                self._names[id(operation)] = self._free(layer_name(label))

    def call(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls a layer or operation, as it is or inside of a model of another name."""
        if id(operation) not in self._names:
            return operation(*args, **kwargs)
        tensors = unique(t for t in tree.flatten((args, kwargs)) if _is_symbolic(t))
        places = {id(tensor): place for place, tensor in enumerate(tensors)}
        # One that is called in two ways needs two models.
        way = tree.map_structure(lambda t: places.get(id(t), repr(t)), (args, kwargs))
        key = id(operation), repr(way)
        if key not in self._made:
            again = any(known == id(operation) for known, _ in self._made)
            name = self._names[id(operation)]
            name = self._free(name) if again else name
            self._made[key] = _alone(operation, args, kwargs, tensors, name)
        return self._made[key](tensors[0] if len(tensors) == 1 else tensors)

    def _inlined(self, model: keras.Model, prefix: str) -> Iterator[tuple[str, Any]]:
        """What will stand in the outer graph, each with its path."""
        operations = compat.as_functional(model).operations
        operations = [x for x in operations if not isinstance(x, PlacedBoundaries)]
        held = [x for x in operations if not isinstance(x, keras.layers.InputLayer)]
        for operation in held if prefix else operations:
            # Of what stands alone in its graph the graph's name says enough.
            alone = prefix and len(held) == 1
            label = prefix[:-1] if alone else prefix + operation.name
            if self._opened(operation):
                yield from self._inlined(operation, label + "/")
            else:
                yield label, operation

    def _free(self, name: str) -> str:
        found, number = name, 0
        while found in self._taken:
            number += 1
            found = f"{name}_{number}"
        self._taken.add(found)
        return found


def _alone(
    operation: Any, args: tuple, kwargs: dict, tensors: list, name: str
) -> keras.Model:
    """A stock model that makes one call."""
    fresh = {id(tensor): input_like(tensor) for tensor in tensors}
    args, kwargs = tree.map_structure(lambda t: fresh.get(id(t), t), (args, kwargs))
    inputs = list(fresh.values())
    outputs = operation(*args, **kwargs)
    return keras.Model(inputs[0] if len(inputs) == 1 else inputs, outputs, name=name)


def _is_symbolic(value: Any) -> bool:
    return isinstance(value, keras.KerasTensor)

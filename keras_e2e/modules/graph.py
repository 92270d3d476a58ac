"""Which layer and variable belongs to which module of a Functional graph."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import keras

from keras_e2e.modules import bypass
from keras_e2e.modules.boundary import ModuleBoundary
from keras_e2e.modules.module import Module
from keras_e2e.modules.ownership import Ownership, Shared, check_shared
from keras_e2e.utils import compat

# The end of the last module, in place of a boundary's name.
OUTPUT = "<output>"
# Layers in whose loops a boundary would be crossed many times in one step.
LOOPS = (
    keras.layers.RNN,
    keras.layers.TimeDistributed,
    keras.layers.Bidirectional,
)


class Tensors(NamedTuple):
    """What a model would be made of.

    Attributes:
        inputs: List of its inputs.
        outputs: List of its outputs.
        name: Its name.
    """

    inputs: list
    outputs: list
    name: str


class Graph:
    """A Functional graph cut by its boundaries.

    A layer belongs to the module whose end (a boundary, or the model's outputs) it
    reaches without crossing a boundary. A layer with weights that reaches two ends
    would be trained by both modules and is refused where a skip connection leads around the
    boundary. Where two modules share the layer, in several calls, one of them owns it: the
    last one, unless another was named.

    Args:
        model: A Functional model (or built Sequential), or the `Tensors` of one.
        shared: The owners of what modules share, as in `modularize`. Defaults to `None`:
            what boundaries have noted of the model that they were in before.

    Attributes:
        shared: Dict from the names of layers to the modules that own them as it was said,
            once `modules` has found them.
        chosen: The same of layers of which nobody said it.

    Raises:
        ValueError: If a boundary cannot be placed where it is. The error names the layers
            and a fix.
    """

    def __init__(self, model: keras.Model | Tensors, shared: Shared | None = None):
        self.model: Any = model
        self.given = None if shared is None else check_shared(shared)
        self.shared: dict[str, str] = {}
        self.chosen: dict[str, str] = {}
        self.calls = (
            compat.calls_between(model.outputs)
            if isinstance(model, Tensors)
            else compat.graph_calls(model)
        )
        self.outputs = {id(t) for t in keras.tree.flatten(model.outputs)}
        self.consumers: dict[int, list] = {}
        self.makers: dict[int, Any] = {}
        for call in self.calls:
            self.makers.update((id(tensor), call) for tensor in call.outputs)
            for tensor in call.inputs:
                self.consumers.setdefault(id(tensor), []).append(call)

    def boundaries(self) -> dict[str, ModuleBoundary]:
        """The boundaries by name, in the order of the graph."""
        found: dict[str, ModuleBoundary] = {}
        for call in self.calls:
            if isinstance(call.operation, ModuleBoundary):
                boundary = call.operation
                if found.setdefault(boundary.module, boundary) is not boundary:
                    raise ValueError(
                        f"Two boundaries go by the name {boundary.module!r}. Give each "
                        "ModuleBoundary a name of its own."
                    )
        return found

    def ends(
        self, more: Iterable[Any] = (), left_out: str | None = None
    ) -> dict[int, set[str]]:
        """For each call, by `id` of its first output, the ends that it reaches.

        Args:
            more: Calls that end a module as well, if only on trial. Defaults to none.
            left_out: String, a boundary that is taken for none. Defaults to `None`.
        """
        tried = {id(call.outputs[0]): call.operation.name for call in more}
        reached: dict[int, set[str]] = {}
        for call in reversed(self.calls):
            ends: set[str] = set()
            for tensor in call.outputs:
                if id(tensor) in self.outputs:
                    ends.add(OUTPUT)
                for consumer in self.consumers.get(id(tensor), ()):
                    end = consumer.operation
                    if isinstance(end, ModuleBoundary) and end.module != left_out:
                        ends.add(end.module)
                    else:
                        ends |= reached[id(consumer.outputs[0])]
            if call.outputs:
                key = id(call.outputs[0])
                reached[key] = {tried[key]} if key in tried else ends
        return reached

    def modules(self) -> list[Module]:
        """The modules, in the order of the graph; the last one ends in the outputs."""
        reached = self.ends()
        self.refuse_bad_boundaries()
        names = {name: name for name in self.boundaries()} | {OUTPUT: self._last_name()}
        owners = Ownership(list(names.values()), self.asked(), self.given is None)
        inputs: dict[str, list[str]] = {name: [] for name in names}
        fed: dict[str, list[int]] = {name: [] for name in names}
        placed = []
        positions = {id(t): i for i, t in enumerate(self.model.inputs)}
        for call in self.calls:
            layer, ends = call.operation, reached[id(call.outputs[0])]
            if isinstance(layer, ModuleBoundary):
                for end in ends:
                    inputs[end].append(layer.module)
                continue
            entering = [positions[id(t)] for t in call.outputs if id(t) in positions]
            for end in ends:
                fed[end] += entering
            if getattr(layer, "weights", []) and len(ends) > 1:
                self._refuse_bypass(call, reached)
            for end in sorted(ends, key=list(names).index)[:1]:
                is_input = isinstance(layer, keras.layers.InputLayer)
                if isinstance(layer, keras.layers.Layer) and not is_input:
                    placed.append((call, names[end]))
        owners.add_calls(placed)
        owners.settle()
        self.shared, self.chosen = owners.settled, owners.chosen
        return [
            Module(
                name=name,
                boundary=self.boundaries().get(end),
                layers=owners.layers(name),
                inputs=tuple(dict.fromkeys(inputs[end])),
                model_inputs=tuple(fed[end]),
                crossings=sum(
                    c.operation is self.boundaries().get(end) for c in self.calls
                ),
                borrowed=owners.borrowed(name),
                foreign=owners.foreign(name),
            )
            for end, name in names.items()
        ]

    def asked(self) -> Shared:
        """What modules may share: from the names of layers to who is to own them."""
        if self.given is not None:
            return self.given
        return {k: v for x in self.boundaries().values() for k, v in x.shared.items()}

    def tensors(self, boundary: ModuleBoundary) -> tuple[list, list]:
        """What goes into and what comes out of each crossing of a boundary."""
        crossed = [c for c in self.calls if c.operation is boundary]
        return (
            [tensor for call in crossed for tensor in call.inputs],
            [tensor for call in crossed for tensor in call.outputs],
        )

    def _last_name(self) -> str:
        names: list[str] = getattr(self.model, "output_names", [])
        return names[0] if len(names) == 1 else "outputs"

    def refuse_bad_boundaries(self) -> None:
        """Raises ValueError for a boundary that cannot be placed where it is."""
        for call in self.calls:
            layer = call.operation
            if isinstance(layer, ModuleBoundary):
                entered = [compat.producing_call(t).operation for t in call.inputs]
                if any(isinstance(x, keras.layers.InputLayer) for x in entered):
                    raise on_input(layer.module)
                if any(id(tensor) in self.outputs for tensor in call.outputs):
                    raise ValueError(
                        f"Boundary {layer.module!r} stands on the model's output: the "
                        "module there ends in the task loss already. Set it on an "
                        "earlier layer."
                    )
                continue
            if not isinstance(layer, keras.layers.Layer):
                continue
            inner = [x for x in compat.all_layers(layer) if is_boundary(x)]
            if inner and isinstance(layer, LOOPS):
                raise in_loop(inner[0].module, layer)
            if inner and not isinstance(layer, keras.Model):
                raise ValueError(
                    f"Boundary {inner[0].module!r} is inside {layer.name!r}, which is not "
                    "a graph of layers, so a ModularModel cannot see it. Set the boundary "
                    f"on {layer.name!r} itself."
                )
            if inner:
                raise ValueError(
                    f"Boundary {inner[0].module!r} is inside {layer.name!r}, a model "
                    "nested in this one, where a ModularModel cannot see it. Use "
                    "keras_e2e.modularize(keras.Model(inputs, outputs)), which takes "
                    "the nested model's layers into the outer graph."
                )

    def _refuse_bypass(self, call: Any, reached: dict) -> None:
        """Raises the error for a layer with weights that reaches two ends."""
        ends = sorted(reached[id(call.outputs[0])], key=self._position)
        path = self._path(call, ends[-1])
        raise ValueError(
            f"Boundary {ends[0]!r} is bypassed: layer {call.operation.name!r} leads "
            f"into it and, around it, by {' -> '.join(path)} to {_shown(ends[-1])}. In "
            "local mode it would be trained by both modules. "
            + bypass.advice(self, ends[0])
        )

    def _position(self, end: str) -> int:
        names = list(self.boundaries())
        return names.index(end) if end in names else len(names)

    def _path(self, call: Any, end: str) -> list[str]:
        """Names of the layers on a way from `call` to `end`."""
        pending = [(call, [call.operation.name])]
        seen = set()
        while pending:
            here, names = pending.pop(0)
            for tensor in here.outputs:
                if end == OUTPUT and id(tensor) in self.outputs:
                    return names
                for following in self.consumers.get(id(tensor), ()):
                    name = following.operation.name
                    if is_boundary(following.operation):
                        if following.operation.module == end:
                            return names
                        continue
                    if id(following.outputs[0]) in seen:
                        continue
                    seen.add(id(following.outputs[0]))
                    pending.append((following, [*names, name]))
        return [call.operation.name]


def in_loop(boundary: str, loop: keras.layers.Layer) -> ValueError:
    """The error for a boundary inside a layer that runs its content in a loop."""
    return ValueError(
        f"Boundary {boundary!r} is inside {loop.name!r} "
        f"({type(loop).__name__}), whose loop would cross it at every time step. Set "
        f"it on {loop.name!r} itself, or apply the inner layers without the loop."
    )


def on_input(boundary: str) -> ValueError:
    """The error for a boundary with no layer before it."""
    return ValueError(
        f"Boundary {boundary!r} stands on an input: no module would end there. Set it on "
        "a later layer."
    )


def is_boundary(layer: Any) -> bool:
    """Whether a layer is a `ModuleBoundary`."""
    return isinstance(layer, ModuleBoundary)


def _shown(end: str) -> str:
    return "the model's output" if end == OUTPUT else repr(end)

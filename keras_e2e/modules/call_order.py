"""Where the code of a subclassed model may be cut, by the order of its calls."""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras
from keras import tree

from keras_e2e.modules.cut_points import (
    DEFAULT_COUNT,
    FINISHERS,
    CutPoint,
    best_ends,
    ends_of_modules,
)
from keras_e2e.modules.discovery import run
from keras_e2e.modules.graph import LOOPS
from keras_e2e.utils import compat
from keras_e2e.utils.graphs import count_parameters


class _Call(NamedTuple):
    """One call of a layer, in the order in which calls begin."""

    layer: Any
    outer: Any
    outputs: list


class CallOrder:
    """The layers that a model's code calls, in order, and what each costs.

    Those that `call` itself calls. Where only one of them has weights and calls others (a
    model that holds one Sequential, say), those others stand in its place.

    Args:
        base: A subclassed model, which need not be built.
        x: A small batch of inputs.
    """

    def __init__(self, base: Any, x: Any):
        run(base, x, training=False)  # builds what is not built
        calls, outputs = _watched(base, x)
        self.base, self.calls = base, _outermost(calls)
        self._ends_model = {id(t) for t in tree.flatten(outputs)}
        self._all = calls

    def choose(self, refused: Iterable[str] = ()) -> list[str]:
        """Names of up to three layers that balance the modules if each ends one.

        Args:
            refused: Names of layers that cannot end a module. Defaults to none.
        """
        weighted = [bool(call.layer.weights) for call in self.calls]
        points = [
            CutPoint(call.layer, place)
            for place, call in enumerate(self.calls)
            if call.layer.name not in {*refused}
            and any(weighted[: place + 1])
            and any(weighted[place + 1 :])
            and self._may_end(place)
        ]
        points = ends_of_modules(points, weighted)
        if not points:
            return []
        ends = [point.position + 1 for point in points] + [len(self.calls)]
        total = [0]
        for cost in self._costs():
            total.append(total[-1] + cost)
        chosen = best_ends(total, ends, min(DEFAULT_COUNT, len(points)))
        return [points[i].layer.name for i in chosen]

    def _may_end(self, place: int) -> bool:
        """Whether a module may end with this call, as far as names and tensors tell."""
        call = self.calls[place]
        names = [layer.name for layer in compat.all_layers(self.base)]
        following = self.calls[place + 1].layer if place + 1 < len(self.calls) else None
        return (
            names.count(call.layer.name) == 1
            and sum(each.layer is call.layer for each in self._all) == 1
            and len(call.outputs) == 1
            and id(call.outputs[0]) not in self._ends_model
            and not isinstance(following, FINISHERS)
        )

    def _costs(self) -> list[int]:
        """Parameters plus activations of each call; a layer's weights count once."""
        costs = []
        seen: set[int] = set()
        for call in self.calls:
            weights = [v for v in call.layer.weights if id(v) not in seen]
            seen.update(map(id, weights))
            sizes = [math.prod(tensor.shape[1:]) for tensor in call.outputs]
            costs.append(sum(sizes) + count_parameters(weights))
        return costs


def _watched(base: Any, x: Any) -> tuple[list[_Call], Any]:
    """Runs a model without side effects. Returns its calls of layers, and its outputs."""
    calls: list[_Call] = []
    under_way: list[_Call] = []

    def watching(layer: keras.layers.Layer) -> Callable:
        original = layer.call

        @functools.wraps(original)
        def call(*args, **kwargs):
            outer = under_way[-1].layer if under_way else None
            noted = _Call(layer, outer, [])
            calls.append(noted)
            under_way.append(noted)
            try:
                outputs = original(*args, **kwargs)
            finally:
                under_way.pop()
            noted.outputs.extend(tree.flatten(outputs))
            return outputs

        return call

    layers = {id(layer): layer for layer in compat.all_layers(base)}.values()
    before = [(layer, vars(layer).get("call")) for layer in layers]
    try:
        for layer in layers:
            layer.call = watching(layer)
        with keras.StatelessScope():
            return calls, run(base, x, training=False)
    finally:
        for layer, call in before:
            if call is None:
                del layer.call
            else:
                layer.call = call


def _outermost(calls: list[_Call]) -> list[_Call]:
    """The calls by the model's own code, or those inside of the only one with weights."""
    chosen = [call for call in calls if call.outer is None]
    while True:
        weighted = [place for place, call in enumerate(chosen) if call.layer.weights]
        if len(weighted) != 1:
            return chosen
        place = weighted[0]
        only = chosen[place].layer
        inner = [call for call in calls if call.outer is only]
        if isinstance(only, LOOPS) or not any(call.layer.weights for call in inner):
            return chosen
        chosen[place : place + 1] = inner

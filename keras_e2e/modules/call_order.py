"""Where the code of a subclassed model may be cut, by the order of its calls."""

import itertools
from collections.abc import Iterable
from typing import Any

import keras
from keras import tree

from keras_e2e.modules.call_costs import costs
from keras_e2e.modules.call_line import FINISHERS, CutPoint, ends_of_modules
from keras_e2e.modules.cut_points import DEFAULT_COUNT, best_ends
from keras_e2e.modules.discovery import run
from keras_e2e.modules.graph import LOOPS
from keras_e2e.modules.watched_calls import LayerCall, watched_calls
from keras_e2e.utils import compat


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
        with watched_calls(compat.all_layers(base)) as calls, keras.StatelessScope():
            outputs = run(base, x, training=False)
        self.base, self.calls = base, _outermost(calls)
        self._ends_model = {id(t) for t in tree.flatten(outputs)}
        self._all = calls
        self._places = {id(call): place for place, call in enumerate(calls)}

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
        total = [0, *itertools.accumulate(self._costs())]
        chosen = best_ends(total, ends, min(DEFAULT_COUNT, len(points))) or ()
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
        """What each call costs in memory, with the calls that it leads to."""
        begins = [self._places[id(call)] for call in self.calls]
        ends = [*begins[1:], len(self._all)]
        return costs([self._all[a:b] for a, b in zip(begins, ends, strict=True)], "memory")


def _outermost(calls: list[LayerCall]) -> list[LayerCall]:
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

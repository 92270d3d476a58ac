"""The calls of a graph in a row, and what may end a module in it."""

import collections
from typing import Any, NamedTuple

import keras

from keras_e2e.modules.graph import Graph
from keras_e2e.modules.joined import is_float

# Layers that act on the next module's input rather than end a module: a loss
# should see the activation before dropout (Noekland & Eidnes 2019) and in shape.
_OPENERS = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    keras.layers.AlphaDropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.ActivityRegularization,
    keras.layers.Flatten,
    keras.layers.Reshape,
)
# Their like among operations (`keras.ops.reshape`), whose classes Keras does not export.
_OPENING_OPERATIONS = (
    "Cast",
    "ExpandDims",
    "Flatten",
    "GetItem",
    "Moveaxis",
    "Ravel",
    "Reshape",
    "Squeeze",
    "Swapaxes",
    "Transpose",
)
# Layers that belong to the layer before where nothing else follows it: a convolution and
# its normalization stay together, and so do a residual sum and the one that follows it.
FINISHERS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)


class CutPoint(NamedTuple):
    """A place where a boundary may end a module.

    Attributes:
        layer: The layer, or the operation (the `+` of a residual block), whose output would
            be cut.
        position: Index of its call among the calls.
        since: Index of the last call before whose output is used behind it as well, so that
            a module which ends here begins behind that one. -1 where there is none, or
            where what they return can cross the boundary as well.
        beside: The places of the calls before whose outputs are used behind it and may
            cross the boundary as well.
    """

    layer: Any
    position: int
    since: int = -1
    beside: tuple[int, ...] = ()


def ends_of_modules(points: list[CutPoint], weighted: list[bool]) -> list[CutPoint]:
    """Keeps one cut point between two layers with weights."""
    runs: dict[int, list[CutPoint]] = {}
    for point in points:
        before = sum(weighted[: point.position + 1])
        runs.setdefault(before, []).append(point)
    kept = []
    for run in runs.values():
        least = min((p.since, len(p.beside)) for p in run)
        free = [p for p in run if (p.since, len(p.beside)) == least]
        kept.append(([p for p in free if not _opens(p.layer)] or free)[-1])
    return kept


def _opens(operation: Any) -> bool:
    """Whether it acts on the next module's input rather than ends a module."""
    if isinstance(operation, keras.layers.Layer):
        return isinstance(operation, _OPENERS)
    return type(operation).__name__ in _OPENING_OPERATIONS


def in_turn(graph: Graph) -> list:
    """The calls of a graph, each as late as what uses it allows.

    So each of two towers stands in one piece, and what joins late comes late.
    """
    makers = {id(t): call for call in graph.calls for t in call.outputs}
    before: dict[int, int] = {}  # as bits, the calls that lead to each, itself included
    for place, call in enumerate(graph.calls):
        bits = 1 << place
        for tensor in call.inputs:
            bits |= before[id(makers[id(tensor)])]
        before[id(call)] = bits

    def by_size(tensors):
        made_by = {id(makers[id(t)]): makers[id(t)] for t in tensors}.values()
        return sorted(reversed([*made_by]), key=lambda c: before[id(c)].bit_count())

    # What has most before it comes first, so it is pushed last.
    pending = [(call, False) for call in by_size(graph.model.outputs)]
    ordered: dict[int, Any] = {}
    while pending:
        call, ready = pending.pop()
        if id(call) in ordered:
            continue
        if ready:
            ordered[id(call)] = call
        else:
            pending.append((call, True))
            pending += [(each, False) for each in by_size(call.inputs)]
    unused = [call for call in graph.calls if id(call) not in ordered]
    return [*unused, *ordered.values()]


class Line:
    """The calls of a graph in a row.

    What no weights lead to, such as a mask or the positions, may go around a boundary:
    nothing on such a path is trained.

    Args:
        graph: The graph.
        calls: List of its calls, in an order in which they can be made.

    Attributes:
        calls: The same.
        entered: Integer, the place of the last call with weights that no other leads to.
        weighted: List of booleans, whether each call is of a layer with weights.
        owning: List of booleans, whether it has weights that no later call has: what
            several modules use is the last one's (`Ownership`), and each is to own some.
    """

    def __init__(self, graph: Graph, calls: list):
        self.graph, self.calls = graph, calls
        self.weighted = [bool(getattr(c.operation, "weights", ())) for c in calls]
        self.owning = self._owning()
        self.entered = -1
        self._users: dict[int, list[int]] = {}
        self._made: dict[int, int] = {}  # where weights lead to it: the place of its call
        self._before: list[int] = []  # as bits, the calls that lead to each
        place: dict[int, int] = {}
        for i, call in enumerate(calls):
            led = any(id(tensor) in self._made for tensor in call.inputs)
            bits = 1 << i
            for tensor in call.inputs:
                self._users.setdefault(id(tensor), []).append(i)
                bits |= self._before[place[id(tensor)]]
            self._before.append(bits)
            place.update((id(tensor), i) for tensor in call.outputs)
            if led or self.weighted[i]:
                self._made.update((id(tensor), i) for tensor in call.outputs)
            if self.weighted[i] and not led:
                self.entered = i
        for tensor in graph.outputs:
            self._users.setdefault(tensor, []).append(len(calls))

    def points(self, apart: bool = False, together: bool = False) -> list[CutPoint]:
        """What may end a module, by itself or together with others, in order.

        Args:
            apart: Boolean, whether also between two uses of the same weights that nobody
                was named to own. Defaults to `False`.
            together: Boolean, whether a boundary may pass several tensors. Defaults to
                `False`.
        """
        joined = [] if apart else self._joined()
        calls_of = collections.Counter(id(c.operation) for c in self.calls)
        found = []
        passable: set[int] = set()
        needed: dict[int, int] = {}  # what weights lead to and is used behind this place
        for i, call in enumerate(self.calls):
            needed = {t: at for t, at in needed.items() if self._users[t][-1] > i}
            own = [t for t in call.outputs if id(t) in self._made and self._is_used(t)]
            if (
                len(own) == 1
                and calls_of[id(call.operation)] == 1
                and any(self.weighted[i + 1 :])
                and self._may_end(own[0])
                and not any(first <= i < last for first, last in joined)
                and not any(self._goes_around(t, i) for t in needed)
            ):
                beside = {at for at in needed.values() if together and at in passable}
                since = max({*needed.values()} - beside, default=-1)
                found.append(CutPoint(call.operation, i, since, tuple(sorted(beside))))
            needed.update((id(t), i) for t in own)
            if calls_of[id(call.operation)] == 1 and all(map(self._may_cross, own)):
                passable.add(i)
        return ends_of_modules(found, self.weighted)

    def owning_points(self, points: list[CutPoint]) -> list[CutPoint]:
        """Those of some cut points that leave weights of its own to each module."""
        behind_some = [p for p in points if any(self.owning[: p.position + 1])]
        return ends_of_modules(behind_some, self.owning)

    def kinds(self, start: int, end: int) -> list[str]:
        """The classes of some calls, without those to which no weights lead."""
        calls = self.calls[start:end]
        return [
            type(c.operation).__name__
            for c in calls
            if any(id(t) in self._made for t in c.outputs)
        ]

    def _is_used(self, tensor: Any) -> bool:
        return id(tensor) in self._users

    def _may_cross(self, tensor: Any) -> bool:
        """Whether it is no output of the model and has a gradient."""
        return id(tensor) not in self.graph.outputs and is_float(tensor)

    def _may_end(self, tensor: Any) -> bool:
        """Whether a module may end with this tensor, and usually would."""
        if not self._may_cross(tensor):
            return False
        users = [self.calls[i].operation for i in self._users[id(tensor)]]
        return not all(isinstance(operation, FINISHERS) for operation in users)

    def _joined(self) -> set[tuple[int, int]]:
        """First and last use of the same weights, where nobody was named to own them."""
        asked = self.graph.asked()
        uses: dict[int, list[int]] = {}
        for i, call in enumerate(self.calls):
            if call.operation.name not in asked:
                for variable in getattr(call.operation, "weights", ()):
                    uses.setdefault(id(variable), []).append(i)
        return {(u[0], u[-1]) for u in uses.values() if u[0] < u[-1]}

    def _owning(self) -> list[bool]:
        asked, last = self.graph.asked(), dict[int, int]()
        for i, call in enumerate(self.calls):
            for variable in getattr(call.operation, "weights", ()):
                last[id(variable) if call.operation.name not in asked else -1 - i] = i
        places = set(last.values())
        return [i in places for i in range(len(self.calls))]

    def _goes_around(self, tensor: int, place: int) -> bool:
        """Whether a place lies inside of a block, which a tensor goes around.

        The tensor leads to the place and is joined again with what is made there, other
        than in a concatenation (as in a U-Net) or a layer with weights (cross attention).
        """
        if not self._leads(self._made[tensor], place):
            return False
        pending, seen = [tensor], {tensor}
        while pending:
            for i in self._users.get(pending.pop(), ()):
                if i <= place or i == len(self.calls):
                    continue
                operation = self.calls[i].operation
                if not self._leads(place, i):
                    new = [id(t) for t in self.calls[i].outputs if id(t) not in seen]
                    seen.update(new)
                    pending += new
                elif not self.weighted[i] and type(operation).__name__ != "Concatenate":
                    return True
        return False

    def _leads(self, place: int, to: int) -> bool:
        return bool(self._before[to] >> place & 1)

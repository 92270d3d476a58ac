"""Which calls of a module are computed together, and anew for their gradients."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras

from keras_e2e.modules.call_costs import graph_costs
from keras_e2e.modules.graph import OUTPUT, Graph, is_boundary
from keras_e2e.utils import compat
from keras_e2e.utils.compat.specs import bytes_of

# How many bounds on the size of a stretch are tried.
_TRIALS = 24


class Stretch:
    """Consecutive calls of one module, of which only what enters and leaves is kept.

    Attributes:
        module: String, the name of the module, as its boundary has it; `graph.OUTPUT` for
            the last one.
        calls: List of the calls, in order.
        inputs: List of the symbolic tensors that enter.
        outputs: List of the symbolic tensors that leave.
        variables: List of the variables of its layers, seeds included.
        lossy: `id`s of the first output of each call that adds a loss.
        ends_module: Boolean, whether it is the last one of its module.
    """

    def __init__(self, module: str, calls: list, graph: Graph, lossy: set[int]):
        self.module, self.calls, self.lossy = module, calls, lossy
        self.ends_module = False
        inner = {id(call.outputs[0]) for call in calls}
        made = {id(tensor) for call in calls for tensor in call.outputs}
        entering = {id(t): t for call in calls for t in call.inputs if id(t) not in made}
        self.inputs = list(entering.values())
        self.outputs = [
            tensor
            for call in calls
            for tensor in call.outputs
            if id(tensor) in graph.outputs
            or any(id(c.outputs[0]) not in inner for c in _users(graph, tensor))
        ]
        layers = {id(call.operation): call.operation for call in calls}.values()
        held = [v for layer in layers for v in getattr(layer, "variables", ())]
        self.variables = list({id(v): v for v in held}.values())

    def has_gradients(self) -> bool:
        """Whether it makes anything that has a gradient."""
        return any("float" in tensor.dtype for tensor in self.outputs)

    def is_exact(self, graph: Graph) -> bool:
        """Whether gradients through it are summed as they are without it.

        The gradient of a tensor is one sum over all its uses. A tensor that is used both
        inside (by a penalty, too) and outside would have two.
        """
        inner = {id(call.outputs[0]) for call in self.calls}
        for tensor in self.inputs:
            made_by = compat.producing_call(tensor).operation
            if isinstance(made_by, keras.layers.InputLayer):
                continue  # nobody takes its gradient
            uses = _users(graph, tensor)
            if any(id(c.outputs[0]) not in inner or len(c.inputs) > 2 for c in uses):
                return False
        for tensor in self.outputs:
            if id(compat.producing_call(tensor).outputs[0]) in self.lossy:
                return False
            uses = _users(graph, tensor)
            if any(id(c.outputs[0]) in inner or len(c.inputs) > 2 for c in uses):
                return False
        return True


def stretches(
    graph: Graph, wanted: Callable[[str], bool], penalizes: Callable[[str, Any], bool]
) -> list[Stretch]:
    """The stretches of some modules of a graph.

    A module is cut where one tensor alone leads on, so that what is kept at the cuts,
    together with the largest stretch, is as small as it can be.

    Args:
        graph: The graph of a Functional model.
        wanted: Function of the name of a module, as its boundary has it, or `graph.OUTPUT`
            for the last one: whether it is to be recomputed.
        penalizes: Function of such a name and of a call: whether the call adds a loss,
            such as a penalty of its activity.
    """
    users: dict[int, int] = {}
    for call in graph.calls:
        for variable in {id(v): v for v in getattr(call.operation, "variables", ())}:
            users[variable] = users.get(variable, 0) + 1
    found = []
    for name, calls in calls_of_modules(graph).items():
        if not wanted(name):
            continue
        own: list[Stretch] = []
        inner = {id(call.outputs[0]) for call in calls}
        plain = [_is_plain(call, graph, users, inner) for call in calls]
        for is_plain, places in itertools.groupby(range(len(calls)), plain.__getitem__):
            if not is_plain:
                part = [calls[place] for place in places]
                lossy = {id(c.outputs[0]) for c in part if penalizes(name, c)}
                pieces = _pieces(part, graph, lossy)
                own += [Stretch(name, piece, graph, lossy) for piece in pieces]
        last = calls[-1].outputs[0]
        for stretch in own:
            stretch.ends_module = any(last is t for c in stretch.calls for t in c.outputs)
        found += [each for each in own if each.has_gradients() and each.is_exact(graph)]
    return found


def schedule(graph: Graph, found: Sequence[Stretch]) -> list:
    """Stretches and the other calls of a graph, in an order in which they can be made."""
    of_call = {id(c.outputs[0]): s for s in found for c in s.calls}
    units: list = []
    for call in graph.calls:
        unit = of_call.get(id(call.outputs[0]), call)
        if not call.node.is_input and not any(unit is each for each in units[-1:]):
            units.append(unit)
    units = list({id(unit): unit for unit in units}.values())
    made = {id(t) for call in graph.calls if call.node.is_input for t in call.outputs}
    ordered: list = []
    while units:
        ready = next((u for u in units if all(id(t) in made for t in u.inputs)), None)
        if ready is None:  # two stretches that wait for each other
            stuck = next(u for u in units if isinstance(u, Stretch))
            place = units.index(stuck)
            units[place : place + 1] = stuck.calls
            continue
        units.remove(ready)
        ordered.append(ready)
        calls = ready.calls if isinstance(ready, Stretch) else [ready]
        made.update(id(t) for call in calls for t in call.outputs)
    return ordered


def calls_of_modules(graph: Graph) -> dict[str, list]:
    """The calls that belong to one module alone, in order."""
    reached = graph.ends()
    found: dict[str, list] = {name: [] for name in [*graph.boundaries(), OUTPUT]}
    for call in graph.calls:
        ends = reached[id(call.outputs[0])]
        if not is_boundary(call.operation) and not call.node.is_input and len(ends) == 1:
            found[next(iter(ends))].append(call)
    return {name: calls for name, calls in found.items() if calls}


def _is_plain(call: Any, graph: Graph, users: dict[int, int], inner: set[int]) -> bool:
    """Whether a call cannot be part of a stretch.

    Its variables would be read in two places, what it takes is not a plain tensor, or what
    it makes leaves the module and is used in it as well.
    """
    if any(users[id(v)] > 1 for v in getattr(call.operation, "variables", ())):
        return True
    for tensor in [*call.inputs, *call.outputs]:
        layer = compat.producing_call(tensor).operation
        if getattr(tensor, "sparse", False) or getattr(tensor, "ragged", False):
            return True
        if isinstance(layer, keras.layers.InputLayer) and layer.optional:
            return True
    for tensor in [*call.inputs, *call.outputs]:
        if isinstance(compat.producing_call(tensor).operation, keras.layers.InputLayer):
            continue
        uses = [id(c.outputs[0]) in inner for c in _users(graph, tensor)]
        leaves = id(tensor) in graph.outputs or not all(uses)
        if leaves and any(uses):
            return True
    return False


def _pieces(calls: list, graph: Graph, lossy: set[int]) -> list[list]:
    """Calls cut so that what is kept, and the largest piece, are small together."""
    cuts = [0, *_clean_cuts(calls, graph, lossy), len(calls)]
    total = [0, *itertools.accumulate(graph_costs(calls, "memory"))]
    kept = [_size(calls[cut - 1].outputs) if cut else 0 for cut in cuts]
    most, least = total[-1], max(total[b] - total[a] for a, b in itertools.pairwise(cuts))
    ratio = (most / least) ** (1 / _TRIALS) if least else 1.0
    best: tuple[float, list[int]] = (math.inf, [0, len(cuts) - 1])
    for trial in range(_TRIALS + 1):
        bound = max(least, least * ratio**trial) + 0.5
        cost, chosen = _cheapest(cuts, total, kept, bound)
        largest = max(
            total[cuts[b]] - total[cuts[a]] for a, b in itertools.pairwise(chosen)
        )
        best = min(best, (cost + largest, chosen))
    ends = [cuts[place] for place in best[1]]
    return [calls[a:b] for a, b in itertools.pairwise(ends)]


def _cheapest(
    cuts: list[int], total: list[int], kept: list[int], bound: float
) -> tuple[int, list[int]]:
    """The places to cut at that keep the least, where no piece may exceed a bound."""
    best: list[tuple[int, list[int]]] = [(0, [0])]
    for end in range(1, len(cuts)):
        options = [
            (best[start][0], best[start][1])
            for start in range(end)
            if total[cuts[end]] - total[cuts[start]] <= bound or start == end - 1
        ]
        cost, chosen = min(options, key=lambda option: (option[0], len(option[1])))
        own = kept[end] if end < len(cuts) - 1 else 0
        best.append((cost + own, [*chosen, end]))
    return best[-1]


def _clean_cuts(calls: list, graph: Graph, lossy: set[int]) -> list[int]:
    """The places where only what the call before them makes is used behind them.

    Not where that call penalizes it: it would be used before the cut, too.
    """
    place = {id(c.outputs[0]): i for i, c in enumerate(calls)}
    closed = {place[key] + 1 for key in lossy}
    for tensor in {id(t): t for c in calls for t in [*c.inputs, *c.outputs]}.values():
        maker = compat.producing_call(tensor)
        if isinstance(maker.operation, keras.layers.InputLayer):
            continue
        users = _users(graph, tensor)
        uses = [place[id(c.outputs[0])] for c in users if id(c.outputs[0]) in place]
        if not uses:
            continue
        made = place.get(id(maker.outputs[0]))
        first = min(uses) + 1 if made is None else made + 2
        if made is not None and any(len(c.inputs) > 2 for c in users):
            first = made + 1
        closed.update(range(first, max(uses) + 1))
    return [cut for cut in range(1, len(calls)) if cut not in closed]


def _users(graph: Graph, tensor: Any) -> list:
    return graph.consumers.get(id(tensor), [])


def _size(tensors: Iterable[Any]) -> int:
    """Bytes of some tensors, for one example."""
    return sum(
        math.ceil(math.prod(side or 1 for side in tensor.shape) * bytes_of(tensor.dtype))
        for tensor in tensors
    )

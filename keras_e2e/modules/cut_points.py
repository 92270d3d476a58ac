"""Choosing where to cut a graph into balanced modules."""

import itertools
from typing import Any, NamedTuple

import keras

from keras_e2e.modules.call_costs import Balance, graph_costs
from keras_e2e.modules.graph import Graph

# The number of boundaries where none is asked for.
DEFAULT_COUNT = 3

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
# Layers that belong to the layer before where nothing else follows it: a convolution and
# its normalization stay together, and so do a residual sum and the one that follows it.
FINISHERS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)


class CutPoint(NamedTuple):
    """A place where a boundary separates the graph into before and after.

    Attributes:
        layer: The layer whose output would be cut.
        position: Index of its call in the graph.
    """

    layer: Any
    position: int


def cut_points(graph: Graph) -> list[CutPoint]:
    """The layers whose output every path from an input to an output crosses.

    Of the layers without weights that follow a layer with weights, only the last one
    that still ends a module in the usual sense is kept (the pooling, say, rather than
    the convolution or the dropout). A layer is not cut off from the normalization
    that alone follows it.
    """
    calls = graph.calls
    place = {id(c.outputs[0]): i for i, c in enumerate(calls) if c.outputs}
    last_use = {}
    for i, call in enumerate(calls):
        for tensor in call.inputs:
            last_use[id(tensor)] = i
    weighted = [bool(getattr(c.operation, "weights", ())) for c in calls]
    uses: dict[int, list[int]] = {}
    asked = graph.asked()
    for i, call in enumerate(calls):
        if weighted[i] and call.operation.name not in asked:
            uses.setdefault(id(call.operation), []).append(i)

    # An input may stand late in the order; what comes before it cuts nothing off from it.
    entered = max(
        i
        for i, c in enumerate(calls)
        if isinstance(c.operation, keras.layers.InputLayer) and id(c.outputs[0]) in last_use
    )
    found: list[CutPoint] = []
    farthest = -1  # the farthest call that uses a tensor made before this one
    for i, call in enumerate(calls):
        alone = i > entered and farthest <= i and len(call.outputs) == 1
        is_output = any(id(t) in graph.outputs for t in call.outputs)
        shared = any(u[0] <= i < u[-1] for u in uses.values())
        repeated = sum(c.operation is call.operation for c in calls) > 1
        for tensor in call.outputs:
            farthest = max(farthest, last_use.get(id(tensor), -1))
            if id(tensor) in graph.outputs:
                farthest = len(calls)  # an early output: nothing later is a cut
        if (
            not alone
            or is_output
            or shared
            or repeated
            or not isinstance(call.operation, keras.layers.Layer)
        ):
            continue
        consumers = graph.consumers.get(id(call.outputs[0]), [])
        if all(isinstance(c.operation, FINISHERS) for c in consumers):
            continue
        if any(weighted[: i + 1]) and any(weighted[i + 1 :]):
            found.append(CutPoint(call.operation, place[id(call.outputs[0])]))
    return ends_of_modules(found, weighted)


def ends_of_modules(points: list[CutPoint], weighted: list[bool]) -> list[CutPoint]:
    """Keeps one cut point between two layers with weights."""
    runs: dict[int, list[CutPoint]] = {}
    for point in points:
        before = sum(weighted[: point.position + 1])
        runs.setdefault(before, []).append(point)
    kept = []
    for run in runs.values():
        usual = [p for p in run if not isinstance(p.layer, _OPENERS)]
        kept.append((usual or run)[-1])
    return kept


def balanced(
    graph: Graph, count: int | None = None, balance: Balance = "memory"
) -> list[Any]:
    """The layers at `count` cut points that balance the modules.

    The largest cost over the modules is made as small as it can be.

    Args:
        graph: The graph to cut.
        count: Integer, the number of cut points. None means three, or as many as
            there are. Defaults to `None`.
        balance: What a module costs. `"memory"`: the bytes of the activations that its
            layers make, about what backpropagation keeps for each example.
            `"parameters"`: the number of its parameters. `"time"`: its multiplications
            with additions. Defaults to `"memory"`.

    Raises:
        ValueError: If `count` is not positive, or if the graph has fewer cut points.
    """
    points = cut_points(graph)
    _refuse_count(graph, points, count)
    if count is None:
        count = min(DEFAULT_COUNT, len(points))
    ends = [p.position + 1 for p in points] + [len(graph.calls)]
    total = [0, *itertools.accumulate(graph_costs(graph.calls, balance))]
    return [points[i].layer for i in best_ends(total, ends, count)]


def _refuse_count(graph: Graph, points: list[CutPoint], count: int | None) -> None:
    """Raises ValueError where so many cut points cannot be chosen."""
    if count is not None and count < 1:
        raise ValueError(f"boundaries={count}: expected at least 1 boundary.")
    if len(points) >= (count or 1):
        return
    asked = "" if count is None else f"boundaries={count}: "
    operations = {id(c.operation): c.operation for c in graph.calls}.values()
    weighted = [x.name for x in operations if getattr(x, "weights", ())]
    if len(weighted) < 2:
        raise ValueError(
            f"{asked}the model {graph.model.name!r} is one module: its layers with weights "
            f"are {weighted}, and each module has at least one. Nothing is to be cut."
        )
    found, names, fewer = "no cut points", "", "Name"
    if points:
        found, fewer = (
            f"only {len(points)} cut points",
            f"Ask for at most {len(points)}, or name",
        )
        names = f": {[p.layer.name for p in points]}"
    raise ValueError(
        f"{asked}the model {graph.model.name!r} has {found} (layers that every path from "
        f"input to output crosses, with weights on both sides){names}. {fewer} layers "
        "yourself: modularize(model, [...])."
    )


def best_ends(total: list[int], ends: list[int], count: int) -> tuple:
    """Which of the ends to cut at, so that the largest module is as small as it can be.

    Args:
        total: List of the cost of all calls before each place.
        ends: List of the places where a module may end; the last is the graph's end.
        count: Integer, the number of ends to choose.
    """
    # best[k][j]: the smallest largest cost of k+1 modules that end at ends[j].
    best: list[dict[int, tuple[int, tuple]]] = [
        {j: (total[end], ()) for j, end in enumerate(ends)}
    ]
    for k in range(1, count + 1):
        row: dict[int, tuple[int, tuple]] = {}
        for j in range(k, len(ends)):
            options = [
                (max(best[k - 1][i][0], total[ends[j]] - total[ends[i]]), i)
                for i in range(k - 1, j)
            ]
            cost, i = min(options)
            row[j] = (cost, (*best[k - 1][i][1], i))
        best.append(row)
    return best[count][len(ends) - 1][1]

"""Choosing where to cut a graph into balanced modules."""

import itertools

from keras_e2e.modules.call_costs import Balance, graph_costs
from keras_e2e.modules.call_line import CutPoint, Line, in_turn
from keras_e2e.modules.graph import LOOPS, Graph
from keras_e2e.utils.graphs import sublayer_paths, unique

# The number of boundaries where none is asked for.
DEFAULT_COUNT = 3
# Modules are balanced if the largest costs no more than this times its fair share.
BALANCED = 1.5


def cut_points(graph: Graph) -> list[CutPoint]:
    """What every path from weights to an output crosses, unless it starts behind it.

    A path without weights before it, such as that of a mask, does not count: nothing on it
    is trained. Of the calls without weights that follow a layer with weights, only the last
    one that still ends a module in the usual sense is kept (the pooling, say, rather than
    the convolution or the dropout). A layer is not cut off from the normalization
    that alone follows it.
    """
    line = Line(graph, graph.calls)
    return [p for p in line.points() if p.since < 0 and p.position >= line.entered]


def most_cuts(graph: Graph) -> int:
    """How many boundaries `balanced` finds places for at the same time, at most."""
    line = Line(graph, in_turn(graph))
    return _most(line.owning_points(line.points(apart=True, together=True)))


def balanced(
    graph: Graph, count: int | None = None, balance: Balance = "memory"
) -> list[tuple]:
    """The layers and operations at `count` cut points that balance the modules.

    The largest cost over the modules is made as small as it can be: at first with cuts
    between blocks of layers that repeat (those of a transformer), then, if they do not
    balance the modules, also with cuts inside of them. What has a way around it (the inner
    part of a U-Net) is a cut point where another boundary stands on that way; such are
    taken only if nothing else balances the modules. So are all cuts between two uses of the
    same weights, if nobody was named to own them. At last come boundaries that pass several
    tensors, two before three.

    Args:
        graph: The graph to cut.
        count: Integer, the number of cut points. None means three, or as many as
            there are. Defaults to `None`.
        balance: What a module costs. `"memory"`: the bytes of the activations that its
            layers make, about what backpropagation keeps for each example.
            `"parameters"`: the number of its parameters. `"time"`: its multiplications
            with additions. Defaults to `"memory"`.

    Returns:
        A list with a tuple for each boundary: what it is to follow, the last one behind all
        others.

    Raises:
        ValueError: If `count` is not positive, or if the graph has fewer cut points.
    """
    line = Line(graph, in_turn(graph))
    together = line.points(apart=True, together=True)
    most = _most(line.owning_points(together))
    total = [0, *itertools.accumulate(graph_costs(line.calls, balance))]
    if count is not None and count < 1:
        raise ValueError(f"boundaries={count}: expected at least 1 boundary.")
    if most < (count or 1):
        _refuse_count(line, line.owning_points(together), most, count)
    if count is None:
        count = min(DEFAULT_COUNT, most)
    kinds = [line.points(), line.points(apart=True)]
    for number in sorted({len(p.beside) for p in together} - {0}):
        kinds.append([p for p in together if len(p.beside) <= number])
    found, begin = [], 0
    for point in _chosen(line, kinds, total, count):
        beside = [line.calls[at].operation for at in point.beside if at >= begin]
        found.append((*unique(beside), point.layer))
        begin = point.position + 1
    return found


def _chosen(
    line: Line, kinds: list[list[CutPoint]], total: list[int], count: int
) -> list[CutPoint]:
    """The cut points that balance the modules, of the first kind that has such."""
    found: list[tuple[float, list[CutPoint]]] = []
    tried = []
    for points in kinds:
        alone = [p for p in points if p.since < 0]
        tried += [_between_blocks(line, alone), alone, points]
    for some in map(line.owning_points, tried):
        ends = [p.position + 1 for p in some] + [len(line.calls)]
        chosen = best_ends(total, ends, count, [*(p.since + 1 for p in some), 0])
        if chosen is not None:
            cuts = [0, *(ends[i] for i in chosen), len(line.calls)]
            largest = max(total[b] - total[a] for a, b in itertools.pairwise(cuts))
            found.append((largest, [some[i] for i in chosen]))
            if largest <= BALANCED * total[-1] / (count + 1):
                break
    return min(found, key=lambda each: each[0])[1]


def _between_blocks(line: Line, points: list[CutPoint]) -> list[CutPoint]:
    """The cut points without those inside of a block that follows itself."""
    edges = [0, *(p.position + 1 for p in points)]
    kinds = [line.kinds(a, b) for a, b in itertools.pairwise(edges)]
    kept, i = [], 0
    while i < len(kinds):
        half = (len(kinds) - i) // 2
        sizes = range(1, half + 1)
        size = next((n for n in sizes if kinds[i : i + n] == kinds[i + n : i + 2 * n]), 1)
        *inner, last = kinds[i : i + size]
        # The last one may have a layer more, such as the normalization of the outputs.
        while kinds[i : i + size - 1] == inner and kinds[i + size - 1 : i + size]:
            if kinds[i + size - 1][: len(last)] != last:
                break
            kept.append(points[i + size - 1])
            i += size
        if i < len(kinds) and kinds[i:] == inner[: len(kinds) - i]:
            break  # the last one ends where the model does
    return kept


def _most(points: list[CutPoint]) -> int:
    longest: list[int] = []
    for point in points:
        before = [
            n
            for p, n in zip(points, longest, strict=False)
            if p.position >= point.since and n
        ]
        longest.append(max(before, default=0) + 1 if before or point.since < 0 else 0)
    return max(longest, default=0)


def _refuse_count(line: Line, points: list[CutPoint], most: int, count: int | None) -> None:
    """Raises ValueError where so many cut points cannot be chosen.

    Args:
        line: The calls.
        points: List of the cut points.
        most: Integer, how many of them can be boundaries at the same time.
        count: Integer, how many were asked for, or None.
    """
    name = line.graph.model.name
    asked = "" if count is None else f"boundaries={count}: "
    operations = unique(c.operation for c in line.calls)
    weighted = [x.name for x in operations if getattr(x, "weights", ())]
    if len(weighted) < 2:
        layers = [x for x in operations if x.name in weighted and not isinstance(x, LOOPS)]
        below = [(x, *found) for x in layers for found in sublayer_paths(x)]
        inside = [f"{x.name}/{path}" for x, path, layer in below if layer.weights]
        raise ValueError(
            f"{asked}the model {name!r} is one module: its layers with weights are "
            f"{weighted}, and each module has at least one. "
            + (
                f"Name layers inside of it: {inside}."
                if inside
                else "Nothing is to be cut."
            )
        )
    found, names, fewer = "no cut points", "", "Name"
    if most:
        found, fewer = f"only {most} cut points", f"Ask for at most {most}, or name"
        names = f": {[p.layer.name for p in points]}"
    raise ValueError(
        f"{asked}the model {name!r} has {found} (layers and operations that every path "
        "from weights before them to an output crosses, with weights on both sides)"
        f"{names}. {fewer} layers yourself: modularize(model, [...])."
    )


def best_ends(
    total: list[int], ends: list[int], count: int, begins: list[int] | None = None
) -> tuple | None:
    """Which of the ends to cut at, so that the largest module is as small as it can be.

    Args:
        total: List of the cost of all calls before each place.
        ends: List of the places where a module may end; the last is the graph's end.
        count: Integer, the number of ends to choose.
        begins: List of the first place where a module with such an end may begin. Defaults
            to `None`: anywhere.

    Returns:
        A tuple of indices; None if there is no such choice.
    """
    begins = begins or [0] * len(ends)
    # best[k][j]: the smallest largest cost of k+1 modules that end at ends[j].
    best: list[dict[int, tuple[int, tuple]]] = [
        {j: (total[end], ()) for j, end in enumerate(ends) if begins[j] == 0}
    ]
    for k in range(1, count + 1):
        row: dict[int, tuple[int, tuple]] = {}
        for j in range(k, len(ends)):
            options = [
                (max(best[k - 1][i][0], total[ends[j]] - total[ends[i]]), i)
                for i in range(k - 1, j)
                if i in best[k - 1] and ends[i] >= begins[j]
            ]
            if options:
                cost, i = min(options)
                row[j] = (cost, (*best[k - 1][i][1], i))
        best.append(row)
    found = best[count].get(len(ends) - 1)
    return None if found is None else found[1]

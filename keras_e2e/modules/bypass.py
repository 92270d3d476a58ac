"""What to do about a boundary that a path leads around."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_e2e.modules.boundary import ModuleBoundary

# From calls at which modules end, to the ends that each call reaches (`Graph.ends`).
Ends = Callable[[Sequence[Any]], dict[int, set]]


def advice(graph: Any, bypassed: str) -> str:
    """Where else to set a bypassed boundary, as sentences for an error.

    Args:
        graph: The `Graph`.
        bypassed: String, the name of the boundary.
    """
    crossing = next(c for c in graph.calls if _name(c) == bypassed)

    def without(cuts: Sequence[Any]) -> dict[int, set]:
        return graph.ends(cuts, left_out=bypassed)

    joined = _joined(graph, crossing, without)
    sources = _sources(graph, crossing)
    names = [call.operation.name for call in sources]
    cut = graph.ends(sources)
    offers = []
    if joined is not None:
        offers.append(f"Set the boundary where the paths have joined, at {joined!r}")
    if sources and all(_holds(graph, call, cut) for call in [*sources, crossing]):
        offers.append(f"cut the other path as well, with boundaries at {names}")
    # One end, whatever the name.
    one = {key: ends - {*names} or {bypassed} for key, ends in cut.items()}
    if sources and all(_holds(graph, call, one) for call in [*sources, crossing]):
        own = [graph.makers[id(tensor)].operation.name for tensor in crossing.inputs]
        passed = (*names, *(dict.fromkeys(own) if len(own) > 1 else (bypassed,)))
        offers.append(f"let one boundary pass both paths, {passed}")
    if not offers:
        return (
            "Set the boundary where the paths have joined (after the addition of a "
            "residual block, say)."
        )
    text = ", or ".join(offers)
    return text[0].upper() + text[1:] + "."


def _joined(graph: Any, crossing: Any, ends: Ends) -> str | None:
    """The name of the first call behind a boundary that would do in its place."""
    behind = {id(tensor) for tensor in crossing.outputs}
    for call in graph.calls:
        if not any(id(tensor) in behind for tensor in call.inputs):
            continue
        behind.update(id(tensor) for tensor in call.outputs)
        if _may_end(graph, call) and _holds(graph, call, ends([call])):
            return str(call.operation.name)
    return None


def _sources(graph: Any, crossing: Any) -> list:
    """The calls where the paths around a boundary leave, if boundaries may follow them."""
    reached, trained = graph.ends(), _trained(graph)
    passed = {id(tensor) for tensor in crossing.inputs}
    found = []
    for call in graph.calls:
        ends = reached[id(call.outputs[0])]
        if _name(call) or _name(crossing) not in ends:
            continue
        users = [c for t in call.outputs for c in graph.consumers.get(id(t), ())]
        leads = [{_name(c)} if _name(c) else reached[id(c.outputs[0])] for c in users]
        passes = any(id(tensor) in passed for tensor in call.outputs)
        splits = len(ends) > 1 and any(lead < ends for lead in leads)
        if splits and id(call) in trained and not passes:
            found.append(call)
    return found if all(_may_end(graph, call) for call in found) else []


def _may_end(graph: Any, call: Any) -> bool:
    """Whether a boundary may follow a call at all."""
    calls = sum(c.operation is call.operation for c in graph.calls)
    used = [tensor for tensor in call.outputs if graph.consumers.get(id(tensor))]
    return (
        calls == 1
        and bool(used)
        and not any(id(tensor) in graph.outputs for tensor in call.outputs)
        and all("float" in keras.backend.standardize_dtype(t.dtype) for t in used)
        and not _name(call)
    )


def _holds(graph: Any, call: Any, reached: dict[int, set]) -> bool:
    """Whether the weights that lead to a call lead nowhere else."""
    pending, seen = [call], {id(call)}
    while pending:
        here = pending.pop()
        if len(reached[id(here.outputs[0])]) > 1 and _weighted(here):
            return False
        for tensor in here.inputs:
            made = graph.makers[id(tensor)]
            if id(made) not in seen:
                seen.add(id(made))
                pending.append(made)
    return True


def _trained(graph: Any) -> set[int]:
    """`id`s of the calls that weights lead to without crossing a boundary."""
    found: set[int] = set()
    for call in graph.calls:
        makers = [graph.makers[id(tensor)] for tensor in call.inputs]
        led = any(id(made) in found and not _name(made) for made in makers)
        if led or _weighted(call):
            found.add(id(call))
    return found


def _name(call: Any) -> str | None:
    """The name of a boundary; None for any other call."""
    operation = call.operation
    return operation.module if isinstance(operation, ModuleBoundary) else None


def _weighted(call: Any) -> bool:
    return bool(getattr(call.operation, "weights", ()))

"""Which of the tensors that a boundary passes its objective is given."""

from collections.abc import Sequence
from typing import Any

from keras_e2e.modules.graph import Graph, is_boundary
from keras_e2e.modules.joined import is_float
from keras_e2e.utils.validation import did_you_mean


def seen_in_graph(graph: Graph, boundary: Any) -> tuple[int, ...]:
    """The places of the tensors of a boundary that its objective is given, in a graph.

    Where it names none, those that lead to no other one inside of the module: what leads
    to another is trained by its loss.

    Args:
        graph: The `Graph`.
        boundary: The `ModuleBoundary`, one of its boundaries.

    Raises:
        ValueError: As `seen_among`.
    """
    tensors = next(c for c in graph.calls if c.operation is boundary).inputs
    leading: set[int] = set()
    for tensor in filter(is_float, tensors):
        leading |= _leading_to(tensor, graph)
    left_out = [place for place, t in enumerate(tensors) if id(t) in leading]
    return seen_among(boundary, tensors, left_out)


def seen_among(
    boundary: Any, tensors: Sequence[Any], left_out: Sequence[int] = ()
) -> tuple[int, ...]:
    """The places of the tensors of a boundary that its objective is given.

    Args:
        boundary: The `ModuleBoundary`.
        tensors: The tensors, symbolic or not.
        left_out: Places of those that count only where the objective names them
            (`LocalObjective`), beside those of integers. Defaults to none.

    Raises:
        ValueError: If the objective names tensors that the boundary does not pass, or that
            are not of floats, or if it is for one tensor and is given several.
    """
    names = boundary.tensor_names(len(tensors))
    floats = [place for place, tensor in enumerate(tensors) if is_float(tensor)]
    objective = boundary.objective
    if objective is not None and objective.tensors is not None:
        seen = _named(boundary, objective.tensors, names, floats)
    else:
        seen = tuple(place for place in floats if place not in left_out)
    if objective is not None and objective.feedback_source == "boundary" and len(seen) > 1:
        kind = type(objective).__name__
        raise ValueError(
            f"Boundary {boundary.module!r}: its objective {kind} predicts the gradient at "
            f"one tensor, and the boundary passes {names}. Name one of them: "
            f"{kind}(tensors={names[seen[-1]]!r})."
        )
    return seen or tuple(range(len(tensors)))


def _named(boundary: Any, asked: Any, names: list[str], floats: list[int]) -> tuple:
    """The places of tensors by their names; a number is a place."""
    who = f"Boundary {boundary.module!r}: its objective {type(boundary.objective).__name__}"
    found = []
    for one in asked if isinstance(asked, list | tuple) else [asked]:
        place = names.index(one) if one in names else one
        if not isinstance(place, int) or not 0 <= place < len(names):
            raise ValueError(
                f"{who} has tensors={asked!r}; the boundary passes {names}."
                f"{did_you_mean(str(one), names)} Name some of these, or leave `tensors` "
                "out."
            )
        if place not in floats:
            raise ValueError(
                f"{who} has tensors={asked!r}, and {names[place]!r} is not of floats: it "
                f"has no gradient. Name some of {[names[i] for i in floats]}."
            )
        found.append(place)
    return tuple(dict.fromkeys(found))


def _leading_to(tensor: Any, graph: Graph) -> set[int]:
    """`id`s of the tensors that lead to one without crossing a boundary."""
    pending, found = list(graph.makers[id(tensor)].inputs), set[int]()
    while pending:
        before = pending.pop()
        if id(before) not in found:
            found.add(id(before))
            call = graph.makers[id(before)]
            pending += [] if is_boundary(call.operation) else call.inputs
    return found

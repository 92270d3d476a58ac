"""Boundaries that several tensors of a graph cross together."""

from typing import Any, NamedTuple

from keras import tree

from keras_e2e.modules.boundary import ModuleBoundary
from keras_e2e.utils import compat
from keras_e2e.utils.compat.scoped import NestedCalls


class Together(NamedTuple):
    """A boundary and the symbolic tensors that are to cross it.

    Attributes:
        boundary: The `ModuleBoundary`.
        tensors: List of the tensors, in the order in which it passes them.
    """

    boundary: ModuleBoundary
    tensors: list


def crossed_together(outputs: list, together: list[Together], noted: NestedCalls) -> list:
    """The outputs of a graph in which tensors cross boundaries together.

    What leads to one of the tensors of a boundary takes the others as they are, and all
    else takes what the boundary returns. What follows a boundary is called anew.

    Args:
        outputs: List of the symbolic tensors that the graph returns.
        together: List of `Together`, no two of the same tensor.
        noted: The `NestedCalls`, where a call that is made anew takes the place of the one
            that it stands for.

    Raises:
        ValueError: If two boundaries would have to be crossed one before the other, each.
    """
    calls = compat.calls_between(outputs)
    before = {id(each.boundary): _leading_to(each.tensors) for each in together}
    boundaries = {id(t): each.boundary for each in together for t in each.tensors}
    made: dict[int, Any] = {}  # by tensors of the graph, as it was: what they are now
    behind: dict[int, Any] = {}  # the same, behind the boundary

    def taken(tensor: Any, call: Any = None) -> Any:
        """What a call takes for a tensor, or the outputs; None if it is not there yet."""
        boundary = boundaries.get(id(tensor))
        if boundary is None or (call and id(call.node) in before[id(boundary)]):
            return made.get(id(tensor))
        return behind.get(id(tensor))

    pending: list[Any] = [*calls, *together]
    while pending:
        waiting = []
        for each in pending:
            if isinstance(each, Together):
                values = [made.get(id(tensor)) for tensor in each.tensors]
                found, known = each.tensors, behind
            else:
                values = [taken(tensor, each) for tensor in each.inputs]
                found, known = each.outputs, made
            if any(value is None for value in values):
                waiting.append(each)
                continue
            new = _made(each, values, noted)
            known.update(zip(map(id, found), new, strict=True))
        if len(waiting) == len(pending):
            _refuse_circle([each for each in waiting if isinstance(each, Together)])
        pending = waiting
    return [taken(tensor) for tensor in outputs]


def _made(each: Any, values: list, noted: NestedCalls) -> list:
    """What a boundary or a call of the graph makes of these tensors."""
    if isinstance(each, Together):
        return each.boundary(values)
    if all(value is t for value, t in zip(values, each.inputs, strict=True)):
        return each.outputs
    outputs = tree.flatten(each.repeat(values))
    noted.repeated(each.outputs, outputs)
    return outputs


def _leading_to(tensors: list) -> set[int]:
    """`id`s of the nodes of the calls that lead to some tensors."""
    return {id(call.node) for call in compat.calls_between(tensors)}


def _refuse_circle(stuck: list[Together]) -> None:
    names = [each.boundary.module for each in stuck]
    raise ValueError(
        f"Boundaries {names} pass several tensors each, and each is to be crossed before "
        f"the other: {[list(each.boundary.tensors) for each in stuck]}. Let one boundary "
        "pass all of them."
    )

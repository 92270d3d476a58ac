"""What comes after a boundary, as blocks of layers that can be copied."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras
from keras import tree

from keras_e2e.modules.boundary import ModuleBoundary
from keras_e2e.modules.cut_points import cut_points
from keras_e2e.modules.graph import Graph, is_boundary


@dataclass(frozen=True)
class Block:
    """A piece of a graph that one tensor enters.

    Attributes:
        calls: Its calls of layers and operations, in the order of the graph.
        start: The tensor that it takes.
        ends: The tensors that it returns: one, or the model's outputs for the last block.
        place: How many blocks of the whole network come before it.
        count: How many blocks the whole network has.
        last: Whether it leads into the model's outputs.
    """

    calls: tuple
    start: keras.KerasTensor
    ends: tuple
    place: int
    count: int
    last: bool

    @property
    def layers(self) -> tuple:
        """Its layers with weights."""
        return _weighted(self.calls)

    @property
    def variables(self) -> list:
        """The weights of its layers."""
        return list({id(v): v for x in self.layers for v in x.weights}.values())

    def clone(
        self, tensor: keras.KerasTensor, prefix: str
    ) -> tuple[keras.KerasTensor, list[tuple[Any, Any]]]:
        """Applies fresh copies of the block's layers to another tensor.

        Regularizers, dropout and dtype policies are copied with the layers. A layer that
        the block calls twice has one copy.

        Args:
            tensor: Symbolic tensor to apply the copies to; its shape may differ from that
                of `start`.
            prefix: String put before the names of the copies.

        Returns:
            The output of the copy, and the pairs of an original layer and its copy.

        Raises:
            ValueError: If the layers cannot be copied, or not applied to such a tensor, or
                the block ends in several outputs.

        Example:

        >>> import keras
        >>> from keras_e2e import ModuleBoundary
        >>> from keras_e2e.modules.blocks import blocks_after
        >>> from keras_e2e.modules.graph import Graph
        >>> x = keras.Input((8,))
        >>> boundary = ModuleBoundary(name="first")
        >>> h = boundary(keras.layers.Dense(4)(x))
        >>> y = keras.layers.Dense(3)(keras.layers.Dense(6, name="hidden")(h))
        >>> hidden, last = blocks_after(Graph(keras.Model(x, y)), boundary)
        >>> copied, pairs = hidden.clone(keras.Input((5,)), "copy_")
        >>> copied.shape, pairs[0][1].name, last.last
        ((None, 6), 'copy_hidden', True)
        """
        if len(self.ends) != 1:
            raise ValueError(f"{self} ends in {len(self.ends)} outputs, not in one.")
        values = {id(self.start): tensor}
        copies: dict[int, tuple[Any, Any]] = {}
        try:
            for call in self.calls:
                made: Any = [values[id(t)] for t in call.inputs]
                if not is_boundary(call.operation):
                    operation = _copied(call.operation, prefix, copies)
                    made = tree.flatten(call._replace(operation=operation).repeat(made))
                values.update(zip(map(id, call.outputs), made, strict=True))
        except Exception as error:  # Keras, the backend and the user's layers have theirs
            raise ValueError(
                f"{self} cannot be applied to a tensor of shape {tuple(tensor.shape)}; it "
                f"was made for {tuple(self.start.shape)}. Keras says: {error}"
            ) from error
        return values[id(self.ends[0])], list(copies.values())

    def __str__(self) -> str:
        return f"The block of layers {[layer.name for layer in self.layers]}"


def blocks_after(graph: Graph, boundary: ModuleBoundary) -> tuple[Block, ...]:
    """The rest of a network after a boundary, cut at all its cut points.

    Each block has layers with weights; those without belong to the block that follows.
    Other boundaries are the identity.

    Args:
        graph: The graph of a Functional model.
        boundary: One of its boundaries.

    Returns:
        The blocks, in order. There are none where the boundary is crossed more than once,
        or where other tensors than its output enter what follows.
    """
    crossed = [i for i, c in enumerate(graph.calls) if c.operation is boundary]
    if len(crossed) != 1 or len(graph.calls[crossed[0]].outputs) != 1:
        return ()
    here, end = crossed[0], len(graph.calls) - 1
    cuts = sorted({here, end, *(point.position for point in cut_points(graph))})
    before = _pieces(graph.calls, [-1, *(i for i in cuts if i <= here)])
    place = sum(bool(_weighted(piece)) for piece in before)
    start = graph.calls[here].outputs[0]
    found: list[tuple[tuple, Any]] = []
    reached, pending = {id(start)}, []  # tensors made of the boundary's output
    entered = start
    for piece in _pieces(graph.calls, [i for i in cuts if i >= here]):
        for call in piece:
            led = [id(t) in reached for t in call.inputs]
            if any(led):
                if not all(led):
                    return ()
                reached.update(id(t) for t in call.outputs)
                pending.append(call)
        if _weighted(pending):
            found.append((tuple(pending), entered))
            entered, pending = pending[-1].outputs[0], []
    if pending and found:  # a softmax behind a boundary, say
        found[-1] = (*found[-1][0], *pending), found[-1][1]
    return tuple(
        Block(
            calls=calls,
            start=tensor,
            ends=_ends(graph, calls) or calls[-1].outputs[:1],
            place=place + i,
            count=place + len(found),
            last=i == len(found) - 1,
        )
        for i, (calls, tensor) in enumerate(found)
    )


def _pieces(calls: list, cuts: list[int]) -> list[list]:
    """The calls after one cut up to and with the next."""
    return [calls[a + 1 : b + 1] for a, b in itertools.pairwise(cuts)]


def _weighted(calls: Iterable) -> tuple:
    """The layers with weights that are called; a boundary's belong to its objective."""
    layers = {
        id(c.operation): c.operation
        for c in calls
        if getattr(c.operation, "weights", ()) and not is_boundary(c.operation)
    }
    return tuple(layers.values())


def _ends(graph: Graph, calls: tuple) -> tuple:
    """The model's outputs among what the calls make, in the model's order."""
    made = {id(t) for call in calls for t in call.outputs}
    return tuple(t for t in tree.flatten(graph.model.outputs) if id(t) in made)


def _copied(operation: Any, prefix: str, copies: dict) -> Any:
    """The copy of a layer; an operation (`x + y`) holds nothing and serves as it is."""
    if not isinstance(operation, keras.layers.Layer):
        return operation
    if id(operation) not in copies:
        config = {**operation.get_config(), "name": f"{prefix}{operation.name}"}
        copies[id(operation)] = operation, type(operation).from_config(config)
    return copies[id(operation)][1]

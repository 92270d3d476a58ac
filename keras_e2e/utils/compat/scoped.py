"""A graph that makes its calls as the nested models do that were taken apart for it.

In their order: random numbers are drawn, and statistics moved, call by call. And in their
name scopes: TensorFlow's optimizer of graphs orders the terms of a sum by their names, and
so the names decide its last bits.
"""

import contextlib
import heapq
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import keras

# The calls of nested models that a call is in, from the outside: for each an object of its
# own and the name of the model.
Inside = tuple[tuple[object, str], ...]


class NestedCalls:
    """The calls of a graph, as they are noted in the order in which its model makes them.

    Stands for what `Function` has not: it orders calls by their depth, and within a depth
    now from the first to the last and now the other way round.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, Inside]] = {}  # by `id` of the call's node

    def note(self, outputs: Any, inside: Inside) -> None:
        """Notes the call that made these outputs, and what it is inside of."""
        self._known[_node(outputs)] = len(self._known), inside

    def repeated(self, before: Any, outputs: Any) -> None:
        """Notes that the call that made `outputs` takes the place of that of `before`."""
        if _node(before) in self._known:
            self._known[_node(outputs)] = self._known[_node(before)]

    def inside(self, node: Any) -> Inside:
        """What a call is inside of; nothing for one that is not known."""
        return self._known.get(id(node), (0, ()))[1]

    def in_order(self, nodes: list) -> list:
        """The same calls in the order of the model; those that it has not, at once."""
        made_by = {id(t): id(node) for node in nodes for t in node.outputs}
        missing = {id(n): {made_by[id(t)] for t in n.input_tensors} for n in nodes}
        ranks = [self._known.get(id(node), (-1,))[0] for node in nodes]
        followers: dict[int, list[int]] = {}
        for place, node in enumerate(nodes):
            for before in missing[id(node)]:
                followers.setdefault(before, []).append(place)
        ready = [(ranks[k], k) for k, node in enumerate(nodes) if not missing[id(node)]]
        heapq.heapify(ready)
        found = []
        while ready:
            node = nodes[heapq.heappop(ready)[1]]
            found.append(node)
            for place in followers.get(id(node), ()):
                missing[id(nodes[place])].remove(id(node))
                if not missing[id(nodes[place])]:
                    heapq.heappush(ready, (ranks[place], place))
        return found


def _node(outputs: Any) -> int:
    """The `id` of the node of the call that made these (`KerasTensor._keras_history`)."""
    operation, node_index, _ = keras.tree.flatten(outputs)[0]._keras_history
    return id(operation._inbound_nodes[node_index])


class ScopedGraph(keras.Model):
    """A Functional model that makes calls as nested models make them.

    Args:
        inputs: As in `keras.Model`.
        outputs: As in `keras.Model`.
        name: As in `keras.Model`.
        calls: The `NestedCalls` of the models that it was made of.
    """

    def __init__(self, inputs: Any, outputs: Any, name: str, calls: NestedCalls):
        super().__init__(inputs, outputs, name=name)
        by_depth: dict[int, list] = vars(self)["_nodes_by_depth"]
        nodes = [
            node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]
        ]
        nodes = calls.in_order(nodes)
        self._nodes_by_depth = {-place: [node] for place, node in enumerate(nodes)}
        inside: dict[int, list[Inside]] = {}
        for node in nodes:
            inside.setdefault(id(node.operation), []).append(calls.inside(node))
        self._inside = {key: tuple(found) for key, found in inside.items() if any(found)}

    def _run_through_graph(
        self, inputs: Any, operation_fn: Callable = lambda op: op, call_fn: Any = None
    ) -> Any:
        """Stands in front of `Function._run_through_graph`."""
        known = getattr(self, "_inside", {})  # Keras runs the graph when it makes it
        scopes = _Scopes()
        turn: Counter[int] = Counter()

        def in_scope(operation: Any) -> Callable:
            call = operation_fn(operation)
            places = known.get(id(operation), ())
            number = turn[id(operation)]
            turn[id(operation)] += 1
            if number >= len(places):
                return call

            def run(*args: Any, **kwargs: Any) -> Any:
                with scopes.of(places[number]):
                    return call(*args, **kwargs)

            return run

        named = known and call_fn is None and _names_matter()
        return super()._run_through_graph(
            inputs, in_scope if named else operation_fn, call_fn
        )


def _names_matter() -> bool:
    """Whether a graph of TensorFlow is being made."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.executing_eagerly()


class _Scopes:
    """The name scopes of one pass: each is made once and entered again."""

    def __init__(self) -> None:
        self.made: dict[Inside, str] = {}

    @contextlib.contextmanager
    def of(self, place: Inside) -> Iterator[None]:
        """The scope of what is inside of some models."""
        import tensorflow as tf

        if not place:
            yield
            return
        if place not in self.made:
            with self.of(place[:-1]):
                name = place[-1][1]
                with tf.name_scope(name):  # as Keras does, which builds a layer first
                    pass
                with tf.name_scope(name) as made:
                    self.made[place] = made
        with tf.name_scope(self.made[place]):
            yield

"""A graph whose calls are named in TensorFlow as if some were those of nested models.

TensorFlow's optimizer of graphs orders the terms of a sum by their names, and so the names
decide its last bits.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras

# The calls of nested models that a call is in, from the outside: for each an object of its
# own and the name of the model.
Inside = tuple[tuple[object, str], ...]


class ScopedGraph(keras.Model):
    """A Functional model that makes calls in the name scopes of nested models.

    Args:
        inputs: As in `keras.Model`.
        outputs: As in `keras.Model`.
        name: As in `keras.Model`.
        inside: Dict from the `id` of a layer or operation to a list that has, for each of
            its calls in turn, what this is inside of.
    """

    def __init__(
        self, inputs: Any, outputs: Any, name: str, inside: Mapping[int, list[Inside]]
    ):
        super().__init__(inputs, outputs, name=name)
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

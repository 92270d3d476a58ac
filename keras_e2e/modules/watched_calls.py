"""Which layers are called, in order, while some code runs."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import keras
from keras import tree


class LayerCall(NamedTuple):
    """One call of a layer.

    Attributes:
        layer: The layer.
        outer: The watched layer whose code makes the call, or None.
        inputs: List of the tensors that it is given.
        outputs: List of the tensors that it returns; empty while it runs.
    """

    layer: Any
    outer: Any
    inputs: list
    outputs: list


@contextlib.contextmanager
def watched_calls(layers: Iterable[keras.layers.Layer]) -> Iterator[list[LayerCall]]:
    """Notes the calls of some layers while the context is open, in the order they begin.

    Keras has no hooks on layers: the `call` of each is replaced on that instance
    meanwhile.

    Args:
        layers: The layers to watch.
    """
    calls: list[LayerCall] = []
    under_way: list[LayerCall] = []

    def watching(layer: keras.layers.Layer) -> Callable:
        original = layer.call

        @functools.wraps(original)
        def call(*args, **kwargs):
            given = _tensors((args, kwargs))
            noted = LayerCall(layer, under_way[-1].layer if under_way else None, given, [])
            calls.append(noted)
            under_way.append(noted)
            try:
                outputs = original(*args, **kwargs)
            finally:
                under_way.pop()
            noted.outputs.extend(_tensors(outputs))
            return outputs

        return call

    watched = {id(layer): layer for layer in layers}.values()
    before = [(layer, vars(layer).get("call")) for layer in watched]
    try:
        for layer in watched:
            layer.call = watching(layer)
        yield calls
    finally:
        for layer, call in before:
            if call is None:
                del layer.call
            else:
                layer.call = call


def _tensors(structure: Any) -> list:
    """The tensors among what a layer is given or returns, which may be None as well."""
    return [leaf for leaf in tree.flatten(structure) if hasattr(leaf, "shape")]

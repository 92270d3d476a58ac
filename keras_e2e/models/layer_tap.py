"""Boundaries that follow the layers of a subclassed model, which shows no graph."""

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Any

import keras
from keras import tree

from keras_e2e.modules.boundary import ModuleBoundary
from keras_e2e.modules.gate import Gate
from keras_e2e.modules.step_context import open_context
from keras_e2e.trainers.state import ModularState
from keras_e2e.utils import compat
from keras_e2e.utils.compat import calls


class LayerTap:
    """A layer's `call` that boundaries may follow and that may be frozen.

    Keras has no hooks on layers. The layer's `call` is replaced on this instance by one
    that does the same, unless a pass is recorded.
    """

    def __init__(self, layer: keras.layers.Layer):
        self.layer = layer
        self.call = layer.call
        self.previous = layer.__dict__.get("call")
        self.signature = inspect.signature(layer.call)
        self.users: list[ModuleBoundary | None] = []
        functools.update_wrapper(self, layer.call)

    def __call__(self, *args, **kwargs):
        context = open_context()
        gate = context.gate
        if gate is None:
            return self.call(*args, **kwargs)
        takes_training = "training" in self.signature.parameters
        if takes_training and _in_frozen_module(context.state, gate):
            bound = self.signature.bind_partial(*args, **kwargs)
            bound.arguments["training"] = False
            args, kwargs = bound.args, bound.kwargs
        outputs = self.call(*args, **kwargs)
        if gate.hold is not None and self.layer.supports_masking and args:
            # Keras does so when the layer returns, behind the boundary.
            previous = kwargs.get("mask", compat.mask_of(args[0]))
            calls.note_masks(self.layer, args[0], outputs, previous)
        crossed = [boundary for boundary in self.users if boundary is not None]
        penalized: contextlib.AbstractContextManager = contextlib.nullcontext()
        if crossed and (gate.hold is not None or gate.stopping):
            # Keras penalizes what the layer returns, behind the boundary.
            penalized = calls.penalized_before(self.layer, outputs)
        with penalized:
            for boundary in crossed:
                outputs = _cross(gate, boundary, outputs)
        return outputs


def _cross(gate: Gate, boundary: ModuleBoundary, outputs: Any) -> Any:
    """Crosses a boundary with the tensors that a layer returns; None stays where it is."""
    leaves = tree.flatten(outputs)
    tensors = [leaf for leaf in leaves if leaf is not None]
    if len(tensors) == len(leaves):
        return gate.cross(boundary, outputs)
    crossed = iter(tree.flatten(gate.cross(boundary, tensors)))
    found = [leaf if leaf is None else next(crossed) for leaf in leaves]
    return tree.pack_sequence_as(outputs, found)


def _in_frozen_module(state: ModularState, gate: Gate) -> bool:
    """Whether the layer called now belongs to a module that is frozen in this mode."""
    if state.mode.name != "sequential" or not state.modules:
        return False
    names = [module.name for module in state.modules]
    return len(gate.record.crossings) != names.index(str(state.mode.module))


def tap_layer(layer: keras.layers.Layer, boundary: ModuleBoundary | None) -> Callable:
    """Lets a boundary follow a layer. Returns what undoes it, in any order."""
    tap = layer.__dict__.get("call")
    if not isinstance(tap, LayerTap):
        tap = LayerTap(layer)
        layer.call = tap
    tap.users.append(boundary)

    def undo():
        tap.users = list(tap.users)
        index = next(i for i, user in enumerate(tap.users) if user is boundary)
        del tap.users[index]
        if not tap.users and layer.__dict__.get("call") is tap:
            if tap.previous is None:
                del layer.call
            else:
                layer.call = tap.previous

    return undo

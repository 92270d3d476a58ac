"""Private names of Keras about calls of layers that are under way, and their penalties.

The rest of them stand in `compat`.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
from keras import ops
from keras.src import backend
from keras.src.backend.common import global_state

_CONTEXT, _AUTOCAST = "current_call_ctx", "autocast_scope"


@contextlib.contextmanager
def outside_of_calls() -> Iterator[None]:
    """In this context everything is as if no layer's call were under way.

    Stands for `CallContext`, from which inner layers take `training` and by which penalties
    are collected; variables are `uncast`. An error
    that is raised here leaves the calls as it is: Keras would add the arguments of a call
    that has nothing to do with it (`_keras_call_info_injected`).
    """
    try:
        with _attribute(_CONTEXT, None), uncast():
            yield
    except Exception as error:
        error._keras_call_info_injected = True  # type: ignore[attr-defined]
        raise


def uncast() -> contextlib.AbstractContextManager:
    """In this context variables read as they are kept, also inside of a layer's call.

    Stands for `AutocastScope(None)`, where they do, but say that their dtype is `floatx`.
    """
    return _attribute(_AUTOCAST, None)


def call_context() -> Callable[[], contextlib.AbstractContextManager]:
    """Notes which call of a layer is under way; returns what puts one back into it.

    A layer called outside of any call forgets its penalties, and takes `training` from
    nowhere.
    """
    under_way = global_state.get_global_attribute(_CONTEXT)
    return functools.partial(_attribute, _CONTEXT, under_way)


@contextlib.contextmanager
def _attribute(name: str, value: Any) -> Iterator[None]:
    """In this context a global attribute of Keras has this value."""
    before = global_state.get_global_attribute(name)
    global_state.set_global_attribute(name, value)
    try:
        yield
    finally:
        global_state.set_global_attribute(name, before)


def note_masks(layer: keras.layers.Layer, inputs: Any, outputs: Any, previous: Any) -> None:
    """Notes masks on what a layer returns, as Keras does (`_set_mask_metadata`)."""
    layer._set_mask_metadata(inputs, outputs, previous)


@contextlib.contextmanager
def penalized_before(layer: keras.layers.Layer, outputs: Any) -> Iterator[None]:
    """Adds the penalty of a layer's activations before the context, within its `call`.

    Keras adds it when `call` returns, for each tensor that is returned: these penalties are
    left out then. If the context raises nothing is left behind.
    """
    tensors = [t for t in keras.tree.flatten(outputs) if backend.is_tensor(t)]
    left = len(tensors) if layer.activity_regularizer is not None else 0
    for output in tensors[:left]:
        penalty = layer.activity_regularizer(output)
        if output.ndim > 0:
            size = ops.cast(ops.shape(output)[0], dtype=penalty.dtype)
            penalty = ops.divide_no_nan(penalty, size)
        layer.add_loss(penalty)
    yield

    def leave_out(loss):
        nonlocal left
        left -= 1
        if not left:
            del layer.add_loss

    if left:
        layer.add_loss = leave_out


def penalties_of_calls(
    model: keras.Model, left_out: Iterable[keras.layers.Layer] = ()
) -> list:
    """What the layers of a model have added to its loss so far in the pass under way.

    Stands for `Layer.losses`, whose list does not show which layer a loss is from, and has
    those of the weights in it (`_get_own_losses`).

    Args:
        model: The model.
        left_out: Layers whose penalties, and those inside of them, are left out. Defaults
            to none.
    """
    out = {id(x) for layer in left_out for x in layer._flatten_layers(include_self=True)}
    losses = model._get_own_losses()
    for layer in model._flatten_layers(include_self=False):
        if id(layer) not in out:
            losses.extend(layer._get_own_losses())
    return losses


def keep_penalties(model: keras.Model) -> Callable[[], None]:
    """Notes what layers have added to the loss; returns what puts it back.

    Stands for `Layer._losses` and `_loss_ids`, which all threads share: a replica of a
    strategy that waits for the others amid its pass would find theirs in place of its own.
    """
    layers = model._flatten_layers(include_self=True)
    kept = [(layer, list(layer._losses), set(layer._loss_ids)) for layer in layers]

    def put_back() -> None:
        for layer, losses, ids in kept:
            layer._losses[:] = losses
            layer._loss_ids.clear()
            layer._loss_ids.update(ids)

    return put_back


def penalties_of_weights(model: keras.Model, chosen: Iterable[int]) -> list:
    """The penalties of weights of a model (`_get_regularization_losses`).

    Args:
        model: The model.
        chosen: `id`s of the variables.
    """
    regularized = [v for v in model.trainable_weights if v.regularizer is not None]
    stateless = backend.in_stateless_scope() and not backend.in_symbolic_scope()
    scope = backend.get_stateless_scope() if stateless else None
    return [
        v.regularizer(v if scope is None else scope.get_current_value(v))
        for v in regularized
        if id(v) in chosen
    ]


def losses_without(model: keras.Model, left_out: Iterable[keras.layers.Layer]) -> list:
    """`model.losses` without those of some layers and of what is inside of them."""
    if model._losses_override:
        return model._losses_override
    skipped = {id(v) for layer in left_out for v in layer.weights}
    chosen = {id(v) for v in model.trainable_weights} - skipped
    return [*penalties_of_calls(model, left_out), *penalties_of_weights(model, chosen)]


def summed(model: keras.Model, penalty: Any) -> Any:
    """A penalty as `compute_loss` adds it to the loss (`_aggregate_additional_loss`)."""
    return model._aggregate_additional_loss(penalty)

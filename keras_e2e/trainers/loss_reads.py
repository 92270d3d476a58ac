"""Whether a compiled loss may read weights of the model, by what it holds."""

import functools
import inspect
from collections.abc import Iterator
from typing import Any

import keras
from keras import tree


def loss_that_reads_weights(loss: Any) -> str | None:
    """The name of a loss that holds a layer, a model or a variable; None without one.

    A function is looked at by its closure, its defaults and the global names in it, an
    object by its attributes. Such a loss may read weights that the step has changed by
    then, where gradients are applied at boundaries.

    Args:
        loss: The compiled loss: a function, a `keras.losses.Loss`, or several of them in a
            list or dict.
    """
    for each in tree.flatten(loss):
        if callable(each) and any(_is_state(value) for value in _held(each)):
            return str(getattr(each, "__name__", None) or type(each).__name__)
    return None


def _is_state(value: Any) -> bool:
    if isinstance(value, keras.layers.Layer | keras.Variable):
        return True
    return type(value).__name__.endswith("Variable") and hasattr(value, "assign")


def _held(loss: Any, depth: int = 3) -> Iterator[Any]:
    """What a function or object holds, at most so deep."""
    if isinstance(loss, functools.partial):
        found: list = [loss.func, *loss.args, *loss.keywords.values()]
    elif inspect.ismethod(loss):
        found = [loss.__self__, loss.__func__]
    elif inspect.isfunction(loss):
        found = _named(loss)
        found += [*(loss.__defaults__ or ()), *(loss.__kwdefaults__ or {}).values()]
    elif isinstance(loss, keras.layers.Layer) or not hasattr(loss, "__dict__"):
        found = []
    else:
        found = [*vars(loss).values()]
    flat = [x for value in found for x in tree.flatten(value)]
    yield from flat
    for value in flat if depth else ():
        if not inspect.ismodule(value) and not inspect.isclass(value):
            yield from _held(value, depth - 1)


def _named(loss: Any) -> list:
    """The values of what a function names outside of it."""
    try:
        used = inspect.getclosurevars(loss)
    except ValueError:  # a name of its closure has no value yet
        return []
    return [*used.nonlocals.values(), *used.globals.values()]

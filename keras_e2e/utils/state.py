"""Putting a model back to where it was, in place of working on a copy."""

import contextlib
import random
import types
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_e2e.utils.compat import state as compat_state

# Objects of these packages are looked into. A subclass of a user's has one of theirs among
# its bases.
_PACKAGES = ("keras", __name__.split(".")[0])
_NEVER = (
    type,
    types.ModuleType,
    types.FunctionType,
    keras.KerasTensor,
    compat_state.GraphNode,
)


@contextlib.contextmanager
def preserve_state(model: Any) -> Iterator[None]:
    """Puts the numbers of a modular model back to what they were when this began.

    All variables that the model reaches (weights, the optimizer's, seeds, metrics, states
    of stateful layers), the training mode, and what `fit` and diagnostics leave behind.
    Holds a copy of all variables meanwhile. What was built or compiled stays.
    """
    model._build_optimizer()
    state = model._modular
    values = _Values(_reached(model).variables)
    mode, recorder = state.mode, state.recorder
    left = {name: getattr(model, name, None) for name in ("history", "stop_training")}
    try:
        yield
    finally:
        values.put_back()
        model.training_mode = mode
        state.put_recorder_back(recorder)
        for name, was in left.items():
            setattr(model, name, was)


@contextlib.contextmanager
def preserve_everything(model: Any) -> Iterator[None]:
    """Puts any Keras model, and the random generators, back to where they were.

    Beside what `preserve_state` restores: what was built meanwhile (an optimizer's slots,
    layers, metrics) is gone again, and so is what was compiled, and each attribute of the
    model, its layers, its optimizer and its metrics has the object that it had. Random
    generators are those of Python, NumPy, TensorFlow and Keras, and the numbers that Keras
    puts behind names.

    Args:
        model: The model, compiled or not, modular or not.
    """
    found = _reached(model)
    values = _Values(found.variables)
    attributes = [(vars(each), dict(vars(each))) for each in found.objects]
    contents = [(each, _copied(each)) for each in found.containers]
    python, numpy = random.getstate(), np.random.get_state()
    put_globals_back = compat_state.remember_globals()
    try:
        yield
    finally:
        for now, before in attributes:
            for name in [name for name in now if name not in before]:
                del now[name]
            now.update(before)
        for container, before in contents:
            _refill(container, before)
        values.put_back()
        random.setstate(python)
        np.random.set_state(numpy)
        put_globals_back()


@contextlib.contextmanager
def freeze(model: Any, variables: Iterable[keras.Variable]) -> Iterator[None]:
    """Freezes variables of a modular model while this is open.

    Steps are compiled anew meanwhile; those that were compiled before are kept.

    Args:
        model: A modular model.
        variables: Variables of it that are trainable.
    """
    frozen, state = list(variables), model._modular
    # On JAX Keras's optimizers step on all variables that they were built on.
    left_out = {*map(id, frozen)} if keras.backend.backend() == "jax" else set()
    steps, before = state.steps, state.frozen
    kept = steps.functions, steps.trained
    steps.functions, steps.trained = {}, None
    try:
        state.frozen = before | left_out
        for variable in [] if left_out else frozen:
            variable.trainable = False
        yield
    finally:
        state.frozen = before
        for variable in [] if left_out else frozen:
            variable.trainable = True
        steps.functions, steps.trained = kept


class _Reached(NamedTuple):
    """What a model leads to, each once."""

    objects: list
    containers: list
    variables: list


def _reached(root: Any) -> _Reached:
    """Everything of Keras's that attributes and containers lead to from an object.

    `model.variables` would not do: it leaves out metrics, the optimizer, and the states
    of stateful recurrent layers.
    """
    found = _Reached([], [], [])
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if _is_variable(item):
            found.variables.append(item)
            continue
        if _is(item, tuple):
            waiting.extend(item)
        if _is(item, list, set, dict):
            found.containers.append(item)
            before = _copied(item)
            waiting.extend([*before.items()] if _is(item, dict) else before)
        wrapped = compat_state.wrapped_container(item)
        if wrapped is not None:
            waiting.append(wrapped)
        # Containers of Keras and TensorFlow have attributes, too.
        known = wrapped is not None or _is(item, list, set, dict) or _is_of_keras(item)
        if known and hasattr(item, "__dict__"):
            found.objects.append(item)
            waiting.extend(vars(item).values())
    return found


def _is(item: Any, *kinds: type) -> bool:
    """Whether it is one of these, rather than a proxy that says so."""
    return issubclass(type(item), kinds)


def _is_variable(item: Any) -> bool:
    """Whether it is a variable, of Keras or of the backend."""
    if isinstance(item, keras.Variable):
        return True
    # An optimizer of Keras's assigns, too, but is no variable.
    return hasattr(type(item), "assign_add") and not _is_of_keras(item)


def _is_of_keras(item: Any) -> bool:
    if isinstance(item, _NEVER) or not hasattr(item, "__dict__"):
        return False
    return any(base.__module__.split(".")[0] in _PACKAGES for base in type(item).__mro__)


class _Values:
    """A copy of the values of variables."""

    def __init__(self, variables: list):
        self.variables = variables
        self.values = [np.array(keras.ops.convert_to_numpy(v)) for v in variables]

    def put_back(self) -> None:
        """Assigns the values again."""
        for variable, value in zip(self.variables, self.values, strict=True):
            variable.assign(value)


def _flat(container: Any) -> list:
    """The items of a list, or the keys and values of a dict."""
    if isinstance(container, dict):
        return [*container.keys(), *container.values()]
    return container


def _copied(container: Any) -> Any:
    """What a container holds itself, as one of Python's own."""
    if _is(container, list):
        return list.__getitem__(container, slice(None))
    return set.copy(container) if _is(container, set) else dict(dict.items(container))


def _refill(container: Any, before: Any) -> None:
    """Gives a container back what it held.

    By the methods of Python's own containers: those of Keras's would track the items, and
    TensorFlow's would then refuse to be saved.
    """
    now = _copied(container)
    if _is(container, set):
        if now == before:  # filled again, it could have another order
            return
    elif [*map(id, _flat(now))] == [*map(id, _flat(before))]:
        return
    if _is(container, list):
        list.__setitem__(container, slice(None), before)
    elif _is(container, set):
        set.clear(container)
        set.update(container, before)
    else:
        kind = OrderedDict if _is(container, OrderedDict) else dict
        kind.clear(container)
        for key, value in before.items():
            kind.__setitem__(container, key, value)

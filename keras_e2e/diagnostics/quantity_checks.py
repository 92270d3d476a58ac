"""Checks of what a user's quantity says and returns, with errors that name its class."""

import math
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_e2e.diagnostics.joint import JointQuantity
from keras_e2e.diagnostics.quantity import ModuleView, Quantity
from keras_e2e.utils.shapes import begins_with, known_shape


def check_quantities(who: str, quantities: Any) -> list[Quantity]:
    """The quantities as a list.

    Args:
        who: Who was given them, for the error.
        quantities: An iterable of `Quantity` objects.

    Raises:
        TypeError: If it holds anything else, or a quantity without name or formula.
        ValueError: If there are none, or two numbers of one name.
    """
    if isinstance(quantities, str) or not isinstance(quantities, Iterable):
        quantities = [quantities]
    given = list(quantities)
    for quantity in given:
        if not isinstance(quantity, Quantity):
            raise TypeError(
                f"{who}: quantities holds {quantity!r}; expected Quantity objects, such "
                "as keras_e2e.diagnostics.GradRMS(). For the default ones and others: "
                "[*keras_e2e.diagnostics.default_quantities(), ...]."
            )
        _check_described(quantity)
    names = [column for quantity in given for column in quantity.columns]
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"{who}: expected one or more quantities with different names; found {names}. "
            "Give each once."
        )
    return given


def state_shapes(quantity: Quantity, shapes: list[list[tuple]]) -> list[list[tuple]]:
    """The shapes of what a quantity keeps: of each module, or of all at once in one list.

    Args:
        quantity: The `Quantity`.
        shapes: List with, for each module, the shapes of its trainable variables.

    Raises:
        TypeError: If they are not a list of tuples of integers.
    """
    if isinstance(quantity, JointQuantity):
        return [quantity.init_states(shapes)]
    return [_state_shapes(quantity, own) for own in shapes]


def _state_shapes(quantity: Quantity, shapes: list[tuple]) -> list[tuple]:
    """The shapes that a quantity's `init_state` returns, of one module."""
    found = quantity.init_state(shapes)
    good = isinstance(found, list) and all(
        isinstance(shape, tuple | list) and all(isinstance(n, Integral) for n in shape)
        for shape in found
    )
    if not good:
        raise TypeError(
            f"{type(quantity).__name__}.init_state returned {found!r}; expected a list of "
            "shapes, tuples of integers, one for each tensor to keep: [()] for a scalar."
        )
    return [tuple(shape) for shape in found]


class Measured(NamedTuple):
    """What a quantity measured in a step.

    Attributes:
        columns: List with, for each of the quantity's `columns`, a vector with a number for
            each module; NaN where it does not apply.
        applies: List of booleans, whether it applies to the module.
        state: The next kept tensors, in lists as `state_shapes` returns them.
    """

    columns: list
    applies: list[bool]
    state: list[list]


def measured_by(
    quantity: Quantity, views: Sequence[ModuleView], state: list[list]
) -> Measured:
    """What a quantity measures of all modules.

    Args:
        quantity: The `Quantity`.
        views: List of a `ModuleView` of each module.
        state: The kept tensors, in lists as `state_shapes` returns them.

    Raises:
        TypeError: If `compute` returns something else than a value and a list.
        ValueError: If it returns another number of values or tensors than expected.
    """
    if isinstance(quantity, JointQuantity):
        columns, applies, following = quantity.compute_all(views, state[0])
        if columns is None:
            return nothing_of(quantity, len(views), state)
        return Measured(columns, applies, [following])
    each = [_measured_by(quantity, v, kept) for v, kept in zip(views, state, strict=True)]
    following = [kept for _, kept in each]
    applies = [numbers is not None for numbers, _ in each]
    if not any(applies):
        return nothing_of(quantity, len(views), following)
    absent = [math.nan] * len(quantity.columns)
    rows = [absent if numbers is None else numbers for numbers, _ in each]
    columns = [
        ops.stack([ops.cast(number, "float32") for number in column])
        for column in zip(*rows, strict=True)
    ]
    return Measured(columns, applies, following)


def nothing_of(quantity: Quantity, num_modules: int, state: list[list]) -> Measured:
    """What a quantity measures that applies to no module."""
    absent = np.full(num_modules, np.nan, "float32")
    return Measured([absent] * len(quantity.columns), [False] * num_modules, state)


def _measured_by(
    quantity: Quantity, view: ModuleView, state: list
) -> tuple[list | None, list]:
    """A number for each column, or None, and the next state, of one module."""
    who = f"{type(quantity).__name__}.compute"
    found = quantity.compute(view, state)
    pair = isinstance(found, tuple) and len(found) == 2
    if not pair or not isinstance(found[1], list | tuple):
        raise TypeError(
            f"{who} returned {found!r}; expected two values, the number (or None) and the "
            "list of the next kept tensors: return value, state."
        )
    value, following = found
    if len(following) != len(state):
        raise ValueError(
            f"{who} returned {len(following)} tensors to keep; expected {len(state)}, as "
            "many as init_state returned shapes."
        )
    for place, (kept, new) in enumerate(zip(state, following, strict=True)):
        shape, expected = known_shape(new), tuple(kept.shape)
        if shape is not None and not _fits(shape, expected):
            raise ValueError(
                f"{who} returned a tensor to keep, number {place}, of shape {shape} for "
                f"module {view.name!r}; expected {expected}, as init_state returned it."
            )
    if value is None:
        return None, list(following)
    numbers = list(value) if isinstance(value, tuple) else [value]
    if len(numbers) != len(quantity.columns):
        raise ValueError(
            f"{who} returned {len(numbers)} numbers for {quantity.columns}; expected one "
            "for the name and one for each of `extra_outputs`."
        )
    for number in numbers:
        shape = known_shape(number)
        if isinstance(number, list) or shape:
            what = "a list" if isinstance(number, list) else f"shape {shape}"
            raise ValueError(
                f"{who} returned {what} for module {view.name!r}; expected a scalar "
                "(several go in a tuple, with names in `extra_outputs`)."
            )
    return numbers, list(following)


def _fits(shape: tuple, expected: tuple) -> bool:
    return len(shape) == len(expected) and begins_with(shape, expected)


def _check_described(quantity: Quantity) -> None:
    """Raises TypeError for a quantity whose class lacks its name or formula."""
    for attribute in ("name", "formula"):
        found = getattr(quantity, attribute, None)
        if not isinstance(found, str) or not found:
            raise TypeError(
                f"{type(quantity).__name__}.{attribute} is {found!r}; expected a string. "
                f"Set it as a class attribute: {attribute} = '...'."
            )

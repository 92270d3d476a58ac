"""Checks of arguments, with errors that name what was found and what was expected."""

import difflib
import math
import types
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np


def check_integer(name: str, value: Any, least: int) -> int:
    """Returns the value as an `int`.

    Args:
        name: Name of the argument, for the error.
        value: An integer, of Python or NumPy. `True` and `False` are not integers here.
        least: The smallest value that is accepted.

    Raises:
        ValueError: If the value is not an integer, or too small.
    """
    if not _is_integer(value) or value < least:
        raise ValueError(f"{name}={value!r}: expected an integer of at least {least}.")
    return int(value)


def is_number(value: Any) -> bool:
    """Whether a value is one finite real number; a truth value is not."""
    real = isinstance(value, int | float | np.integer | np.floating)
    return real and not isinstance(value, bool) and math.isfinite(value)


def check_number(
    name: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    alternative: str = "",
) -> float:
    """Returns the value as a `float`.

    Args:
        name: Name of the argument, for the error.
        value: A finite number, of Python or NumPy. `True` and `False` are not numbers
            here.
        least: The smallest value that is accepted, if there is one.
        above: A value that is too small, as all below it, if there is one.
        most: The largest value that is accepted, if there is one.
        alternative: What else the caller accepts, for the error.

    Raises:
        ValueError: If the value is not a number, not finite or out of range.
    """
    if (
        is_number(value)
        and (least is None or value >= least)
        and (above is None or value > above)
        and (most is None or value <= most)
    ):
        return float(value)
    if least is not None and most is not None:
        bounds = f" from {least} to {most}"
    elif least is not None:
        bounds = f", {least} or larger"
    elif above is not None:
        bounds = f" above {above}"
    else:
        bounds = ""
    raise ValueError(f"{name}={value!r}: expected a finite number{bounds}{alternative}.")


def check_seed(name: str, value: Any) -> int | None:
    """Returns the seed of a random generator as an `int`, or None.

    Args:
        name: Name of the argument, for the error.
        value: An integer, 0 or larger, or None.

    Raises:
        ValueError: If the value is anything else.
    """
    if value is None:
        return None
    if not _is_integer(value) or value < 0:
        raise ValueError(
            f"{name}={value!r}: expected an integer of at least 0, or None for a seed "
            "that is drawn."
        )
    return int(value)


def check_reach(reach: Any, where: str) -> int | str | None:
    """Returns a reach: a number of modules, "all" or None.

    Args:
        reach: An integer, 1 or larger, `"all"` or None.
        where: What has the reach, for the error.

    Raises:
        ValueError: If the reach is anything else.
    """
    if reach is None or (isinstance(reach, str) and reach == "all"):
        return reach
    if _is_integer(reach) and reach >= 1:
        return int(reach)
    raise ValueError(
        f"{where}: reach is {reach!r}; expected over how many modules the gradient flows "
        "back, 1 or more (1 is the module alone), or 'all'."
    )


def check_places(places: Any, where: str) -> tuple | None:
    """Returns names or places of tensors as a tuple; None as it is.

    Args:
        places: A name, a number of at least 0, a list of them, or None.
        where: What has them, for the error.

    Raises:
        ValueError: If they are anything else, or none.
    """
    if places is None:
        return None
    found = tuple(places) if isinstance(places, list | tuple) else (places,)
    if found and all(
        (isinstance(one, str) and one) or (_is_integer(one) and one >= 0) for one in found
    ):
        return tuple(one if isinstance(one, str) else int(one) for one in found)
    raise ValueError(
        f"{where} is {places!r}; expected the name or place (0, 1, ...) of a tensor that "
        "the boundary passes, or a list of them."
    )


def check_function(name: str, value: Any) -> Any:
    """Returns the value, unless it is a lambda.

    Keras saves a lambda as bytecode, which is loaded without the globals it uses.

    Args:
        name: Name of the argument, for the error.
        value: Anything.

    Raises:
        ValueError: If the value is a lambda.
    """
    if isinstance(value, types.LambdaType) and value.__name__ == "<lambda>":
        raise ValueError(
            f"{name} is a lambda, which cannot be loaded again once it is saved. Define a "
            "named function and register it with "
            "@keras.saving.register_keras_serializable()."
        )
    return value


def check_reach_fits(reach: Any, count: int, who: str) -> None:
    """Raises ValueError for a reach over more modules than there are."""
    if isinstance(reach, int) and reach > count:
        raise ValueError(
            f"{who} has reach={reach}, and the model has {count} modules. Use 'all' for "
            "everything before."
        )


def did_you_mean(
    name: Any, known: Iterable[str], most: int = 1, shown: Callable[[str], str] = repr
) -> str:
    """A sentence that names the nearest known names; empty where none is near.

    Args:
        name: What was given.
        known: The names to choose from.
        most: Integer, how many to name at most. Defaults to 1.
        shown: Function from a name to how it is written. Defaults to `repr`.
    """
    near = difflib.get_close_matches(str(name).lower(), list(known), n=most, cutoff=0.6)
    return f" Did you mean {' or '.join(map(shown, near))}?" if near else ""


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)

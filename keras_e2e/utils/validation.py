"""Checks of arguments, with errors that name what was found and what was expected."""

import difflib
import math
from collections.abc import Iterable
from typing import Any

import numpy as np


def check_integer(name: str, value: Any, least: int) -> None:
    """Raises a ValueError unless the value is an integer and large enough."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least:
        raise ValueError(f"{name}={value!r}: expected an integer of at least {least}.")


def is_number(value: Any) -> bool:
    """Whether a value is one finite real number; a truth value is not."""
    real = isinstance(value, int | float | np.integer | np.floating)
    return real and not isinstance(value, bool) and math.isfinite(value)


def check_reach(reach: Any, where: str) -> int | str | None:
    """Returns a reach, or raises ValueError for what is none."""
    whole = isinstance(reach, int) and not isinstance(reach, bool) and reach >= 1
    if reach is None or reach == "all" or whole:
        return reach
    raise ValueError(
        f"{where}: reach is {reach!r}; expected over how many modules the gradient flows "
        "back, 1 or more (1 is the module alone), or 'all'."
    )


def check_reach_fits(reach: Any, count: int, who: str) -> None:
    """Raises ValueError for a reach over more modules than there are."""
    if isinstance(reach, int) and reach > count:
        raise ValueError(
            f"{who} has reach={reach}, and the model has {count} modules. Use 'all' for "
            "everything before."
        )


def did_you_mean(name: Any, known: Iterable[str], most: int = 1) -> str:
    """A sentence that names the nearest known names; empty where none is near."""
    near = difflib.get_close_matches(str(name).lower(), list(known), n=most, cutoff=0.4)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""

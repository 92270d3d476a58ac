"""The arrays that a command is given to train on, from a file of NumPy's."""

import zipfile
from typing import Any

import numpy as np

from keras_e2e.experiments.command import CommandError
from keras_e2e.experiments.terminal import shortened
from keras_e2e.utils.validation import did_you_mean

NAMES = ("x", "y", "sample_weight")
HINT = "Write it by numpy.savez(file, x=x, y=y)."


def read(path: str) -> dict[str, Any]:
    """Reads arrays x, y and perhaps sample_weight.

    Where there are several, `x/NAME` and `y/NAME` are their names, and what is returned as
    `x` is a dict.

    Args:
        path: Path of the .npz file.

    Returns:
        A dict of arguments of `fit`.

    Raises:
        CommandError: If the file is of another kind, or holds other arrays than those.
    """
    try:
        # Nothing is unpickled, which could run code.
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (AttributeError, OSError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise CommandError(
            f"--data={path}: expected a .npz file of numbers: {shortened(error)} {HINT}"
        ) from error
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise CommandError(f"--data={path}: expected a .npz file of numbers. {HINT}")
    found: dict[str, Any] = {}
    for name, array in arrays.items():
        first, _, rest = name.partition("/")
        if first not in NAMES:
            raise CommandError(
                f"--data={path}: unknown array {name!r}.{did_you_mean(first, NAMES)} "
                f"Expected x, y and perhaps sample_weight. {HINT}"
            )
        if rest:
            found.setdefault(f"{first}/NAME", {})[rest] = array
        else:
            found[first] = array
    for name in NAMES:
        named = found.pop(f"{name}/NAME", None)
        if named is not None and name in found:
            raise CommandError(
                f"--data={path}: found {name!r} and {[f'{name}/{one}' for one in named]}. "
                "Leave one out."
            )
        if named is not None:
            found[name] = named
    _check(path, found, arrays)
    return found


def _check(path: str, found: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Raises CommandError for arrays that do not go together."""
    missing = [name for name in ("x", "y") if name not in found]
    if missing:
        raise CommandError(
            f"--data={path}: found the arrays {[*arrays]}, expected {missing[0]!r}, too. "
            f"{HINT}"
        )
    lengths = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(lengths.values())) > 1 or not min(lengths.values()):
        raise CommandError(
            f"--data={path}: expected as many examples in each array, and at least one, "
            f"found {lengths}. {HINT}"
        )

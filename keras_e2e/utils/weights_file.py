"""What a file of weights holds, without loading it."""

import contextlib
import json
import os
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any

import h5py

# The name of the weights in a `.keras` file.
_IN_ARCHIVE = "model.weights.h5"


def held_paths(filepath: Any, depth: int = 2) -> set[str]:
    """The paths of what a file of weights holds, such as `layers/dense`.

    Args:
        filepath: Path of a `.weights.h5`, `.weights.json` or `.keras` file.
        depth: Integer, how long paths are at most. Defaults to 2.

    Returns:
        Set of strings; empty for a file that cannot be read as one of those. Whoever loads
        it says what is wrong with it.
    """
    try:
        found = _paths(os.fspath(filepath), depth)
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile):
        return set()
    parts = [path.strip("/").split("/")[:depth] for path in found]
    return {"/".join(part[:n]) for part in parts for n in range(1, len(part) + 1)}


def held_bytes(filepath: Any, path: str) -> bytes | None:
    """What a file of weights holds at a path, as bytes; None if that cannot be found.

    Args:
        filepath: Path of a `.weights.h5` or `.keras` file.
        path: String, such as `layers/dense/vars/0`.
    """
    try:
        with _opened(os.fspath(filepath)) as file, h5py.File(file, "r") as held:
            return held[path][()].tobytes() if path in held else None
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile):
        return None


@contextlib.contextmanager
def _opened(filepath: str) -> Iterator[Any]:
    """The file of weights itself, which may be in an archive."""
    if not filepath.endswith(".keras"):
        yield filepath
        return
    with zipfile.ZipFile(filepath) as archive, archive.open(_IN_ARCHIVE) as file:
        yield file


def _paths(filepath: str, depth: int) -> Iterable[str]:
    if filepath.endswith(".json"):
        with open(filepath, encoding="utf-8") as file:
            return list(json.load(file)["weight_map"])
    with _opened(filepath) as file, h5py.File(file, "r") as held:
        return _below(held, "", depth)


def _below(group: h5py.Group, prefix: str, depth: int) -> list[str]:
    found = []
    for name, item in group.items():
        found.append(prefix + name)
        if depth > 1 and isinstance(item, h5py.Group):
            found += _below(item, f"{prefix}{name}/", depth - 1)
    return found

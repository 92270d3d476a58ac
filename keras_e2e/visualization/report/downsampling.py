"""Which measurements of a long series are drawn."""

from collections.abc import Sequence

import numpy as np

# More points than this in a curve, or columns in a heat map, no screen can show.
POINTS = 1000
COLUMNS = 400
# Of all the curves of a page, and of all its heat maps: about 15 and 8 bytes each, so that
# a report of many runs can still be sent to somebody.
POINTS_IN_ALL = 30_000
FEWEST = 24


def thin(values: Sequence[float], limit: int = POINTS) -> list[int]:
    """Indices of at most `limit` values that draw the same curve.

    Of each stretch the lowest and the highest are kept, and one that is not finite, so
    that peaks and gaps stay; also the first and the last of all.

    Args:
        values: The series; may hold NaN and infinities.
        limit: Integer, 5 or larger. Defaults to 1000.

    Example:

    >>> from keras_e2e.visualization.report.downsampling import thin
    >>> thin([0, 0, 0, 9, 0, 0, 0, 0, float("nan"), 0, 0, -9], limit=8)
    [0, 3, 6, 8, 11]
    """
    array = np.asarray(values, float)
    if len(array) <= limit:
        return list(range(len(array)))
    kept = {0, len(array) - 1}
    for stretch in np.array_split(np.arange(len(array)), (limit - 2) // 3):
        finite = np.isfinite(array[stretch])
        if finite.any():
            usable = stretch[finite]
            kept.add(int(usable[np.argmin(array[usable])]))
            kept.add(int(usable[np.argmax(array[usable])]))
        if not finite.all():
            kept.add(int(stretch[np.argmin(finite)]))
    return sorted(kept)


def shared(series: int, most: int) -> int:
    """How many points each of so many series has at most.

    Example:

    >>> from keras_e2e.visualization.report.downsampling import shared
    >>> shared(50, most=1000), shared(600, most=1000), shared(10, most=1000)
    (600, 50, 1000)
    """
    return max(FEWEST, min(most, POINTS_IN_ALL // max(1, series)))


def grid(
    rows: Sequence[tuple[Sequence[int], Sequence[float]]], limit: int = COLUMNS
) -> tuple[list[int], np.ndarray]:
    """Series as a matrix: a row each, a column for each step, or stretch of steps.

    Of the measurements in one cell the one furthest from the middle of its row is kept, so
    that peaks stay. A cell without a measurement, or with one that is not finite, is NaN.

    Args:
        rows: Steps and values of each series; the steps may differ.
        limit: Integer, how many columns at most. Defaults to 400.

    Returns:
        The first step of each column, and the matrix.

    Example:

    >>> from keras_e2e.visualization.report.downsampling import grid
    >>> steps, cells = grid([([1, 2, 3, 4], [5.0, 5.0, 9.0, 5.0]), ([4], [1.0])], limit=2)
    >>> steps, cells.tolist()
    ([1, 3], [[5.0, 9.0], [nan, 1.0]])
    """
    steps = sorted({step for row_steps, _ in rows for step in row_steps})
    parts = np.array_split(np.array(steps), min(limit, len(steps)))
    starts = [int(part[0]) for part in parts]
    cells = np.full((len(rows), len(starts)), np.nan)
    for cell_row, (row_steps, values) in zip(cells, rows, strict=True):
        array = np.asarray(values, float)
        finite = np.isfinite(array)
        if not finite.any():
            continue
        middle = np.median(array[finite])
        columns = np.searchsorted(starts, row_steps, side="right") - 1
        # The last one written wins: the furthest, and above all one that is not finite.
        distance = np.where(finite, np.abs(array - middle), np.inf)
        order = np.argsort(distance, kind="stable")
        cell_row[columns[order]] = np.where(finite, array, np.nan)[order]
    return starts, cells

"""End to end against other regimes at one size: numbers, and whether a claim holds.

The statistics behind `claims`; each function has its rule in its docstring.
"""

import statistics
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import mannwhitneyu

from keras_e2e.diagnostics.gradients import SNR_FLOOR
from keras_e2e.experiments.limits.summary import Cell, known, newcombe, wilson

SIGNIFICANT = 0.05
# A value is at chance that is less than this share of the way from chance to 1.
AT_CHANCE = 0.1


class Comparison(NamedTuple):
    """End to end against another regime at one size.

    Attributes:
        numbers: String, what was measured.
        supports: Boolean, whether the claim holds by its rule.
        seeds: Integer, the number of runs on the side that had fewer.
    """

    numbers: str
    supports: bool
    seeds: int


def inefficiency(end_to_end: Cell, other: Cell) -> Comparison | None:
    """C1: how late the mark was reached, and whether end to end was significantly later."""
    later, p = _later(end_to_end.reached, other.reached)
    numbers = (
        f"end to end {_first(end_to_end)}, {other.regime} {_first(other)}; later in "
        f"{100 * later:.0f} % of pairs, p = {p:.2g}"
    )
    supports = p < SIGNIFICANT and later > 0.5
    return Comparison(numbers, supports, min(end_to_end.seeds, other.seeds))


def breakdown(end_to_end: Cell, other: Cell) -> Comparison | None:
    """C2: shares of broken-down runs, and whether that end to end is the larger one."""
    mine, theirs = (
        known(broken_down(result) for _, result in cell.runs)
        for cell in (end_to_end, other)
    )
    if not mine or not theirs:
        return None
    numbers, low = _difference(
        "end to end", other.regime, int(sum(mine)), len(mine), int(sum(theirs)), len(theirs)
    )
    lost = [result for _, result in end_to_end.runs if broken_down(result)]
    snrs = known(first_snr(result) for result in lost)
    if snrs:
        floor = sum(snr < SNR_FLOOR for snr in snrs)
        numbers += (
            f"; gradient SNR of the first module below {SNR_FLOOR} in {floor} of the "
            f"{len(snrs)} that broke down and were measured"
        )
    return Comparison(numbers, low > 0, min(len(mine), len(theirs)))


def structure(end_to_end: Cell, other: Cell) -> Comparison | None:
    """C4: rates of success, and whether that of the other regime is the larger one."""
    numbers, low = _difference(
        other.regime,
        "end to end",
        other.successes,
        other.seeds,
        end_to_end.successes,
        end_to_end.seeds,
    )
    return Comparison(numbers, low > 0, min(end_to_end.seeds, other.seeds))


def last_on_frozen(cell: Cell) -> Comparison | None:
    """C3: whether the last module learns in most seeds whose earlier modules allow it.

    Args:
        cell: `Cell` of the runs of `greedy`.
    """
    runs = [result for _, result in cell.runs if _allows(result)]
    if not runs:
        return None
    left = cell.seeds - len(runs)
    notes = f"; in {left} more the first module did not allow the mark" if left else ""
    return _mostly([bool(result.get("success")) for result in runs], notes)


def through_frozen(cell: Cell, independent: Cell | None) -> Comparison:
    """C3: whether the earlier modules learn in most seeds, through a frozen last one.

    Args:
        cell: `Cell` of the runs of `last_first`.
        independent: `Cell` of runs that train the last module alike, or None; they show
            that it had learned.
    """
    notes = ""
    if independent:
        notes = (
            "; the same last module after an encoder that learned its labels succeeds in "
            f"{independent.successes} of {independent.seeds} (independent)"
        )
    return _mostly([bool(value) for value in cell.values("success")], notes)


def broken_down(result: dict[str, Any]) -> bool | None:
    """Whether no module has learned; None where it was not measured."""
    names = ("accuracy", "ceiling", "chance")
    values = known(result.get(name) for name in names)
    if len(values) < len(names):
        return None
    accuracy, ceiling, chance = values
    return max(accuracy, ceiling) < chance + AT_CHANCE * (1.0 - chance)


def first_snr(result: dict[str, Any]) -> float | None:
    """The first module's gradient SNR: the median of the later half of its series."""
    measurements = [*(result.get("snr") or {}).values(), []][0]
    values = known(value for _, value in measurements)
    return statistics.median(values[len(values) // 2 :]) if values else None


def _later(steps: list[float], others: list[float]) -> tuple[float, float]:
    """In what share of pairs the first is later, ties counted half; and the p-value."""
    if len({*steps, *others}) == 1:
        return 0.5, 1.0
    # Only the order counts: the last place is that of what is infinite.
    ranks = np.unique([*steps, *others], return_inverse=True)[1]
    mine, theirs = ranks[: len(steps)], ranks[len(steps) :]
    found = mannwhitneyu(mine, theirs, alternative="two-sided", method="asymptotic")
    return float(found.statistic) / (len(steps) * len(others)), float(found.pvalue)


def _allows(result: dict[str, Any]) -> bool:
    """Whether the mark can be reached with this first module, as far as is known."""
    ceiling, mark = result.get("ceiling"), result.get("mark")
    return ceiling is None or mark is None or ceiling >= mark


def _first(cell: Cell) -> str:
    reached = known(cell.values("reached"))
    if not reached:
        return f"never in {cell.seeds}"
    return f"in {len(reached)} of {cell.seeds}, median step {statistics.median(reached):g}"


def _difference(
    name: str, other: str, count: int, total: int, count_other: int, total_other: int
) -> tuple[str, float]:
    low, high = newcombe(count, total, count_other, total_other)
    difference = count / total - count_other / total_other
    return (
        f"{name} {_rate(count, total, wilson(count, total))}, {other} "
        f"{_rate(count_other, total_other, wilson(count_other, total_other))}; difference "
        f"{difference:+.2f} [{low:+.2f}, {high:+.2f}]"
    ), low


def _mostly(successes: list[bool], notes: str) -> Comparison:
    """Whether more than half succeed, by Wilson's interval."""
    count, total = sum(successes), len(successes)
    interval = wilson(count, total)
    return Comparison(_rate(count, total, interval) + notes, interval[0] > 0.5, total)


def _rate(count: int, total: int, interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{count} of {total} [{low:.2f}, {high:.2f}]"

"""The figures of a sweep: every seed is shown, as failure comes by seeds."""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keras_e2e.diagnostics.gradients import SNR_FLOOR
from keras_e2e.experiments.limits.drawing import (
    FAINT,
    INK,
    LINE,
    PAPER,
    SETTINGS,
    STYLES,
    jitter,
    label_lines,
    panels,
    style,
)
from keras_e2e.experiments.limits.names import WITHOUT_LABELS
from keras_e2e.experiments.limits.summary import Cell, Section, known

# Below this the axis of the signal-to-noise ratio is linear, so that 0 has a place.
LINEAR = 0.01
# Of a panel that has to hold the names of all regimes, in inches.
TALL = 4.2
LINES = tuple(color for color, _, _ in STYLES)


class Drawn(NamedTuple):
    """A figure with its words.

    Attributes:
        name: String of letters and underscores, for the name of its file.
        title: String, what it shows.
        caption: String, how to read it.
        figure: Matplotlib `Figure`.
    """

    name: str
    title: str
    caption: str
    figure: Figure


def of_section(section: Section) -> list[Drawn]:
    """The figures of runs that can be compared with each other."""
    with matplotlib.rc_context(SETTINGS):
        return [
            Drawn(
                "success",
                f"Success rate over k: {section.title}",
                "The share of seeds whose test accuracy is at least the mark, with "
                "Wilson's 95 % interval. The points of one k stand beside each other.",
                _success(section),
            ),
            Drawn(
                "accuracy",
                f"Test accuracy of each seed: {section.title}",
                "A point for each seed. Dotted: chance; dashed: the mark of a success.",
                _strips(section, "accuracy", _mark_accuracy),
            ),
            Drawn(
                "time",
                f"Time to threshold: {section.title}",
                "A point for each seed: the first step at which the training accuracy of "
                "the last 100 steps was above the mark. Crosses at the right: never.",
                _strips(section, "reached", _mark_time),
            ),
            Drawn(
                "curves",
                f"Training accuracy over steps: {section.title}",
                "A thin line for each seed; in the title how many succeeded. Stages that "
                "train no more than some of the modules have no accuracy.",
                _grid(section, _curves),
            ),
            Drawn(
                "snr",
                f"Gradient SNR of each module over steps: {section.title}",
                "A thin line for each seed, a color for each module. Logarithmic above "
                f"{LINEAR}, linear below, with 0 at the bottom; shaded: taken for noise.",
                _grid(section, _signals),
            ),
        ]


def over_labels(sections: Sequence[Section]) -> list[Drawn]:
    """Success over the number of labels, for each task that has several numbers of them."""
    found = []
    labeled = [s for s in sections if not set(s.regimes) <= set(WITHOUT_LABELS)]
    for conditions, mine in itertools.groupby(labeled, key=lambda s: s.conditions):
        group = sorted(mine, key=lambda s: (s.labels is None, s.labels or 0))
        places = [k for each in group for k in each.sizes]
        sizes = sorted({k for k in places if places.count(k) > 1})
        if sizes:
            with matplotlib.rc_context(SETTINGS):
                figure = _over_labels(group, sizes)
            found.append(
                Drawn(
                    "labels",
                    f"Success rate over intermediate labels: {conditions.words()}",
                    "Labels: of how many training images the intermediate label is known. "
                    "With Wilson's 95 % interval. Dashed: regimes without labels, the same "
                    "at every number.",
                    figure,
                )
            )
    return found


def _success(section: Section) -> Figure:
    sizes = section.sizes
    figure, [[axis]] = panels(1, 1, 4.2 + 1.2 * len(sizes), TALL)
    lines = {
        regime: [section.cells.get((regime, k)) for k in sizes]
        for regime in section.regimes
    }
    _rates(axis, lines, [str(k) for k in sizes])
    axis.set_xlabel("k")
    axis.set_ylabel("success rate")
    return figure


def _over_labels(group: list[Section], sizes: list[int]) -> Figure:
    figure, [axes] = panels(1, len(sizes), 5.6, TALL)
    names = ["all" if each.labels is None else str(each.labels) for each in group]
    for axis, k in zip(axes, sizes, strict=True):
        regimes = dict.fromkeys(name for each in group for name in each.regimes)
        lines = {}
        for regime in regimes:
            cells = [each.cells.get((regime, k)) for each in group]
            if len(cells) - cells.count(None) > 1:  # one number of labels is no line
                lines[regime] = cells
        _rates(axis, lines, names, dashed=WITHOUT_LABELS)
        axis.set_title(f"k = {k}")
        axis.set_xlabel("training images with a label")
        axis.set_ylabel("success rate")
    return figure


def _rates(
    axis: Axes,
    lines: dict[str, list[Cell | None]],
    names: list[str],
    dashed: Sequence[str] = (),
) -> None:
    """A line for each regime, with intervals, points of one place beside each other.

    Those of `dashed` are lines without points and intervals.
    """
    lines = {regime: cells for regime, cells in lines.items() if any(cells)}
    step = 0.7 / max(len(lines), 6)
    ends = []
    axis.set_ylim(-0.04, 1.04)
    for number, (regime, cells) in enumerate(lines.items()):
        color, marker = style(regime)
        shift = step * (number - (len(lines) - 1) / 2)
        there = [(i + shift, cell) for i, cell in enumerate(cells) if cell]
        x = [place for place, _ in there]
        y = [cell.successes / cell.seeds for _, cell in there]
        if regime in dashed:
            axis.plot(x, y, "--", color=color, lw=1.2)
        else:
            for place, cell in there:
                axis.vlines(place, *cell.interval, color=color, lw=1.2, alpha=0.6)
            (line,) = axis.plot(x, y, color=color, marker=marker, ms=6, lw=1.2, zorder=3)
            line.set(markeredgecolor=PAPER, markeredgewidth=0.5)
        ends.append((x[-1], y[-1], regime, color))
    axis.set_xticks(range(len(names)), names)
    axis.set_xlim(-0.5, len(names) - 0.5)
    axis.grid(axis="x", visible=False)
    label_lines(axis, ends, TALL)


def _strips(
    section: Section, quantity: str, mark: Callable[[Axes, Section], float]
) -> Figure:
    """A strip for each regime, a panel for each k, a point for each seed."""
    regimes, sizes = section.regimes, section.sizes
    figure, axes = panels(
        1, len(sizes), max(2.6, 6.5 / len(sizes)), 0.9 + 0.32 * len(regimes), sharey=True
    )
    for axis, k in zip(axes[0], sizes, strict=True):
        never = mark(axis, section)
        for row, regime in enumerate(regimes):
            cell = section.cells.get((regime, k))
            if cell is None:
                continue
            color, _ = style(regime)
            values = cell.values(quantity)
            for value, shift in zip(values, jitter(len(values)), strict=True):
                # Where there is no value it is the place at the edge, as a cross.
                x, marker, edge = (never, "x", 1.2) if value is None else (value, "o", 0)
                axis.plot(x, row + shift, marker, color=color, ms=4, mew=edge, alpha=0.8)
        axis.set_title(f"k = {k}")
        axis.set_ylim(len(regimes) - 0.5, -0.5)
        axis.grid(axis="y", visible=False)
        axis.hlines(
            [row + 0.5 for row in range(len(regimes) - 1)],
            *axis.get_xlim(),
            color=LINE,
            lw=0.6,
        )
    axes[0][0].set_yticks(range(len(regimes)), regimes)
    return figure


def _mark_accuracy(axis: Axes, section: Section) -> float:
    _levels(axis.axvline, section.rows())
    axis.set_xlim(-0.02, 1.02)
    axis.set_xlabel("test accuracy")
    return 0.0


def _mark_time(axis: Axes, section: Section) -> float:
    steps, never = section.conditions.steps, 1.4 * section.conditions.steps
    axis.set_xlim(0, 1.65 * steps)
    axis.axvspan(1.15 * steps, 1.65 * steps, color=FAINT, alpha=0.12, lw=0)
    axis.set_xticks(
        [0, steps // 2, steps, never], ["0", f"{steps // 2}", f"{steps}", "never"]
    )
    axis.set_xlabel("step")
    return never


def _grid(section: Section, draw: Callable[[Axes, Cell, bool], None]) -> Figure:
    """A panel for each regime and size."""
    regimes, sizes = section.regimes, section.sizes
    figure, axes = panels(
        len(regimes), len(sizes), max(2.5, 6.5 / len(sizes)), 1.6, sharex=True, sharey=True
    )
    first = True
    for (row, regime), (column, k) in itertools.product(
        enumerate(regimes), enumerate(sizes)
    ):
        axis, cell = axes[row][column], section.cells.get((regime, k))
        if cell is None:
            axis.set_axis_off()
            continue
        draw(axis, cell, first)
        first = False
        axis.set_xlim(0, section.conditions.steps)
        axis.set_title(f"{regime}\nk = {k}: {cell.successes} of {cell.seeds}")
        if row == len(regimes) - 1:
            axis.set_xlabel("step")
    return figure


def _curves(axis: Axes, cell: Cell, first: bool) -> None:
    _levels(axis.axhline, [cell])
    color, _ = style(cell.regime)
    for series in cell.values("curve"):
        _line(axis, series, color)
    axis.set_ylim(-0.02, 1.02)


def _signals(axis: Axes, cell: Cell, first: bool) -> None:
    names = dict.fromkeys(name for each in cell.values("snr") for name in each or {})
    for number, name in enumerate(names):
        color = LINES[number % len(LINES)]
        for series in cell.values("snr", name):
            _line(axis, series, color)
        if first:
            axis.text(
                0.98,
                0.95 - 0.16 * number,
                name,
                color=color,
                ha="right",
                va="top",
                transform=axis.transAxes,
            )
    axis.set_yscale("symlog", linthresh=LINEAR, linscale=0.5)
    axis.set_ylim(-0.0005, 100)
    axis.set_yticks([0, 0.01, 0.1, 1, 10, 100], ["0", "0.01", "0.1", "1", "10", "100"])
    axis.axhspan(0, SNR_FLOOR, color=FAINT, alpha=0.12, lw=0)


def _line(axis: Axes, series: list | None, color: str) -> None:
    points = [(step, value) for step, value in series or [] if value is not None]
    if points:
        # A line of one measurement would not be seen.
        marker = "." if len(points) == 1 else ""
        x, y = zip(*points, strict=True)
        axis.plot(x, y, color=color, marker=marker, lw=0.8, alpha=0.7)


def _levels(line: Callable, cells: Sequence[Cell]) -> None:
    """Chance and mark, where they are known."""
    for name, dashes in (("chance", ":"), ("mark", "--")):
        levels = {value for cell in cells for value in known(cell.values(name))}
        for level in levels:
            line(level, color=INK, lw=0.8, ls=dashes, alpha=0.6)

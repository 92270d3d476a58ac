"""How the figures of a sweep look: colors, labels, and the way into files and pages."""

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keras_e2e.experiments.limits.names import REGIMES

INK, FAINT, LINE, PAPER = "#1b1f24", "#57606a", "#d0d7de", "#ffffff"

# Colors on white and on black, and a marker, so that they differ also without color.
STYLES = (
    ("#d55e00", "#ff8c42", "s"),
    ("#0072b2", "#4aa8e0", "o"),
    ("#009e73", "#2fc99a", "^"),
    ("#117733", "#7fc97f", "v"),
    ("#56b4e9", "#9ad7f7", "D"),
    ("#cc79a7", "#e6a5c8", "P"),
    ("#882255", "#d66a97", "X"),
    ("#e69f00", "#f2b84b", "<"),
    ("#332288", "#a99cf0", ">"),
    ("#999933", "#c8c86a", "p"),
    ("#6a6a6a", "#b0b0b0", "h"),
    ("#aa4499", "#d48fd8", "*"),
    ("#004d40", "#5cc2b0", "d"),
    ("#b3446c", "#e88fb0", "H"),
)

SETTINGS: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    # Names are untrusted: a dollar sign in them is not a formula.
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "keras-e2e",
}


def style(regime: str) -> tuple[str, str]:
    """Color and marker of a regime."""
    place = REGIMES.index(regime) if regime in REGIMES else sum(map(ord, regime))
    color, _, marker = STYLES[place % len(STYLES)]
    return color, marker


def panels(rows: int, columns: int, width: float, height: float, **shared) -> tuple:
    """A figure and its axes as a table; sizes of a panel in inches."""
    size = (columns * width, rows * height)
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **shared)


def label_lines(
    axis: Axes, ends: Sequence[tuple[float, float, str, str]], height: float
) -> None:
    """Names lines at their right end, as near to it as there is room.

    Args:
        axis: The axes, whose y-limits are set already.
        ends: List of tuples: x and y of the end, name, and color.
        height: Float, the height of the panel, in inches.
    """
    low, high = axis.get_ylim()
    gap = 0.19 / height * (high - low)
    places = spread([y for _, y, _, _ in ends], gap, low, high)
    for (x, y, name, color), place in zip(ends, places, strict=True):
        axis.annotate(
            name,
            (x, y),
            (1.03, place),
            textcoords=axis.get_yaxis_transform(),
            color=color,
            va="center",
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "lw": 0.6,
                "alpha": 0.6,
                "relpos": (0, 0.5),
                "shrinkA": 0,
            },
            annotation_clip=False,
        )


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near the wanted ones that are a gap apart, from low to high if they fit.

    Example:

    >>> from keras_e2e.experiments.limits.drawing import spread
    >>> spread([1.0, 1.0, 0.0, 0.0], 0.25, 0.0, 1.0)
    [1.0, 0.75, 0.25, 0.0]
    """
    placed = [0.0] * len(wanted)
    order = sorted(range(len(wanted)), key=lambda i: -wanted[i])
    for i in order:
        placed[i] = min(wanted[i], high)
        high = placed[i] - gap
    for i in reversed(order):
        placed[i] = max(placed[i], low)
        low = placed[i] + gap
    return placed


def jitter(count: int) -> np.ndarray:
    """Places of the seeds around the line of their regime, in the order of seeds."""
    edge = min(0.3, 0.05 * (count - 1))
    return np.linspace(-edge, edge, count)


def png(figure: Figure) -> bytes:
    """As a PNG file, on white."""
    held = io.BytesIO()
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(held, format="png", dpi=110, facecolor=PAPER)
    return held.getvalue()


def inline(figure: Figure, name: str, title: str) -> Markup:
    """As an SVG element for a page whose style sheet has the colors.

    Args:
        figure: Figure, drawn with the colors of this module.
        name: String of letters, digits and "-" that no other figure of the page has.
        title: String, what it shows, for those who cannot see it.
    """
    held = io.StringIO()
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(held, format="svg")
    text = held.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    for color, variable in _variables().items():
        text = text.replace(color, f"var(--{variable})")
    width = figure.get_size_inches()[0] * 96
    head = (
        f'<svg role="img" aria-labelledby="{name}-title" '
        f'style="max-width: {width:.0f}px; min-width: {min(width, 620):.0f}px" '
    )
    text = text.replace("<svg ", head, 1)
    end = text.index(">") + 1
    caption = f'<title id="{name}-title">{escape(title)}</title>'
    return Markup(text[:end] + caption + text[end:])


def colors(dark: bool) -> dict[str, str]:
    """The colors of the lines by the name of their variable in the style sheet."""
    return {f"line-{i}": entry[1 if dark else 0] for i, entry in enumerate(STYLES)}


def _variables() -> dict[str, str]:
    page = {INK: "ink", FAINT: "faint", LINE: "line", PAPER: "paper"}
    return page | {color: name for name, color in colors(dark=False).items()}

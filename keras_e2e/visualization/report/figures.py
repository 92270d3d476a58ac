"""The charts of the report, as Plotly figures without a theme: the page gives them one."""

import html
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from keras_e2e.visualization.report import downsampling
from keras_e2e.visualization.tensorboard.run_data import RunData, Series

# They stand out from white and from near black.
COLORS = (
    "#2f81c1",
    "#d95f02",
    "#2a9d4a",
    "#d0478f",
    "#8e63ce",
    "#a0674f",
    "#0f9a9c",
    "#8a8a00",
)
DASHES = ("solid", "dash", "dot", "dashdot")
# Beyond these numbers a chart would show little else.
MOST_IN_LEGEND = 24
MOST_SWITCHES = 40
MOST_NAMED_SWITCHES = 6
_GRAY = "rgba(128, 128, 128, 0.3)"
_BAND = "rgba(42, 157, 74, 0.16)"


class Line(NamedTuple):
    """One curve; `name` is untrusted text."""

    name: str
    series: Series
    color: str
    dash: str


class Chart(NamedTuple):
    """A figure, and what a reader must know of how it was drawn, a sentence each."""

    figure: go.Figure
    notes: list[str]


def modules(run: RunData, quantity: str) -> list[Line]:
    """One line per module that has the quantity; a module keeps its color."""
    series = run.quantities[quantity]
    lines = []
    for position, module in enumerate(run.modules):
        if module in series:
            lap, color = divmod(position, len(COLORS))
            dash = DASHES[lap % len(DASHES)]
            lines.append(Line(module, series[module], COLORS[color], dash))
    return lines


def over_runs(runs: Sequence[RunData], quantity: str) -> list[Line]:
    """One line per module and run: the color shows the run, the dashes the module."""
    found = []
    for number, run in enumerate(runs):
        color = COLORS[number % len(COLORS)]
        for position, module in enumerate(run.modules):
            if module in run.quantities.get(quantity, {}):
                name = f"{run.name.removesuffix('/modules')} {module}"
                dash = DASHES[position % len(DASHES)]
                series = run.quantities[quantity][module]
                found.append(Line(name, series, color, dash))
    return found


def curves(
    lines: Sequence[Line],
    band: tuple[float, float] | None = None,
    switches: Sequence[tuple[int, str]] = (),
) -> Chart:
    """Values over steps.

    Args:
        lines: One or more.
        band: The healthy low and high, which are shaded. Defaults to `None`, no band.
        switches: Steps from which on a mode applied, and its name; they are marked.
    """
    notes = []
    figure = _figure(height=300 + 12 * min(len(lines), MOST_IN_LEGEND))
    for line in lines:
        kept = downsampling.thin(line.series.values)
        heights = [_point(line.series.values[i]) for i in kept]
        # A lone point between gaps is no line.
        dotted = len(kept) <= 60 or None in heights
        figure.add_scatter(
            x=[line.series.steps[i] for i in kept],
            y=heights,
            name=label(line.name),
            mode="lines+markers" if dotted else "lines",
            line={"color": line.color, "dash": line.dash, "width": 1.8},
            marker={"size": 4},
            hovertemplate="%{y:.4g}",
        )
    if any(len(line.series.values) > downsampling.POINTS for line in lines):
        notes.append(
            f"The curves are thinned to about {downsampling.POINTS:,} points each; the "
            "highest and the lowest of each stretch are kept."
        )
    values = _finite(value for line in lines for value in line.series.values)
    log = logarithmic(values)
    low, high = _range(values, band, log)
    figure.update_yaxes(
        type="log" if log else "linear",
        range=[math.log10(low), math.log10(high)] if log else [low, high],
    )
    notes += _shade(figure, band, (low, high))
    notes += _mark(figure, switches)
    if len(lines) > MOST_IN_LEGEND:
        notes.append("There are too many lines for a legend: point at one for its name.")
    figure.update_layout(
        showlegend=len(lines) <= MOST_IN_LEGEND,
        legend={"orientation": "h", "y": -0.22, "yanchor": "top", "x": 0},
        hovermode="x unified" if len(lines) <= 8 else "closest",
    )
    if len(lines) > 8:  # only the unified box names the lines by itself
        figure.update_traces(hovertemplate="%{fullData.name}<br>step %{x}: %{y:.4g}")
        figure.update_traces(hoverlabel_namelength=0)
    return Chart(figure, notes)


def heat_map(lines: Sequence[Line]) -> Chart:
    """Lines as rows, steps as columns; the first line at the top."""
    steps, cells = downsampling.grid([line.series for line in lines])
    finite = _finite(cells.flat)
    log = logarithmic(finite)
    colors = np.log10(cells) if log else cells
    figure = _figure(height=min(130 + 30 * len(lines), 900))
    figure.add_heatmap(
        x=steps,
        y=[label(line.name, 24) for line in lines],
        z=[[_point(cell) for cell in row] for row in colors],
        customdata=[[_point(cell) for cell in row] for row in cells],
        colorscale="Viridis",
        colorbar={"thickness": 12, **(_decades(finite) if log else {})},
        hoverongaps=False,
        hovertemplate="%{y}<br>step %{x}: %{customdata:.4g}<extra></extra>",
    )
    figure.update_yaxes(type="category", autorange="reversed", automargin=True)
    if len(steps) > 1:  # as in the curves, without the outer half of the outer cells
        figure.update_xaxes(range=[steps[0], steps[-1]])
    notes = []
    taken = {step for line in lines for step in line.series.steps}
    if len(steps) < len(taken):
        notes.append(
            f"The heat map has {len(steps)} columns for {len(taken):,} steps; each shows "
            "the measurement that is furthest from the middle of its row."
        )
    return Chart(figure, notes)


def label(name: str, longest: int = 40) -> str:
    """An untrusted name for Plotly, which reads markup in texts; cut in the middle."""
    if len(name) > longest:
        half = longest // 2
        name = f"{name[:half]}…{name[1 - half :]}"
    return html.escape(name)


def logarithmic(values: Sequence[float]) -> bool:
    """Whether finite values are all positive and span more than two decades."""
    return len(values) > 0 and min(values) > 0 and max(values) / min(values) > 100


def _figure(height: int) -> go.Figure:
    figure = go.Figure(layout={"template": "none", "height": height})
    figure.update_layout(
        margin={"l": 56, "r": 12, "t": 26, "b": 44},
        paper_bgcolor="rgba(0, 0, 0, 0)",
        plot_bgcolor="rgba(128, 128, 128, 0.07)",
        font={"family": "system-ui, sans-serif", "size": 12},
    )
    axis = {"gridcolor": _GRAY, "zerolinecolor": _GRAY, "linecolor": _GRAY}
    figure.update_xaxes(title={"text": "step", "standoff": 4}, tickformat=",d", **axis)
    figure.update_yaxes(exponentformat="power", **axis)
    return figure


def _shade(
    figure: go.Figure, band: tuple[float, float] | None, shown: tuple[float, float]
) -> list[str]:
    """Shades the healthy band; returns a note if none of it is shown."""
    if band is None:
        return []
    bottom, top = max(band[0], shown[0]), min(band[1], shown[1])
    if bottom >= top:
        return ["The healthy band lies outside of the chart."]
    figure.add_hrect(y0=bottom, y1=top, fillcolor=_BAND, line_width=0, layer="below")
    return []


def _mark(figure: go.Figure, switches: Sequence[tuple[int, str]]) -> list[str]:
    """Draws the switches of the mode; returns a note on what is left out."""
    if len(switches) > MOST_SWITCHES:
        return [f"The {len(switches) - 1} switches of the mode are too many to be marked."]
    for step, mode in switches:
        named = {"annotation_text": mode, "annotation_position": "top right"}
        figure.add_vline(
            x=step,
            line={"color": "rgba(128, 128, 128, 0.9)", "width": 1, "dash": "dash"},
            **(named if len(switches) <= MOST_NAMED_SWITCHES else {}),
        )
    figure.update_annotations(yref="paper", y=1, yanchor="bottom", font_size=11)
    return []


def _finite(values: Iterable[float]) -> list[float]:
    return [float(value) for value in values if math.isfinite(value)]


def _point(value: float) -> float | None:
    """As many digits as can be seen; a gap for a value that is not finite."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _range(
    values: Sequence[float], band: tuple[float, float] | None, log: bool
) -> tuple[float, float]:
    """What the y axis shows: the values, not the band, in which they could get lost.

    A logarithmic axis has room for both.
    """
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    if log:
        ends = [end for end in band or () if end > 0 and math.isfinite(end)]
        return min([low, *ends]) / 1.3, max([high, *ends]) * 1.3
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + room


def _decades(values: Sequence[float]) -> dict[str, list]:
    """Ticks of a color bar that shows logarithms."""
    ends = math.ceil(math.log10(min(values))), math.floor(math.log10(max(values)))
    powers = range(ends[0], ends[1] + 1, max(1, (ends[1] - ends[0]) // 5))
    return {"tickvals": [*powers], "ticktext": [f"{10.0**power:g}" for power in powers]}

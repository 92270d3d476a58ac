"""The charts of the report, as Plotly reads them: dicts, without what all have in common.

Not `plotly.graph_objects`, which checks each entry and takes a hundred times as long. Look
and margins are in `templates/charts.js`, once for the whole page.
"""

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

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
_BAND = "rgba(42, 157, 74, 0.16)"


class Line(NamedTuple):
    """One curve; `name` is untrusted text."""

    name: str
    series: Series
    color: str
    dash: str


class Chart(NamedTuple):
    """A figure, and what a reader must know of how it was drawn, a sentence each."""

    figure: dict[str, Any]
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
    points: int = downsampling.POINTS,
) -> Chart:
    """Values over steps.

    Args:
        lines: One or more.
        band: The healthy low and high, which are shaded. Defaults to `None`, no band.
        switches: Steps from which on a mode applied, and its name; they are marked.
        points: Integer, how many points a line has at most. Defaults to 1000.
    """
    notes = []
    figure = _figure(height=300 + 12 * min(len(lines), MOST_IN_LEGEND))
    many = len(lines) > 8
    for line in lines:
        kept = downsampling.thin(line.series.values, points)
        heights = [_point(line.series.values[i]) for i in kept]
        # A lone point between gaps is no line.
        dotted = len(kept) <= 60 or None in heights
        trace = {
            "x": [line.series.steps[i] for i in kept],
            "y": heights,
            "name": label(line.name),
            "mode": "lines+markers" if dotted else "lines",
            "line": {"color": line.color, "dash": line.dash, "width": 1.8},
            "marker": {"size": 4},
            "hovertemplate": "%{y:.4g}",
        }
        if many:  # only the unified box names the lines by itself
            trace["hovertemplate"] = "%{fullData.name}<br>step %{x}: %{y:.4g}"
            trace["hoverlabel"] = {"namelength": 0}
        figure["data"].append(trace)
    if any(len(line.series.values) > points for line in lines):
        notes.append(
            f"The curves are thinned to about {points:,} points each; the "
            "highest and the lowest of each stretch are kept."
        )
    values = _finite(value for line in lines for value in line.series.values)
    log = logarithmic(values)
    low, high = _range(values, band, log)
    layout = figure["layout"]
    layout["yaxis"] = {
        "type": "log" if log else "linear",
        "range": [math.log10(low), math.log10(high)] if log else [low, high],
    }
    notes += _shade(figure, band, (low, high))
    notes += _mark(figure, switches)
    if len(lines) > MOST_IN_LEGEND:
        notes.append("There are too many lines for a legend: point at one for its name.")
    layout["showlegend"] = len(lines) <= MOST_IN_LEGEND
    layout["hovermode"] = "closest" if many else "x unified"
    return Chart(figure, notes)


def heat_map(lines: Sequence[Line], columns: int = downsampling.COLUMNS) -> Chart:
    """Lines as rows, steps as columns; the first line at the top.

    The page takes the logarithms of the cells itself where `meta` says so.
    """
    steps, cells = downsampling.grid([line.series for line in lines], columns)
    finite = _finite(cells.flat)
    log = logarithmic(finite)
    figure = _figure(height=min(110 + (30 if len(lines) <= 12 else 18) * len(lines), 900))
    trace = {
        "type": "heatmap",
        "x": steps,
        "y": [label(line.name, 24) for line in lines],
        "z": [[_point(cell, 4) for cell in row] for row in cells],
        "meta": {"log": log},
        "colorscale": "Viridis",
        "colorbar": {"thickness": 12, **(_decades(finite) if log else {})},
        "hoverongaps": False,
        "hovertemplate": "%{y}<br>step %{x}: %{customdata:.4g}<extra></extra>",
    }
    figure["data"].append(trace)
    axis = {"type": "category", "autorange": "reversed", "automargin": True}
    figure["layout"]["yaxis"] = axis
    if len(steps) > 1:  # as in the curves, without the outer half of the outer cells
        figure["layout"]["xaxis"] = {"range": [steps[0], steps[-1]]}
    notes = []
    taken = {step for line in lines for step in line.series.steps}
    if len(steps) < len(taken):
        notes.append(
            f"The heat map has {len(steps)} columns for {len(taken):,} steps; each shows "
            "the measurement that is furthest from the middle of its row."
        )
    return Chart(figure, notes)


def colored(trace: dict[str, Any]) -> dict[str, Any]:
    """A heat map's trace with its colors, as the page of the report makes it by script.

    Example:

    >>> from keras_e2e.visualization.report.figures import colored
    >>> colored({"z": [[100.0, None]], "meta": {"log": True}})
    {'z': [[2.0, None]], 'customdata': [[100.0, None]]}
    """
    values, rest = trace["z"], {k: v for k, v in trace.items() if k not in ("z", "meta")}
    colors = values
    if trace["meta"]["log"]:
        colors = [[v if v is None else math.log10(v) for v in row] for row in values]
    return {"z": colors, **rest, "customdata": values}


def label(name: str, longest: int = 40) -> str:
    """An untrusted name for Plotly, which reads markup in texts; cut in the middle."""
    return html.escape(shortened(name, longest))


def shortened(name: str, longest: int) -> str:
    """A name cut in the middle: modules are told apart by the end, too."""
    half = longest // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[1 - half :]}"


def logarithmic(values: Sequence[float]) -> bool:
    """Whether finite values are all positive and span more than two decades."""
    return len(values) > 0 and min(values) > 0 and max(values) / min(values) > 100


def _figure(height: int) -> dict[str, Any]:
    return {"data": [], "layout": {"height": height}}


def _shade(
    figure: dict[str, Any], band: tuple[float, float] | None, shown: tuple[float, float]
) -> list[str]:
    """Shades the healthy band; returns a note if none of it is shown."""
    if band is None:
        return []
    bottom, top = max(band[0], shown[0]), min(band[1], shown[1])
    if bottom >= top:
        return ["The healthy band lies outside of the chart."]
    band_shape = {
        "type": "rect",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": bottom,
        "y1": top,
    }
    look = {"fillcolor": _BAND, "line": {"width": 0}, "layer": "below"}
    figure["layout"].setdefault("shapes", []).append({**band_shape, **look})
    return []


def _mark(figure: dict[str, Any], switches: Sequence[tuple[int, str]]) -> list[str]:
    """Draws the switches of the mode; returns a note on what is left out."""
    if len(switches) > MOST_SWITCHES:
        return [f"The {len(switches) - 1} switches of the mode are too many to be marked."]
    layout = figure["layout"]
    line = {"color": "rgba(128, 128, 128, 0.9)", "width": 1, "dash": "dash"}
    for step, _ in switches:
        place = {"type": "line", "yref": "paper", "x0": step, "x1": step, "y0": 0, "y1": 1}
        layout.setdefault("shapes", []).append({**place, "line": line})
    if len(switches) <= MOST_NAMED_SWITCHES:
        look = {"yref": "paper", "y": 1, "xanchor": "left", "yanchor": "bottom"}
        look |= {"showarrow": False, "font": {"size": 11}}
        layout["annotations"] = [
            {"x": step, "text": mode, **look} for step, mode in switches
        ]
    return []


def _finite(values: Iterable[float]) -> list[float]:
    return [float(value) for value in values if math.isfinite(value)]


def _point(value: float, digits: int = 5) -> float | None:
    """As many digits as can be seen; a gap for a value that is not finite."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


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

"""The page: facts and figures put into the templates."""

import datetime
import itertools
import json
import re
import secrets
from collections.abc import Iterator
from typing import Any

import jinja2
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from tensorboard import plugin_util

from keras_e2e.visualization.report import downsampling, facts, figures
from keras_e2e.visualization.report.event_files import Logs
from keras_e2e.visualization.tensorboard.run_data import RunData

COMPARED = ("gradient_snr", "loss")
# Of the table that compares runs.
MOST_COLUMNS = 12
# Runs, and modules, from which on a page would be long: what is calm is folded.
MANY_RUNS = 3
MANY_MODULES = 12


def render(logs: Logs) -> str:
    """The whole page as a text."""
    # Names in log files are untrusted: the templates escape all that they put in.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("keras_e2e.visualization.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    numbers = itertools.count(1)
    series = sum(len(by) for run in logs.runs for by in run.quantities.values())
    return environment.get_template("page.html").render(
        logs=logs,
        many_runs=len(logs.runs) > MANY_RUNS,
        many_modules=MANY_MODULES,
        signs=facts.SIGNS,
        made=_moment(datetime.datetime.now().timestamp()),
        runs=[
            _run(run, times, numbers, series)
            for run, times in zip(logs.runs, logs.times, strict=True)
        ],
        comparison=_comparison(logs.runs, numbers) if len(logs.runs) > 1 else None,
        plotly=Markup(get_plotlyjs()),
        # Only scripts that carry it run, whatever else got into the page.
        nonce=secrets.token_urlsafe(16),
    )


def _run(
    run: RunData, times: tuple[float, float], numbers: Iterator[int], series: int
) -> dict:
    """One run; `series` is how many there are on the whole page."""
    chain = facts.modules(run)
    return {
        "name": run.name,
        "since": _moment(times[0]),
        "until": _moment(times[1]),
        "modules": chain,
        "short": [figures.shortened(module.name, 18) for module in chain],
        "judged": facts.alarms_first(chain),
        "switches": run.switches(),
        "columns": facts.quantities(run),
        "last": facts.last_values(run),
        "quantities": [
            _quantity(run, name, numbers, series) for name in facts.quantities(run)
        ],
    }


def _quantity(run: RunData, name: str, numbers: Iterator[int], series: int) -> dict:
    lines = figures.modules(run, name)
    band = run.bands.get(name)
    points = downsampling.shared(series, downsampling.POINTS)
    curves = figures.curves(lines, band, run.switches(), points)
    heat_map = figures.heat_map(lines, downsampling.shared(series, downsampling.COLUMNS))
    title, about = facts.titled(run.about.get(name, ""), name)
    return {
        "name": name,
        "title": title,
        "about": _markdown(about),
        "band": band and [facts.number(end) for end in band],
        "not_finite": facts.not_finite(run, name),
        "notes": curves.notes + heat_map.notes,
        "charts": [
            _chart(f"{name} over steps, a line for each module", curves, numbers),
            _chart(f"{name} as a heat map, module by step", heat_map, numbers),
        ],
    }


def _comparison(runs: list[RunData], numbers: Iterator[int]) -> dict:
    modules = sorted(
        {module for run in runs for module in run.modules},
        key=lambda module: (int(module.split("_")[0]), module),
    )
    # Models that are unlike, or long, have few cells of a common table in common.
    alike = len(modules) <= MOST_COLUMNS and all(run.modules == modules for run in runs)
    rows = [[facts.judged(run, module) for module in modules] for run in runs]
    # A quarter of what all runs have: there are two such charts, not a dozen.
    lines = 4 * sum(len(run.modules) for run in runs)
    points = downsampling.shared(lines, downsampling.COLUMNS)
    charts = []
    for quantity in COMPARED:
        drawn = figures.over_runs(runs, quantity)
        if drawn:
            curves = figures.curves(drawn, points=points)
            title = f"{quantity} over steps, a line for each run and module"
            charts.append(
                {
                    **_chart(title, curves, numbers),
                    "notes": curves.notes,
                    "legend": curves.figure["layout"]["showlegend"],
                }
            )
    return {"modules": modules, "rows": rows if alike else None, "charts": charts}


def _chart(title: str, chart: figures.Chart, numbers: Iterator[int]) -> dict[str, Any]:
    return {
        "id": f"chart-{next(numbers)}",
        "title": title,
        "height": chart.figure["layout"]["height"],
        # No name in it can end the script element that it stands in.
        "json": htmlsafe_json_dumps(chart.figure, dumps=_dumps),
    }


def _dumps(figure: dict[str, Any]) -> str:
    return json.dumps(figure, allow_nan=False, separators=(",", ":"))


def _markdown(text: str) -> Markup:
    """Markdown as harmless HTML, in the way of TensorBoard, but without images.

    TensorBoard lets those pass, and they would be fetched from the network.
    """
    html = plugin_util.markdown_to_safe_html(text)
    return Markup(re.sub("<img[^>]*>", "", html))


def _moment(seconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(seconds).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M:%S %z")

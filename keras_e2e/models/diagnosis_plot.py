"""The figure of a diagnosis. It takes Plotly, so it is imported where one is drawn."""

from collections.abc import Mapping, Sequence
from typing import Any

from plotly.subplots import make_subplots

from keras_e2e.visualization.report import figures
from keras_e2e.visualization.tensorboard.run_data import Series

# Points on the screen: a row of a heat map, and what is between two of them.
ROW, BETWEEN = 26, 70


def heat_maps(
    history: Mapping[str, Mapping[str, Sequence[float]]],
    steps: Sequence[int],
    names: Sequence[str],
) -> Any:
    """One heat map below the other: a row for each module, a column for each step.

    Args:
        history: Dict from quantity to a dict from module to the list of measurements.
        steps: List of the step of each measurement.
        names: The quantities to draw.

    Returns:
        A `plotly.graph_objects.Figure`.
    """
    rows = len(next(iter(history.values())))
    height = len(names) * (ROW * rows + BETWEEN) + BETWEEN
    figure = make_subplots(
        rows=len(names),
        cols=1,
        shared_xaxes=True,
        subplot_titles=names,
        vertical_spacing=BETWEEN / height / 2 if len(names) > 1 else 0,
    )
    for place, name in enumerate(names, start=1):
        lines = [
            figures.Line(module, Series(list(steps), list(values)), "", "solid")
            for module, values in history[name].items()
        ]
        trace = figures.colored(figures.heat_map(lines).figure["data"][0])
        axis = next(figure.select_yaxes(row=place, col=1))
        low, high = axis.domain
        place_of_bar = {"len": high - low, "y": (low + high) / 2, "yanchor": "middle"}
        trace["colorbar"] |= place_of_bar
        figure.add_trace(trace, row=place, col=1)
    figure.update_yaxes(type="category", autorange="reversed", automargin=True)
    figure.update_xaxes(title_text="step", row=len(names), col=1)
    figure.update_layout(template="none", height=height)
    return figure

"""The charts of TensorBoard's Custom Scalars dashboard.

Apart from the tags, which do not need TensorBoard to be loaded.
"""

import re
from collections.abc import Sequence
from typing import Any

from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar.summary import pb

from keras_e2e.diagnostics.quantity import Quantity
from keras_e2e.visualization.tensorboard.tags import (
    MODE,
    MODES,
    SIGNAL_GAIN_PRODUCT,
    band_tags,
    module_tag,
    sentence,
)


def summary(module_names: Sequence[str], quantities: Sequence[Quantity]) -> Any:
    """The `layout` as the Summary protocol buffer that TensorBoard reads it from."""
    return pb(layout(module_names, quantities))


def layout(
    module_names: Sequence[str], quantities: Sequence[Quantity]
) -> layout_pb2.Layout:
    r"""The charts: one for each quantity over all modules, and the healthy bands.

    The charts over all modules find their tags by a pattern, not by name, so that runs
    with other modules have the same charts: TensorBoard merges the layouts of all runs and
    shows a chart again for each run where it differs. Only the margin charts of the
    bands must name their tags.

    Args:
        module_names: The names of the modules, in order.
        quantities: List of the `Quantity` objects that are logged of each.

    Returns:
        The layout, a protocol buffer of TensorBoard's plugin `custom_scalar`.

    Example:

    >>> from keras_e2e import diagnostics
    >>> from keras_e2e.visualization.tensorboard.custom_scalars import layout
    >>> charts = layout(["encoder", "head"], [diagnostics.GradRMS()]).category[0].chart
    >>> charts[1].title, list(charts[1].multiline.tag)
    ("grad_rms: Root mean square of a module's gradient", ['e2e_grad_rms/[0-9]+_.*$'])
    """
    modules = [_lines(f"mode: {MODES}", f"{MODE}$")]
    modules += [_lines(_title(q), _all_modules(q)) for q in quantities]
    if "signal_gain" in [q.name for q in quantities]:
        title = "signal_gain_product: over all modules"
        modules.append(_lines(title, f"{SIGNAL_GAIN_PRODUCT}$"))
    categories = [layout_pb2.Category(title="Modules", chart=modules)]
    bands = [_band(module_names, q.name, q.healthy) for q in quantities if q.healthy]
    if bands:
        title = "Healthy bands (heuristic; best on a logarithmic axis)"
        categories.append(layout_pb2.Category(title=title, chart=bands))
    return layout_pb2.Layout(category=categories)


def _title(quantity: Quantity) -> str:
    # The formula stands in the description of each scalar.
    return f"{quantity.name}: {sentence(quantity) or quantity.formula}"


def _all_modules(quantity: Quantity) -> str:
    # TensorBoard anchors the pattern at the start only.
    return rf"e2e_{re.escape(quantity.name)}/[0-9]+_.*$"


def _lines(title: str, pattern: str) -> layout_pb2.Chart:
    content = layout_pb2.MultilineChartContent(tag=[pattern])
    return layout_pb2.Chart(title=title, multiline=content)


def _band(
    module_names: Sequence[str], quantity: str, healthy: tuple[float, float]
) -> layout_pb2.Chart:
    """The band as one shaded area, and each module as an area without height.

    TensorBoard refuses to draw a series whose steps differ from those of its margins, and
    a module may lack measurements; also, one shade per module would hide the lines.
    """
    series = layout_pb2.MarginChartContent.Series
    low, high = band_tags(quantity)
    tags = [module_tag(quantity, i, module) for i, module in enumerate(module_names)]
    content = layout_pb2.MarginChartContent(
        series=[
            series(value=low, lower=low, upper=high),
            *[series(value=tag, lower=tag, upper=tag) for tag in tags],
        ]
    )
    title = f"{quantity}: healthy from {healthy[0]:g} to {healthy[1]:g}"
    return layout_pb2.Chart(title=title, margin=content)

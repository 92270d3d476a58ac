"""Tags, and the charts of TensorBoard's Custom Scalars dashboard that show them."""

import functools
import re
from collections.abc import Sequence

from tensorboard.plugins.custom_scalar import layout_pb2

from keras_e2e.diagnostics import states
from keras_e2e.diagnostics.quantity import Quantity
from keras_e2e.modules.training_mode import NAMES

MODE = "e2e_summary/mode"
MODE_TEXT = "e2e_mode"
VERDICTS_TEXT = "e2e_verdicts"
MODES = ", ".join(f"{index} {name}" for index, name in enumerate(NAMES))
SIGNAL_GAIN_PRODUCT = "e2e_summary/signal_gain_product"


@functools.cache  # asked for at each reading
def module_tag(quantity: str, position: int, module: str) -> str:
    """The tag of one quantity of one module: `e2e_<quantity>/<NN>_<module>`.

    Args:
        quantity: name of the quantity.
        position: the module's place in the model, counted from 0.
        module: name of the module. A slash, which would group by it, and parentheses,
            from which the Custom Scalars dashboard reads the name of a run, become `_`.

    Example:

    >>> from keras_e2e.visualization.tensorboard.tags import module_tag
    >>> module_tag("grad_rms", 1, "block2/pool")
    'e2e_grad_rms/02_block2_pool'
    """
    return f"e2e_{quantity}/{position + 1:02d}_{re.sub('[/()]', '_', module)}"


def plain(text: str) -> str:
    """A name for a text in Markdown, in which it marks nothing up."""
    return re.sub(r"([\\`*_{}\[\]<>()#+.!|-])", r"\\\1", text)


def band_tags(quantity: str) -> tuple[str, str]:
    """The tags of the lower and upper end of a quantity's healthy band.

    They share one group, apart from the values, so that it can stay closed.
    """
    return f"e2e_healthy/{quantity}_low", f"e2e_healthy/{quantity}_high"


def descriptions(
    module_names: Sequence[str], quantities: Sequence[Quantity]
) -> dict[str, str]:
    """What TensorBoard says of each scalar, by its tag.

    Args:
        module_names: the modules, in order.
        quantities: what is written for each.
    """
    found = {
        MODE: f"The training mode: {MODES}.",
        SIGNAL_GAIN_PRODUCT: (
            "Product of signal_gain over the modules: how much of the signal at the "
            "output reaches the end of the first module. Far from 1, heuristically, "
            "it dies or explodes on the way. Where boundaries stop the gradient, a "
            "product of what each module would have sent back."
        ),
    }
    codes = ", ".join(f"{code} {state.name}" for code, state in enumerate(states.STATES))
    groups = {
        "verdict": f"What the module is judged to be: {codes}.",
        "confidence": "How sure the verdict is: the share of the readings that say so.",
        "parameters": "Number of parameters of the module.",
        "trained_by": (
            "What teaches the module: 0 the task, 1 its own objective, 2 both, 3 nothing."
        ),
    }
    for quantity in quantities:
        groups[quantity.name] = _description(quantity)
        for name in quantity.extra_outputs:
            groups[name] = f"Comes along with {quantity.name}."
    for group, text in groups.items():
        for position, module in enumerate(module_names):
            found[module_tag(group, position, module)] = text
    for quantity in quantities:
        for tag in band_tags(quantity.name):
            found[tag] = f"End of the healthy band of {quantity.name}: a heuristic."
    return found


def _description(quantity: Quantity) -> str:
    unit = f" [{quantity.unit}]" if quantity.unit else ""
    text = f"`{quantity.formula}`{unit}"
    if quantity.interpretation:
        text += f". {quantity.interpretation[0].upper()}{quantity.interpretation[1:]}"
    if quantity.healthy is not None:
        low, high = quantity.healthy
        text += f". Healthy: {low:g} to {high:g} (a heuristic)"
    return text + "."


def layout(
    module_names: Sequence[str], quantities: Sequence[Quantity]
) -> layout_pb2.Layout:
    r"""The charts: one for each quantity over all modules, and the healthy bands.

    The charts over all modules find them by pattern, not by name, so that runs with
    other modules have the same charts: TensorBoard merges the layouts of all runs and
    shows a chart again for each run where it differs. Only the margin charts of the
    bands must name their tags.

    Args:
        module_names: the modules, in order.
        quantities: what is written for each.

    Returns:
        A layout for `tensorboard.plugins.custom_scalar.summary.pb`.

    Example:

    >>> from keras_e2e import diagnostics
    >>> from keras_e2e.visualization.tensorboard.tags import layout
    >>> charts = layout(["encoder", "head"], [diagnostics.GradRMS()]).category[0].chart
    >>> charts[1].title, list(charts[1].multiline.tag)
    ('grad_rms: norm(g) / sqrt(P)', ['e2e_grad_rms/[0-9]+_.*$'])
    """
    modules = [_lines(f"mode: {MODES}", f"{MODE}$")]
    modules += [_lines(f"{q.name}: {q.formula}", _all_modules(q)) for q in quantities]
    if "signal_gain" in [q.name for q in quantities]:
        title = "signal_gain_product: over all modules"
        modules.append(_lines(title, f"{SIGNAL_GAIN_PRODUCT}$"))
    categories = [layout_pb2.Category(title="Modules", chart=modules)]
    bands = [_band(module_names, q.name, q.healthy) for q in quantities if q.healthy]
    if bands:
        title = "Healthy bands (heuristic; best on a logarithmic axis)"
        categories.append(layout_pb2.Category(title=title, chart=bands))
    return layout_pb2.Layout(category=categories)


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

    TensorBoard refuses to draw a series whose steps differ from those of its margins,
    and a module may lack readings; also, one shade per module would hide the lines.
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

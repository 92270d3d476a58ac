"""The tags of what is logged for TensorBoard, and their descriptions."""

import functools
import re
from collections.abc import Sequence

from keras_e2e.diagnostics import states
from keras_e2e.diagnostics.quantity import Quantity
from keras_e2e.modules.training_mode import NAMES

MODE = "e2e_summary/mode"
MODE_TEXT = "e2e_mode"
VERDICTS_TEXT = "e2e_verdicts"
MODES = ", ".join(f"{index} {name}" for index, name in enumerate(NAMES))
SIGNAL_GAIN_PRODUCT = "e2e_summary/signal_gain_product"


@functools.cache  # called at each measurement
def module_tag(quantity: str, position: int, module: str) -> str:
    """The tag of one quantity of one module: `e2e_<quantity>/<NN>_<module>`.

    Args:
        quantity: String, the name of the quantity.
        position: Integer, the module's place in the model, counted from 0.
        module: String, the name of the module. A slash, which would group by it, and
            parentheses, which the Custom Scalars dashboard takes for the name of a run,
            become `_`.

    Example:

    >>> from keras_e2e.visualization.tensorboard.tags import module_tag
    >>> module_tag("grad_rms", 1, "block2/pool")
    'e2e_grad_rms/02_block2_pool'
    """
    return f"e2e_{quantity}/{position + 1:02d}_{re.sub('[/()]', '_', module)}"


def plain(text: str) -> str:
    """A name with all Markdown escaped."""
    return re.sub(r"([\\`*_{}\[\]<>()#+.!|-])", r"\\\1", text)


def band_tags(quantity: str) -> tuple[str, str]:
    """The tags of the lower and upper end of a quantity's healthy band.

    They share one group, apart from the values, so that TensorBoard can keep it collapsed.
    """
    return f"e2e_healthy/{quantity}_low", f"e2e_healthy/{quantity}_high"


def descriptions(
    module_names: Sequence[str], quantities: Sequence[Quantity]
) -> dict[str, str]:
    """The description that TensorBoard shows of each scalar, by its tag.

    Args:
        module_names: The names of the modules, in order.
        quantities: List of the `Quantity` objects that are logged of each.
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
        "confidence": "Confidence of the verdict: of those as certain, so many are right.",
        "cause": "The number of the module whose fault this state is an effect of, or 0.",
        "place": (
            "What the module has, which advice depends on: 1 for the last, 2 with an "
            "objective, 4 without the labels it requires, 8 with them, 16 normalized, "
            "32 served by a surrogate loss; added up."
        ),
        "parameters": "Number of parameters of the module.",
        "trained_by": (
            "What trains the module: 0 the task, 1 its own objective, 2 both, 3 nothing."
        ),
    }
    for quantity in quantities:
        groups[quantity.name] = _description(quantity)
        for name in quantity.extra_outputs:
            groups[name] = f"Measured along with {quantity.name}."
    for group, text in groups.items():
        for position, module in enumerate(module_names):
            found[module_tag(group, position, module)] = text
    for quantity in quantities:
        for tag in band_tags(quantity.name):
            found[tag] = f"End of the healthy band of {quantity.name}: a heuristic."
    return found


def sentence(quantity: Quantity) -> str:
    """What a quantity is, in plain words: the first line of its docstring.

    Without the formula, which stands apart, and without the paper. Empty if it has none.

    Example:

    >>> import keras_e2e as e2e
    >>> from keras_e2e.visualization.tensorboard.tags import sentence
    >>> sentence(e2e.diagnostics.GradientSNR())
    "Signal-to-noise ratio of a module's gradient"
    """
    lines = (type(quantity).__doc__ or "").strip().splitlines()
    first = lines[0].split(": `")[0] if lines else ""
    return re.sub(r"\s*\([^()]*\d{4}[^()]*\)", "", first).rstrip(". ")


def _description(quantity: Quantity) -> str:
    words = sentence(quantity)
    unit = f" [{quantity.unit}]" if quantity.unit else ""
    text = f"{words}. " * bool(words) + f"`{quantity.formula}`{unit}"
    if quantity.interpretation:
        text += f". {quantity.interpretation[0].upper()}{quantity.interpretation[1:]}"
    if quantity.healthy is not None:
        low, high = quantity.healthy
        text += f". Healthy: {low:g} to {high:g} (a heuristic)"
    return text + "."

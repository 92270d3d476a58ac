"""What the numbers and the graph of a diagnosis mean, in a sentence each."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from keras_e2e.diagnostics import default_quantities
from keras_e2e.diagnostics.quantity import Described
from keras_e2e.diagnostics.verdicts import Verdict
from keras_e2e.modules.graph import Graph
from keras_e2e.modules.without_gradient import without_gradient
from keras_e2e.utils import compat

SYMBOLS = (
    "In the formulas: g is the gradient, theta the weights, dtheta what a step changes of "
    "them, delta_m the gradient at the output of module m, h its output."
)


def explanations(quantities: Iterable[Described]) -> dict[str, str]:
    """For each number a sentence: what it is, how to read it, and what is usual."""
    return {name: _explanation(each, name) for each in quantities for name in each.columns}


def out_of_range(verdicts: Mapping[str, Verdict]) -> list[str]:
    """Numbers of modules that still learn, where they are not in their healthy range.

    The farthest off come first. `gradient_snr` is none of them: it falls to 0 wherever
    little is left to learn.
    """
    ranges = {each.name: each.healthy for each in default_quantities() if each.healthy}
    ranges.pop("gradient_snr", None)
    found = []
    for module, verdict in verdicts.items():
        for name, (low, high) in ranges.items():
            value = verdict.numbers.get(name, math.nan)
            if verdict.state != "converged" and (value < low or value > high):
                off = math.log(max(value, 1e-30) / (low if value < low else high))
                found.append((-abs(off), f"{name} {value:.3g} of {module}"))
    return [words for _, words in sorted(found, key=lambda pair: pair[0])]


def where_gradients_end(modular: Any, verdicts: Mapping[str, Verdict]) -> list[str]:
    """Operations that may be why nothing comes through a module, a sentence for each.

    Empty where something does, and for models without a graph of layers.
    """
    lost = [
        module
        for module, verdict in verdicts.items()
        if verdict.state == "vanishing" and verdict.numbers.get("signal_gain") == 0.0
    ]
    if not lost or not compat.is_functional(modular):
        return []
    found = without_gradient(Graph(modular._modular.graph), modular.modules[-1].name)
    return [
        f"{module} holds operations that let no gradient pass: {', '.join(found[module])}."
        for module in lost
        if found.get(module)
    ]


def _explanation(described: Described, column: str) -> str:
    text = f"{column} = {described.formula}"
    if column != described.name:
        text = f"{column}: measured with {described.name} = {described.formula}"
    if described.unit:
        text += f" [{described.unit}]"
    if described.interpretation:
        text += f": {described.interpretation}"
    if described.healthy is not None and column == described.name:
        low, high = described.healthy
        text += f"; healthy from {low:g} to {high:g}"
    return text + "."

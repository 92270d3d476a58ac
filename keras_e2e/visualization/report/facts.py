"""What the page says of a run, ready for the templates: texts and numbers, no markup."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from keras_e2e.modules.training_mode import TRAINED_BY
from keras_e2e.visualization.tensorboard.run_data import RunData, Series, named

# What most want to see first; the others follow as they were logged.
FIRST = ("loss", "gradient_snr")
# One color each, as in TensorBoard's tab: all is well, worth a look, or nothing is said.
KINDS = {"healthy": "good", "converged": "good", "unclear": "unclear"}
SIGNS = {"alarm": "⚠", "good": "✓", "notice": "◆", "unclear": "?", "effect": "↳"}


class Judged(NamedTuple):
    """The latest verdict on a module; `kind` decides its color."""

    state: str
    kind: str
    confidence: str
    message: str
    effects: str = ""  # the modules whose states are effects of this one's fault

    @property
    def sign(self) -> str:
        """What says the same as the color to those who do not tell colors apart."""
        return SIGNS[self.kind]


class Module(NamedTuple):
    """A link in the chain."""

    name: str
    parameters: str
    trained_by: str
    judged: Judged | None


class Cell(NamedTuple):
    """A value in a table, and where it stands to the healthy band: "", below, above."""

    text: str
    aside: str


def modules(run: RunData) -> list[Module]:
    """The chain, in order."""
    return [
        Module(
            module,
            f"{run.parameters[module]:,}" if module in run.parameters else "not logged",
            trained_by(run.trained_by.get(module)),
            judged(run, module),
        )
        for module in run.modules
    ]


def judged(run: RunData, module: str) -> Judged | None:
    """The latest verdict; None without one."""
    found = run.verdict(module)
    if found is None:
        return None
    if found.cause:
        kind = "effect"
    else:
        kind = "alarm" if found.alarm else KINDS.get(found.state, "notice")
    # Nobody is "0 % confident" that it is unclear; old logs have no confidence.
    known = math.isfinite(found.confidence) and found.state != "unclear"
    confidence = f"{100 * found.confidence:.0f} % confidence" if known else ""
    effects = run.effects_of(module)
    return Judged(found.state, kind, confidence, found.message, ", ".join(effects))


def trained_by(series: Series | None) -> str:
    """What trained a module, and from which step on."""
    parts: list[str] = []
    last = None
    for step, code in zip(*series, strict=True) if series else ():
        text = named(code, TRAINED_BY)
        if text != last:
            parts.append(f"{text} from step {step} on" if parts else text)
            last = text
    if len(parts) > 3:
        return f"{parts[-1]} (switched {len(parts) - 1} times)"
    return ", then ".join(parts) or "not logged"


def alarms_first(chain: Sequence[Module]) -> list[Module]:
    """The modules that have a verdict, above all those that explain other states."""
    ranked = []
    for module in chain:
        if module.judged:
            calm = module.judged.kind != "alarm"
            ranked.append((calm, not module.judged.effects, module))
    return [module for *_, module in sorted(ranked, key=lambda each: each[:2])]


def titled(about: str, name: str) -> tuple[str, str]:
    """What a quantity is in plain words, and the rest of its description, in Markdown.

    Example:

    >>> from keras_e2e.visualization.report.facts import titled
    >>> titled("Size of the step. `norm(dtheta)`. About 1e-3.", "update_ratio")
    ('Size of the step', '`norm(dtheta)`. About 1e-3.')
    """
    words, formula, rest = about.partition("`")
    words = words.strip().rstrip(".")
    return (words, formula + rest) if words and formula else (name, about)


def quantities(run: RunData) -> list[str]:
    """In the order in which they are shown."""
    return sorted(
        run.quantities, key=lambda q: FIRST.index(q) if q in FIRST else len(FIRST)
    )


def last_values(run: RunData) -> list[tuple[str, list[Cell | None]]]:
    """Rows of a table: a module, and its last value of each quantity in order."""
    rows = []
    for module in run.modules:
        cells: list[Cell | None] = []
        for quantity in quantities(run):
            series = run.quantities[quantity].get(module)
            band = run.bands.get(quantity, (-math.inf, math.inf))
            cells.append(cell(series.values[-1], band) if series else None)
        rows.append((module, cells))
    return rows


def cell(value: float, band: tuple[float, float]) -> Cell:
    """A value, and whether it is out of its band."""
    aside = "below" if value < band[0] else "above" if value > band[1] else ""
    return Cell(number(value), aside)


def number(value: float) -> str:
    """Four digits; NaN and infinity by name."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "infinity" if value > 0 else "-infinity"
    return f"{value:.4g}"


def not_finite(run: RunData, quantity: str) -> str:
    """A sentence on how many measurements are not finite; empty if all are."""
    counted = []
    for module, series in run.quantities[quantity].items():
        nans = sum(math.isnan(value) for value in series.values)
        infinite = sum(math.isinf(value) for value in series.values)
        counts = [f"{nans:,} NaN"] * (nans > 0) + [f"{infinite:,} infinite"] * (
            infinite > 0
        )
        if counts:
            counted.append(f"{module} {' and '.join(counts)} of {len(series.values):,}")
    if not counted:
        return ""
    return f"Not finite: {'; '.join(counted)} measurements. The charts have gaps."

"""What `diagnose` found: in a terminal, in a notebook, as a dict and as a figure."""

import html
import io
import itertools
import math
from numbers import Integral
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from keras_e2e.diagnostics import Verdict, default_quantities, states
from keras_e2e.models.diagnosis_words import SYMBOLS, out_of_range

# The numbers that the table shows, of those that were measured.
SHOWN = (
    "loss",
    "skill",
    "descent",
    "signal_gain",
    "update_ratio",
    "dormant_fraction",
)
WIDTH = 100
# Names of modules: for those up to `SHORT` letters there is room in `WIDTH`, those beyond
# `LONG` are broken.
SHORT, LONG = 10, 32
# So many measurements without a number, and one is gone.
LATE = 10
# Columns of words; the others are numbers.
WORDS = ("#", "module", "verdict")


class _Sheet(NamedTuple):
    """A table as texts, one row for each module."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


class Diagnosis(NamedTuple):
    """What `diagnose` found.

    Printed (and in a notebook) it is a table of the modules, a second one of what was
    measured on demand, a sentence for each module that is unclear or that something can be
    done about (causes first, with their effects), how it was made, and what each number
    means.

    Attributes:
        verdicts: Dict from module to its `diagnostics.Verdict`, in order.
        history: Dict from quantity to a dict from module to the list of measurements.
        steps: List of the step of each measurement: `optimizer.iterations` after it.
        measured: Dict from quantity to a dict from module to what was measured on demand,
            before those steps.
        trained_steps: Integer, the number of training steps that the diagnosis took.
        validation: Dict with the loss on the validation data, `"before"` and `"after"`
            those steps; empty where none was given.
        notes: List of sentences on how the diagnosis was made.
        explanations: Dict from quantity to a sentence that says what it is.
    """

    verdicts: dict[str, Verdict]
    history: dict[str, dict[str, list[float]]]
    steps: list[int]
    measured: dict[str, dict[str, float]]
    trained_steps: int
    validation: dict[str, float] = {}  # noqa: RUF012 (nothing is ever put into it)
    notes: list[str] = []  # noqa: RUF012
    explanations: dict[str, str] = {}  # noqa: RUF012

    def __str__(self) -> str:
        text = io.StringIO()
        # So that a name that Keras gives is in one piece, however many columns there are.
        longest = min(max(map(len, self.verdicts), default=0), LONG)
        width = WIDTH + max(0, longest - SHORT)
        console = Console(file=text, width=width, markup=False, highlight=False)
        for sheet in self._sheets():
            table = Table(
                title=sheet.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
            )
            for name in sheet.header:
                broken = name.replace("_", "_\n").replace("confidence", "confi-\ndence")
                table.add_column(
                    broken,
                    justify="left" if name in WORDS else "right",
                    overflow="fold",
                    no_wrap=name != "module",  # the only one that is as long as it likes
                    min_width=longest if name == "module" else None,
                )
            for row in sheet.rows:
                table.add_row(*row)
            console.print(table)
        for lines in (self._messages(), self._remarks(), self._explained()):
            for line in lines:
                console.print(line)
            if lines:
                console.print()
        return text.getvalue().rstrip()

    def __repr__(self) -> str:
        judged = ", ".join(f"{name}: {_state(v)}" for name, v in self.verdicts.items())
        return f"<Diagnosis after {self.trained_steps} steps: {judged}>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        parts = []
        for sheet in self._sheets():
            names = sheet.header
            header = "".join(
                _cell("th", name, name, self.explanations.get(name)) for name in names
            )
            rows = [map(_cell, itertools.repeat("td"), names, row) for row in sheet.rows]
            body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
            parts.append(
                f'<table><caption style="text-align:left">{html.escape(sheet.title)}'
                f"</caption><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>"
            )
        for line in (*self._messages(), *self._remarks()):
            parts.append(f"<p>{html.escape(line)}</p>")
        items = "".join(f"<li>{html.escape(line)}</li>" for line in self._explained())
        return "".join(parts) + (f"<ul>{items}</ul>" if items else "")

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it as dicts, lists, texts and numbers, for JSON.

        `None` stands for what is not a finite number.

        Example:

        >>> from keras_e2e.diagnostics import Verdict
        >>> from keras_e2e.models.diagnosis import Diagnosis
        >>> found = Diagnosis({"out": Verdict("healthy", 0.9, {})}, {}, [], {}, 50)
        >>> found.to_dict()["verdicts"]["out"]["state"]
        'healthy'
        """
        verdicts = {}
        for module, verdict in self.verdicts.items():
            verdicts[module] = {
                **verdict._asdict(),
                "alarm": verdict.alarm,
                "message": verdict.message,
            }
        cleaned: dict[str, Any] = _cleaned({**self._asdict(), "verdicts": verdicts})
        return cleaned

    def plot(self, quantity: str | None = None) -> Any:
        """Returns a Plotly figure: a heat map of modules over steps for each quantity.

        It takes Plotly: `pip install 'keras-e2e[report]'`.

        Args:
            quantity: String, the name of a quantity in `history`. Defaults to `None`:
                all of `diagnostics.default_quantities` that have numbers.

        Raises:
            ImportError: If Plotly is not installed.
            ValueError: If no such quantity was measured.
        """
        measured = [
            name
            for name, values in self.history.items()
            if any(map(math.isfinite, (n for of_one in values.values() for n in of_one)))
        ]
        if quantity is not None and quantity not in measured:
            raise ValueError(
                f"Diagnosis.plot({quantity!r}): it was not measured. Name one of "
                f"{measured}."
            )
        try:
            from keras_e2e.models.diagnosis_plot import heat_maps
        except ImportError as error:
            if (error.name or "").split(".")[0] != "plotly":
                raise
            raise ImportError(
                "Diagnosis.plot needs Plotly, which is not installed: "
                "pip install 'keras-e2e[report]'."
            ) from error
        usual = [each.name for each in default_quantities()]
        names = [name for name in usual if name in measured] or measured
        return heat_maps(self.history, self.steps, [quantity] if quantity else names)

    def _remarks(self) -> list[str]:
        """Notes on how it was made, on blank cells, and the loss on validation data."""
        notes = list(self.notes)
        if self.validation:
            before, after = self.validation["before"], self.validation["after"]
            notes.append(
                f"Loss on the validation data: {before:.4g} before, {after:.4g} after "
                f"{self.trained_steps} steps."
            )
        cells = [cell for sheet in self._sheets() for row in sheet.rows for cell in row]
        if any(cell.startswith("(") for cell in cells):
            notes.append("In parentheses: an effect of the fault of another module.")
        if "NaN" in cells:
            notes.append("NaN: infinite, 0 / 0, or made from such numbers.")
        if "" in cells:
            notes.append(
                "Blank: the quantity does not apply to this module, or has no value here."
            )
        return notes

    def _messages(self) -> list[str]:
        """A line for each module that calls for one: causes first, with their effects."""
        effects: dict[str, list[str]] = {}
        for module, verdict in self.verdicts.items():
            if verdict.cause in self.verdicts:
                effects.setdefault(verdict.cause, []).append(module)
        shown = [m for m in self.verdicts if not any(m in of for of in effects.values())]
        shown.sort(key=lambda module: not self.verdicts[module].alarm)
        lines = []
        for module in shown:
            verdict = self.verdicts[module]
            if verdict.why or verdict.alarm or states.BY_NAME[verdict.state].advice:
                lines.append(f"{module}: {verdict.message}")
            if module in effects:
                lines.append(f"{', '.join(effects[module])}: effects of {module}")
        if any(verdict.alarm for verdict in self.verdicts.values()):
            return lines
        outside = out_of_range(self.verdicts)
        first = ["No alarm: no fault was found in any module."]
        if outside:
            first.append(f"Out of the usual range, a heuristic: {', '.join(outside)}.")
        return [*first, *lines]

    def _explained(self) -> list[str]:
        """What each number in the tables means."""
        names = [name for sheet in self._sheets() for name in sheet.header]
        known = [self.explanations[name] for name in names if name in self.explanations]
        return [*known, SYMBOLS] if known else []

    def _sheets(self) -> list[_Sheet]:
        return [self._judged(), *([self._on_demand()] if self.measured else [])]

    def _judged(self) -> _Sheet:
        known = {name for verdict in self.verdicts.values() for name in verdict.numbers}
        columns = [name for name in SHOWN if name in known]
        rows = []
        for number, (module, verdict) in enumerate(self.verdicts.items(), start=1):
            confidence = "-" if verdict.state == "unclear" else f"{verdict.confidence:.0%}"
            texts = _texts([verdict.numbers.get(name, math.nan) for name in columns])
            for place, name in enumerate(columns):
                if _is_lost(self.history.get(name, {}).get(module, [])):
                    texts[place] = "NaN"  # the median is that of before
            rows.append((str(number), module, _state(verdict), confidence, *texts))
        header = ("#", "module", "verdict", "confidence", *columns)
        return _Sheet(f"Modules after {self.trained_steps} steps", header, rows)

    def _on_demand(self) -> _Sheet:
        rows = []
        for number, module in enumerate(self.verdicts, start=1):
            values = [numbers[module] for numbers in self.measured.values()]
            rows.append((str(number), module, *_texts(values)))
        header = ("#", "module", *self.measured)
        return _Sheet("Measured on demand, before those steps", header, rows)


def _state(verdict: Verdict) -> str:
    """The state of a module, in parentheses if it is an effect."""
    return f"({verdict.state})" if verdict.cause else verdict.state


def _is_lost(values: list[float]) -> bool:
    """Whether there were numbers, and there are none any more."""
    return all(map(math.isnan, values[-LATE:])) and any(map(math.isfinite, values))


def _cell(tag: str, column: str, text: str, hint: str | None = None) -> str:
    side = "left" if column in WORDS else "right"
    title = f' title="{html.escape(hint)}"' if hint else ""
    return f'<{tag} style="text-align:{side}"{title}>{html.escape(text)}</{tag}>'


def _texts(numbers: list[float]) -> list[str]:
    # Zero is added so that none is negative.
    return ["" if math.isnan(number) else f"{number + 0.0:.3g}" for number in numbers]


def _cleaned(value: Any) -> Any:
    """Dicts, lists and numbers as JSON has them."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {str(key): _cleaned(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(each) for each in value]
    if isinstance(value, str | bool) or value is None:
        return value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if math.isfinite(value) else None

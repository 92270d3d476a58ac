"""What `diagnose` found: in a terminal, in a notebook, as a dict and as a figure."""

import html
import io
import math
from collections.abc import Iterable
from numbers import Integral
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from keras_e2e.diagnostics import Verdict, default_quantities, states
from keras_e2e.diagnostics.quantity import Described

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


class _Sheet(NamedTuple):
    """A table as texts, one row for each module."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


class Diagnosis(NamedTuple):
    """What `diagnose` found.

    Printed (and in a notebook) it is a table of the modules, a second one of what was
    measured on demand, what each number means, and a sentence for each module that is
    unclear or that something can be done about: causes first, with their effects.

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
        console = Console(file=text, width=WIDTH, markup=False, highlight=False)
        for sheet in self._sheets():
            table = Table(
                title=sheet.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
            )
            for name in sheet.header:
                left = name in ("#", "module", "verdict")
                broken = name.replace("_", "_\n").replace("confidence", "confi-\ndence")
                table.add_column(
                    broken,
                    justify="left" if left else "right",
                    overflow="fold",
                    no_wrap=name != "module",  # the only one that is as long as it likes
                )
            for row in sheet.rows:
                table.add_row(*row)
            console.print(table)
        for lines in (self._remarks(), self._messages(), self._explained()):
            for line in lines:
                console.print(line)
            if lines:
                console.print()
        return text.getvalue().rstrip()

    def __repr__(self) -> str:
        judged = ", ".join(f"{name}: {v.state}" for name, v in self.verdicts.items())
        return f"<Diagnosis after {self.trained_steps} steps: {judged}>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        parts = []
        for sheet in self._sheets():
            rows = [
                "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
                for row in sheet.rows
            ]
            header = "".join(self._heading(name) for name in sheet.header)
            parts.append(
                f"<table><caption>{html.escape(sheet.title)}</caption><thead><tr>{header}"
                f"</tr></thead><tbody>{''.join(rows)}</tbody></table>"
            )
        lines = [*self._remarks(), *self._messages()]
        parts += [f"<p>{html.escape(line)}</p>" for line in lines]
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
        numbers = [n for found in self.measured.values() for n in found.values()]
        if any(map(math.isnan, numbers)):
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
        return lines

    def _explained(self) -> list[str]:
        """What each number in the tables means."""
        names = [name for sheet in self._sheets() for name in sheet.header]
        return [self.explanations[name] for name in names if name in self.explanations]

    def _heading(self, name: str) -> str:
        title = self.explanations.get(name)
        hint = f' title="{html.escape(title)}"' if title else ""
        return f"<th{hint}>{html.escape(name)}</th>"

    def _sheets(self) -> list[_Sheet]:
        sheets = [self._judged()]
        return [*sheets, self._on_demand()] if self.measured else sheets

    def _judged(self) -> _Sheet:
        known = {name for verdict in self.verdicts.values() for name in verdict.numbers}
        columns = [name for name in SHOWN if name in known]
        rows = []
        for number, (module, verdict) in enumerate(self.verdicts.items(), start=1):
            confidence = "" if verdict.state == "unclear" else f"{verdict.confidence:.0%}"
            numbers = [verdict.numbers.get(name, math.nan) for name in columns]
            rows.append((str(number), module, verdict.state, confidence, *_texts(numbers)))
        header = ("#", "module", "verdict", "confidence", *columns)
        return _Sheet(f"Modules after {self.trained_steps} steps", header, rows)

    def _on_demand(self) -> _Sheet:
        rows = []
        for number, module in enumerate(self.verdicts, start=1):
            values = [numbers[module] for numbers in self.measured.values()]
            rows.append((str(number), module, *_texts(values)))
        header = ("#", "module", *self.measured)
        return _Sheet("Measured on demand, before those steps", header, rows)


def explanations(quantities: Iterable[Described]) -> dict[str, str]:
    """For each number a sentence: what it is, how to read it, and what is usual."""
    return {name: _explanation(each, name) for each in quantities for name in each.columns}


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

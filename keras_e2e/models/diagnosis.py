"""What `diagnose` found, as a table in a terminal or a notebook."""

import html
import io
import math
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from keras_e2e.diagnostics import Verdict, states

# The numbers that the table shows.
SHOWN = ("loss", "gradient_snr", "signal_gain", "update_ratio", "dormant_fraction")


class _Sheet(NamedTuple):
    """A table as texts, one row for each module."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


class Diagnosis(NamedTuple):
    """What `diagnose` found.

    Printed (and in a notebook) it is a table of the modules, a second one of what was
    measured on demand, and a sentence for each module that is unclear or that something
    can be done about.

    Attributes:
        verdicts: Dict from module to its `diagnostics.Verdict`, in order.
        history: Dict from quantity to a dict from module to the list of measurements.
        steps: List of the step of each measurement: `optimizer.iterations` after it.
        measured: Dict from quantity to a dict from module to what was measured on demand,
            before those steps.
        trained_steps: Integer, the number of training steps that the diagnosis took.
    """

    verdicts: dict[str, Verdict]
    history: dict[str, dict[str, list[float]]]
    steps: list[int]
    measured: dict[str, dict[str, float]]
    trained_steps: int

    def __str__(self) -> str:
        text = io.StringIO()
        console = Console(file=text, width=110, markup=False)
        for sheet in self._sheets():
            table = Table(title=sheet.title, title_justify="left")
            for name in sheet.header:
                left = name in ("#", "module", "verdict")
                table.add_column(name, justify="left" if left else "right", overflow="fold")
            for row in sheet.rows:
                table.add_row(*row)
            console.print(table)
        for message in self._messages():
            console.print(message, highlight=False)
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
            header = "".join(f"<th>{html.escape(name)}</th>" for name in sheet.header)
            parts.append(
                f"<table><caption>{html.escape(sheet.title)}</caption><thead><tr>{header}"
                f"</tr></thead><tbody>{''.join(rows)}</tbody></table>"
            )
        parts += [f"<p>{html.escape(message)}</p>" for message in self._messages()]
        return "".join(parts)

    def _messages(self) -> list[str]:
        """Notes below the tables: on blank cells, and on modules that call for one."""
        blank = any(
            math.isnan(n) for found in self.measured.values() for n in found.values()
        )
        notes = ["Blank: the quantity does not apply to this module, or has no value here."]
        return (notes if blank else []) + [
            f"{module}: {verdict.message}"
            for module, verdict in self.verdicts.items()
            if verdict.why or states.BY_NAME[verdict.state].advice
        ]

    def _sheets(self) -> list[_Sheet]:
        sheets = [self._judged()]
        return [*sheets, self._on_demand()] if self.measured else sheets

    def _judged(self) -> _Sheet:
        rows = []
        for number, (module, verdict) in enumerate(self.verdicts.items(), start=1):
            confidence = "" if verdict.state == "unclear" else f"{verdict.confidence:.0%}"
            numbers = [verdict.numbers.get(name) for name in SHOWN]
            shown = ["" if n is None else f"{n:.3g}" for n in numbers]
            rows.append((str(number), module, verdict.state, confidence, *shown))
        header = ("#", "module", "verdict", "confidence", *SHOWN)
        return _Sheet(f"Modules after {self.trained_steps} steps", header, rows)

    def _on_demand(self) -> _Sheet:
        rows = []
        for number, module in enumerate(self.verdicts, start=1):
            values = [numbers[module] for numbers in self.measured.values()]
            shown = ["" if math.isnan(value) else f"{value:.3g}" for value in values]
            rows.append((str(number), module, *shown))
        header = ("#", "module", *self.measured)
        return _Sheet("Measured on demand, before those steps", header, rows)

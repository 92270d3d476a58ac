"""The tables of `compatibility.py`, in a terminal and in a document."""

import pathlib
import re
from collections import Counter
from typing import Any

from rich.console import Console
from rich.table import Table

# In their order, with what stands above their column.
CHECKS = {
    "cuts": "cut points",
    "halves": "largest, K=2",
    "quarters": "K=4",
    "modularize": "K tried",
    "predict": "inference",
    "train": "end to end",
    "local": "local",
    "isolated": "isolated",
    "xla": "XLA",
    "strip": "strip",
    "saved": "saved",
}
YES, WRONG, CRASH, REFUSED, STOCK = "yes", "wrong", "crash", "refused", "stock fails"
RUNNING = "running"
# From the worst on.
VERDICTS = (CRASH, WRONG, REFUSED, YES)


def verdict(run: dict[str, Any]) -> str:
    """What came out of a case, in a word."""
    found = {check["result"] for check in run["checks"].values()}
    return next((word for word in VERDICTS if word in found), CRASH)


def cell(check: str, found: dict[str, Any] | None) -> str:
    """What stands in a cell."""
    if found is None:
        return ""
    value = found.get("value")
    if found["result"] != YES or value is None:
        return found["result"]
    if check in ("halves", "quarters"):
        return f"{value:.2f}"
    return f"yes ({value:g})" if check == "xla" else f"{value}"


def rows(runs: dict[str, dict]) -> list[list[str]]:
    """A row for each case."""
    return [
        [
            name,
            verdict(run),
            *(cell(check, run["checks"].get(check)) for check in CHECKS),
            f"{run['seconds']:.0f}",
        ]
        for name, run in runs.items()
    ]


def header() -> list[str]:
    """What stands above the columns."""
    return ["model", "result", *CHECKS.values(), "seconds"]


def said(runs: dict[str, dict]) -> list[str]:
    """A line for each message of checks that are not passed."""
    lines: dict[tuple, list[str]] = {}
    for name, run in runs.items():
        for check, found in run["checks"].items():
            if found["result"] not in (YES, ""):
                text = " ".join(found.get("message", "").split())
                text += ", which names no layer" if found.get("named") is False else ""
                key = (name, found["result"], text)
                lines.setdefault(key, []).append(CHECKS.get(check, check))
    return [
        f"{name}: {', '.join(checks)}: {result}: {text}"
        for (name, result, text), checks in lines.items()
    ]


def counts(runs: dict[str, dict]) -> str:
    """How many of the cases came out how."""
    count = Counter(map(verdict, runs.values()))
    words = [f"{count[word]} {word}" for word in reversed(VERDICTS) if count[word]]
    return f"{len(runs)} models: {', '.join(words)}"


def show(title: str, runs: dict[str, dict]) -> None:
    """Prints the table of a group."""
    console = Console(width=160)
    table = Table(*header(), title=f"{title}. {counts(runs)}")
    for row in rows(runs):
        table.add_row(*row)
    console.print(table)
    for line in said(runs):
        console.print(line, markup=False, highlight=False)


def write(path: pathlib.Path, group: str, runs: dict[str, dict]) -> None:
    """Writes the table of a group between the marks of a document."""
    lines = [f"{counts(runs)}.", ""]
    lines += ["| " + " | ".join(header()) + " |", "|---" * len(header()) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows(runs)]
    messages = [line.replace("<", "&lt;") for line in said(runs)]
    lines += [""] * bool(messages) + [f"- {line}" for line in messages]
    text, table = path.read_text(), "\n".join(lines)
    pattern = f"(<!-- {group}:begin -->\n).*?(<!-- {group}:end -->)"
    replaced, found = re.subn(
        pattern, lambda m: f"{m[1]}{table}\n{m[2]}", text, flags=re.DOTALL
    )
    if not found:
        raise ValueError(f"{path} has no marks <!-- {group}:begin --> and end.")
    path.write_text(replaced)

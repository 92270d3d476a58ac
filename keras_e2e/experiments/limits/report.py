"""Reports on a sweep's results: tables, files, figures and a page.

summary     rows -> sections of cells: rates with intervals, medians
comparisons cells -> statistics of one comparison
claims      sections -> what they say on the claims, by fixed rules
figures     sections -> Matplotlib figures, drawn by `drawing`
page        all of that -> HTML, by the template
"""

import csv
import io
import json
import os
import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from keras_e2e.experiments.command import CommandError
from keras_e2e.experiments.limits import claims, drawing, figures, page, summary
from keras_e2e.experiments.limits.setting import Setting
from keras_e2e.visualization.report import ReportError, saving

PAGE, LINES, RUNS, FIGURES = "report.html", "runs.csv", "runs.json", "figures"


def write(
    rows: Iterable[tuple[Setting, dict[str, Any]]],
    folder: str | os.PathLike[str],
    console: Console | None = None,
) -> None:
    """Reports on a sweep: in the terminal, and in a folder.

    The folder gets `report.html`, one page that needs no other file and no network,
    `runs.csv` with a line for each run, `runs.json` with all of each run, and `figures`
    with PNG files. Files of the same names are replaced, each in one go; the figures of an
    earlier report on other runs are removed.

    Args:
        rows: Pairs of a `Setting` and its result, as `run.run` returns it.
        folder: Path of the folder; made if it is not there.
        console: Rich console to show the tables on. Defaults to None, the terminal.

    Raises:
        CommandError: If there are no runs, if two of them cannot be distinguished, or if
            the folder cannot be written.

    Example:

    >>> import os, tempfile
    >>> from rich.console import Console
    >>> from keras_e2e.experiments.limits import report
    >>> from keras_e2e.experiments.limits.setting import Setting
    >>> row = (Setting("parity", 2, "deep_supervision"), {"accuracy": 0.9, "success": True})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report.write([row], folder, Console(quiet=True))
    ...     sorted(os.listdir(folder))
    ['figures', 'report.html', 'runs.csv', 'runs.json']
    """
    console = console or Console()
    found = [(setting, _finite(result)) for setting, result in rows]
    if not found:
        raise CommandError("There are no runs to report on: run a sweep first.")
    sections = summary.sections(found)
    judged = claims.judge(sections)
    for section in sections:
        console.print(_table(section))
        console.print(_text(page.accounting(section)))
    for claim in judged:
        console.print(_text(f"{claim.name} {claim.claimed} This sweep: {claim.verdict}."))
    _warn(sections, console)
    drawn = [figures.of_section(section) for section in sections]
    over_labels = figures.over_labels(sections)
    try:
        os.makedirs(os.path.join(folder, FIGURES), exist_ok=True)
        _save(folder, LINES, _csv(found))
        _save(folder, RUNS, _json(found))
        names = [section.title for section in sections] + ["over labels"]
        written = set()
        for i, (name, mine) in enumerate(zip(names, [*drawn, over_labels], strict=True)):
            for j, one in enumerate(mine):
                file = f"{i + 1:02}_{_plain(name)}_{j + 1}_{one.name}.png"
                written.add(file)
                with open(os.path.join(folder, FIGURES, file), "wb") as image:
                    image.write(drawing.png(one.figure))
        _remove_others(os.path.join(folder, FIGURES), written)
        _save(folder, PAGE, page.render(sections, judged, drawn, over_labels))
    except (OSError, ReportError) as error:
        why = getattr(error.__cause__ or error, "strerror", None) or error
        raise CommandError(
            f"The report cannot be written to {os.fspath(folder)!r}: {why}. Give another "
            "--output_dir."
        ) from error
    console.print(_text(f"Page: {os.path.join(folder, PAGE)}"))


def _table(section: summary.Section) -> Table:
    table = Table(
        title=_text(section.title),
        caption="successes of seeds, median test accuracy, [95 % interval of the rate]",
    )
    table.add_column("regime")
    for k in section.sizes:
        table.add_column(f"k = {k}", justify="right")
    for regime in section.regimes:
        cells = [section.cells.get((regime, k)) for k in section.sizes]
        table.add_row(_text(regime), *map(_words, cells))
    return table


def _words(cell: summary.Cell | None) -> Text:
    if cell is None:
        return Text(page.NONE)
    low, high = cell.interval
    accuracy = page.number(cell.median("accuracy"), ".3f")
    return Text(f"{cell.successes}/{cell.seeds}, {accuracy}\n[{low:.2f}, {high:.2f}]")


def _warn(sections: list[summary.Section], console: Console) -> None:
    least = min(cell.seeds for section in sections for cell in section.rows())
    if least < claims.SEEDS:
        console.print(f"fewer than {claims.SEEDS} seeds: no claim (the least: {least})")


def _text(words: str) -> Text:
    """For the terminal: no name is taken for markup or for a command."""
    return Text(
        "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in words)
    )


def _finite(result: dict[str, Any]) -> dict[str, Any]:
    """A result in which what is not finite is None."""
    return json.loads(json.dumps(result), parse_constant=lambda _: None)


def _csv(rows: list[summary.Row]) -> str:
    lines = [summary.record(setting, result) for setting, result in rows]
    text = io.StringIO()
    columns = list(dict.fromkeys(name for line in lines for name in line))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _json(rows: list[summary.Row]) -> str:
    runs = [{"setting": vars(setting), "result": result} for setting, result in rows]
    return json.dumps(runs, allow_nan=False, indent=1)


def _save(folder: str | os.PathLike[str], name: str, text: str) -> None:
    saving.save(os.path.join(folder, name), text)


def _remove_others(folder: str, written: set[str]) -> None:
    """Removes figures of an earlier report, by their names."""
    for file in os.listdir(folder):
        if re.fullmatch(r"\d\d+_\w+_\d_[a-z]+\.png", file) and file not in written:
            os.remove(os.path.join(folder, file))


def _plain(name: str) -> str:
    """A name of letters, digits and _ alone, not too long for a file."""
    return re.sub(r"[^A-Za-z0-9]+", "_", name)[:80]

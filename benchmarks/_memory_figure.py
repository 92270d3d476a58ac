"""The figure of `memory.py`: what modules save in memory, and what they cost in error."""

import pathlib
import re
from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "results.md"
# Colors that the color-blind can tell apart, and marks.
LINES = {
    "checkpointing": ("#e69f00", "s", "end to end, checkpointing"),
    "local": ("#0072b2", "o", "local"),
    "local with remat": ("#56b4e9", "D", "local with remat"),
}
# Rows of the table of `k_sweep.py`, by what they stand for.
TRAINED = {
    "DGL": ("#0072b2", "o", "local (DGL)"),
    "`AugLocal`": ("#009e73", "^", "local (AugLocal)"),
    "deep supervision": ("#888888", "v", "deep supervision"),
}


def draw(results: Mapping[str, dict], path: pathlib.Path) -> None:
    """Draws peaks over the number of modules, and errors beside them.

    Args:
        results: Dict from case, `NETWORK/METHOD/MODULES`, to what was measured.
        path: The PNG file to write.
    """
    networks = list(dict.fromkeys(case.split("/")[0] for case in results))
    figure = Figure(figsize=(4 * (len(networks) + 1), 4), layout="constrained")
    *left, right = figure.subplots(1, len(networks) + 1)
    for axes, network in zip(left, networks, strict=True):
        _peaks(axes, network, results)
    left[0].set_ylabel("peak of a step, share of stock Keras")
    left[0].legend(fontsize=8)
    _errors(right)
    figure.savefig(path, dpi=100)


def _peaks(axes: Axes, network: str, results: Mapping[str, dict]) -> None:
    stock = results[f"{network}/stock/1"]["peak"]
    axes.axhline(1.0, color="black", linewidth=1, label="stock Keras, end to end")
    for method, (color, mark, label) in LINES.items():
        found = {
            int(case.split("/")[2]): result["peak"] / stock
            for case, result in results.items()
            if case.startswith(f"{network}/{method}/")
        }
        counts = sorted(found)
        axes.plot(
            counts, [found[k] for k in counts], mark, ls="-", color=color, label=label
        )
    axes.set_title(f"{network}: {stock:.0f} MiB end to end", fontsize=10)
    axes.set_ylim(0, 1.1)
    _modules(axes)


def _errors(axes: Axes) -> None:
    rows = _table(PAGE.read_text())
    end_to_end = rows["end to end"][0]
    axes.axhline(end_to_end, color="black", linewidth=1, label="end to end")
    for begin, (color, mark, label) in TRAINED.items():
        errors = next(values for name, values in rows.items() if name.startswith(begin))
        axes.plot((2, 4, 8), errors[1:], mark, ls="-", color=color, label=label)
    axes.set_title("what it costs: test error in % (k_sweep.py)", fontsize=10)
    axes.legend(fontsize=8)
    axes.set_ylim(15, None)
    _modules(axes)


def _modules(axes: Axes) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks([2, 4, 8, 16], ["2", "4", "8", "16"])
    axes.set_xlabel("modules")
    axes.spines[["top", "right"]].set_visible(False)


def _table(text: str) -> dict[str, list[float]]:
    """The mean errors of each training in the table of `k_sweep.py`, K=1 first."""
    (table,) = re.findall("<!-- ksweep:begin -->(.*?)<!-- ksweep:end -->", text, re.DOTALL)
    rows = {}
    for line in table.strip().splitlines()[2:]:
        name, _, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        means = [cell.split(" ")[0] for cell in cells]
        rows[name] = [float(mean) if mean else float("nan") for mean in means]
    return rows

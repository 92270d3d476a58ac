"""Tables and curves of `rewards_minigrid`."""

import pathlib
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

import _minigrid as grid
import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

import keras_e2e as e2e

REACHED = 0.8
"""The mean return that the table says the environment steps to."""


def values_of(runs: list[dict], world: str, regime: str, name: str) -> list:
    """What the runs of a regime have under a name, by seed."""
    found = [r for r in runs if r["world"] == world and r["regime"] == regime]
    return [run.get(name) for run in sorted(found, key=lambda run: run["seed"])]


def worlds_of(runs: list[dict]) -> list[str]:
    """The worlds that there are runs of."""
    return [name for name in grid.WORLDS if any(r["world"] == name for r in runs)]


def report(runs: list[dict], world: str, regimes: Iterable[str]) -> Table:
    """What became of the runs in a world, by regime; of several seeds the median."""
    steps = max(run["env_steps"] for run in runs if run["world"] == world)
    table = Table(title=f"{world}: {steps:,} environment steps")
    table.add_column("perception trained by")
    for column in (
        "seeds",
        "return halfway",
        "at the end",
        f"above {REACHED} from",
        "goals",
        "clipped",
    ):
        table.add_column(column, justify="right")
    table.add_column("gradient SNR: perception, memory, policy", justify="right")
    for regime in regimes:
        curves = values_of(runs, world, regime, "curve")
        if not curves:
            continue
        snr = values_of(runs, world, regime, "snr")
        found = values_of(runs, world, regime, "success")
        successes = [value for value in found if value is not None]
        table.add_row(
            regime,
            str(len(curves)),
            spread([curve[len(curve) // 2 - 1] for curve in curves]),
            spread([curve[-1] for curve in curves]),
            reached(curves),
            f"{statistics.mean(successes):.0%}" if successes else "-",
            clipped(values_of(runs, world, regime, "clipped")),
            ", ".join(middle([run[module] for run in snr]) for module in snr[0]),
        )
    return table


def spread(values: list[float | None]) -> str:
    """The median, and from where to where."""
    there = [0.0 if value is None else value for value in values]
    text = f"{statistics.median(there):.2f}"
    return text if len(there) < 2 else f"{text} ({min(there):.2f} to {max(there):.2f})"


def reached(curves: list[list]) -> str:
    """From how many thousand environment steps on the mean return stays above `REACHED`.

    Not where it is for the first time: before many episodes have ended, those that were
    lucky have.
    """
    firsts = []
    for curve in curves:
        below = [i for i, value in enumerate(curve) if value is None or value < REACHED]
        first = below[-1] + 2 if below else 1
        firsts.append(first if first <= len(curve) else np.inf)
    steps = statistics.median_high(firsts) * grid.STEPS * grid.NUM_ENVS / 1000
    return "not" if np.isinf(steps) else f"{steps:.0f}k"


def clipped(shares: list[list | None]) -> str:
    """The mean share of actions that PPO clipped; a dash where that was not noted."""
    noted = [[value for value in run or () if value is not None] for run in shares]
    there = [statistics.mean(run) for run in noted if run]
    return f"{statistics.median(there):.1%}" if there else "-"


def middle(series: list[list]) -> str:
    """The median over runs of each run's median; a dash where nothing was measured."""
    medians = [
        statistics.median(k) for s in series if (k := [v for v in s if v is not None])
    ]
    return f"{statistics.median(medians):.2f}" if medians else "-"


def draw(runs: list[dict], colors: Mapping[str, str], path: pathlib.Path) -> None:
    """Draws returns over environment steps, and below the SNR end to end, by world."""
    worlds = worlds_of(runs)
    figure = Figure(figsize=(4.4 * len(worlds), 7.4), layout="constrained")
    rows = figure.subplots(2, len(worlds), squeeze=False)
    handles: dict[str, Any] = {}
    for world, above, below in zip(worlds, *rows, strict=True):
        for name, color in colors.items():
            for line in lines(above, values_of(runs, world, name, "curve"), color):
                handles[name] = line
        above.set(title=world, ylim=(0, 1))
        snr = values_of(runs, world, "end to end", "snr")
        for module, style in zip((snr or [{}])[0], ("-", "--", ":"), strict=False):
            for line in lines(below, [run[module] for run in snr], "#c0392b", ls=style):
                line.set_label({"outputs": "policy"}.get(module, module))
        below.axhline(e2e.diagnostics.gradients.SNR_FLOOR, color="gray", lw=0.8)
        below.set(xlabel="environment steps (thousands)", yscale="symlog", ylim=(0, 10))
        below.set_yscale("symlog", linthresh=0.02)
        if snr:
            below.legend(fontsize=8)
        for axes in (above, below):
            axes.grid(alpha=0.25)
    rows[0, 0].set_ylabel("mean return of the latest 100 episodes")
    rows[1, 0].set_ylabel("gradient SNR, end to end")
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def lines(axes: Any, curves: list[list], color: str, ls: str = "-") -> list:
    """Draws the median of curves with an entry for each epoch, and each of several."""
    if not curves:
        return []
    length = min(map(len, curves))
    values = np.array([c[:length] for c in curves], "float64")
    steps = grid.STEPS * grid.NUM_ENVS * np.arange(1, length + 1) / 1000
    for curve in values if len(values) > 1 else ():
        axes.plot(steps, curve, color=color, lw=0.4, alpha=0.35, ls=ls)
    return axes.plot(steps, np.median(values, axis=0), color=color, lw=1.7, ls=ls)

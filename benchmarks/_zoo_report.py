"""The tables of `verdicts.py`, from the files of its runs."""

import collections
import itertools
import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from _zoo_faults import FAULTS
from rich.console import Console
from rich.table import Table

from keras_e2e.diagnostics import judge

JUDGED_AT = (100, 300, 1000, 2000)
# Of what training achieves, what as many steps again may bring to a converged model.
CONVERGED = 0.02
BINS = (0.5, 0.9, 0.95, 0.98, 1.01)


class Judged(NamedTuple):
    """The verdict on one module at one step of a run.

    Attributes:
        run: Dict, the run's file.
        step: Integer.
        module: String.
        verdict: The `Verdict`.
        right: Boolean, whether it is what it should be; None where nobody can tell.
    """

    run: dict[str, Any]
    step: int
    module: str
    verdict: Any
    right: bool | None


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a rate (Wilson 1927)."""
    if not count:
        return 0.0, 1.0
    z, rate = 1.96, hits / count
    middle = rate + z * z / (2 * count)
    half = z * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    return (middle - half) / (1 + z * z / count), (middle + half) / (1 + z * z / count)


def judged(folder: pathlib.Path, seeds: int) -> Iterator[Judged]:
    """All verdicts on all runs."""
    for path in sorted(folder.glob("*.json")):
        run = json.loads(path.read_text())
        if run["kind"] == "fault":
            run["states"] = FAULTS[run["name"]].states
        if int(path.stem.rsplit(" ", 1)[1]) >= seeds:
            continue
        for step in JUDGED_AT:
            count = sum(s * run["accumulated"] <= step for s in run["steps"])
            if run["steps"][-1] * run["accumulated"] < 0.9 * step:
                continue
            history = {
                quantity: {module: values[:count] for module, values in by_module.items()}
                for quantity, by_module in run["history"].items()
            }
            verdicts = judge(history, run["steps"][:count])
            for module, verdict in verdicts.items():
                right = _right(run, step, module, verdict, verdicts)
                yield Judged(run, step, module, verdict, right)


def _right(run: dict, step: int, module: str, verdict: Any, verdicts: dict) -> bool | None:
    """Whether a verdict is right."""
    if verdict.state == "unclear":
        return None
    if run["kind"] == "healthy":
        if verdict.state in ("converged", "stalled"):
            brought = gain_of_as_many_steps(run, step)
            return None if brought is None else brought < CONVERGED
        return not verdict.alarm
    if run["module"] not in (None, module):
        return None  # what else a fault does to the others is not known
    if run["module"] is None and verdict.cause:
        return None
    return verdict.state in run["states"]


def gain_of_as_many_steps(run: dict, step: int) -> float | None:
    """By how much as many steps again lowered the held-out loss, of what was gained."""
    losses = {int(at): loss for at, loss in run["held_out"].items()}
    if step not in losses or 2 * step not in losses:
        return None
    gained = losses[0] - losses[step]
    return (losses[step] - losses[2 * step]) / gained if gained > 0 else math.inf


def report(folder: pathlib.Path, seeds: int, console: Console) -> None:
    """Prints the tables, and writes their numbers."""
    found = list(judged(folder, seeds))
    for unseen, title in ((False, "settings seen"), (True, "settings unseen")):
        part = [j for j in found if j.run["unseen"] == unseen]
        if part:
            console.print(_healthy_table([j for j in part if _healthy(j)], title))
            console.print(_fault_table([j for j in part if not _healthy(j)], title))
            console.print(_summary(part, title), highlight=False)
    console.print(_reliability_table(found))


def _healthy(one: Judged) -> bool:
    return one.run["kind"] == "healthy"


def _healthy_table(found: list[Judged], title: str) -> Table:
    table = Table(
        title=f"Healthy trainings, {title}: modules by state", title_justify="left"
    )
    for column in ("setting", *map(str, JUDGED_AT), "false alarms"):
        table.add_column(column, justify="right" if column == "false alarms" else "left")
    for name in dict.fromkeys(j.run["name"] for j in found):
        own = [j for j in found if j.run["name"] == name]
        cells = [
            _counts(j.verdict.state for j in own if j.step == step) for step in JUDGED_AT
        ]
        alarms = sum(j.verdict.alarm for j in own)
        table.add_row(name, *cells, f"{alarms}/{len(own)}")
    return table


def _counts(states: Any) -> str:
    counted = collections.Counter(states).most_common()
    return ", ".join(f"{count} {state}" for state, count in counted)


def _fault_table(found: list[Judged], title: str) -> Table:
    table = Table(title=f"Planted faults, {title}", title_justify="left")
    for column in (
        "fault",
        "should be",
        "runs",
        "at",
        "named",
        "right module first",
        "else",
    ):
        table.add_column(column, justify="left")
    for name in dict.fromkeys(j.run["name"] for j in found):
        for step in JUDGED_AT:
            runs = _by_run([j for j in found if j.run["name"] == name and j.step == step])
            if not runs:
                continue
            named, first = sum(map(is_named, runs)), sum(map(is_first, runs))
            missed = [run for run in runs if not is_named(run)]
            table.add_row(
                name if step == JUDGED_AT[0] else "",
                " or ".join(runs[0][0].run["states"]) if step == JUDGED_AT[0] else "",
                str(len(runs)),
                str(step),
                f"{named}/{len(runs)}",
                f"{first}/{len(runs)}",
                _counts(_what(run) for run in missed),
            )
    return table


def _by_run(found: list[Judged]) -> list[list[Judged]]:
    runs = collections.defaultdict(list)
    for one in found:
        runs[id(one.run)].append(one)
    return list(runs.values())


def is_named(run: list[Judged]) -> bool:
    """Whether the fault is named: at its module, or at any for a fault of all."""
    place = run[0].run["module"]
    return any(
        j.verdict.state in j.run["states"] and place in (None, j.module) for j in run
    )


def is_first(run: list[Judged]) -> bool:
    """Whether the first alarm is at the right module, with the right name."""
    alarms = [j for j in run if j.verdict.alarm]
    place = run[0].run["module"]
    return bool(
        alarms
        and place in (None, alarms[0].module)
        and alarms[0].verdict.state in alarms[0].run["states"]
    )


def _what(run: list[Judged]) -> str:
    alarms = [j.verdict.state for j in run if j.verdict.alarm]
    return alarms[0] if alarms else run[-1].verdict.state


def _summary(found: list[Judged], title: str) -> str:
    healthy = [j for j in found if _healthy(j)]
    faults = [j for j in found if not _healthy(j)]
    late = [run for run in _by_step(faults) if run[0].step >= 300]
    rests = [j for j in healthy if j.verdict.state == "converged" and j.right is not None]
    lines = [f"{title}:"]
    for what, hits, count in (
        (
            "false alarms on healthy modules",
            sum(j.verdict.alarm for j in healthy),
            len(healthy),
        ),
        ("faults named from step 300 on", sum(map(is_named, late)), len(late)),
        ("... with the right module first", sum(map(is_first, late)), len(late)),
        (
            "converged confirmed by training on",
            sum(bool(j.right) for j in rests),
            len(rests),
        ),
        (
            "unclear from step 300 on",
            sum(j.verdict.state == "unclear" for j in found if j.step >= 300),
            sum(j.step >= 300 for j in found),
        ),
    ):
        low, high = wilson(hits, count)
        share = hits / count if count else math.nan
        lines.append(
            f"  {what}: {hits} of {count:,} ({share:.1%}; 95 %: {low:.1%} to {high:.1%})"
        )
    return "\n".join(lines)


def _by_step(found: list[Judged]) -> list[list[Judged]]:
    return [
        run for step in JUDGED_AT for run in _by_run([j for j in found if j.step == step])
    ]


def _reliability_table(found: list[Judged]) -> Table:
    table = Table(title="Confidence against how many are right", title_justify="left")
    for column in ("confidence", "verdicts", "mean confidence", "right", "95 %"):
        table.add_column(column, justify="right")
    known = [j for j in found if j.right is not None]
    for low, high in itertools.pairwise(BINS):
        own = [j for j in known if low <= j.verdict.confidence < high]
        if not own:
            continue
        hits = sum(bool(j.right) for j in own)
        ends = wilson(hits, len(own))
        mean = sum(j.verdict.confidence for j in own) / len(own)
        table.add_row(
            f"{low:.2f} to {min(high, 1.0):.2f}",
            str(len(own)),
            f"{mean:.3f}",
            f"{hits / len(own):.3f}",
            f"{ends[0]:.3f} to {ends[1]:.3f}",
        )
    return table

"""The page on a sweep: numbers, claims and figures put into the template."""

import datetime
from collections.abc import Sequence
from typing import NamedTuple

import jinja2
from markupsafe import Markup

from keras_e2e.experiments.limits import drawing
from keras_e2e.experiments.limits.claims import DOES_NOT, NO_CLAIM, SEEDS, SUPPORTS, Claim
from keras_e2e.experiments.limits.figures import Drawn
from keras_e2e.experiments.limits.summary import Cell, Section, known

NONE = "\N{EN DASH}"


class Chart(NamedTuple):
    """A figure in the page.

    Attributes:
        title: String, what it shows.
        caption: String, how to read it.
        svg: `Markup`, the SVG element.
    """

    title: str
    caption: str
    svg: Markup


def render(
    sections: Sequence[Section],
    claims: Sequence[Claim],
    figures: Sequence[Sequence[Drawn]],
    over_labels: Sequence[Drawn],
) -> str:
    """The whole page as a text.

    Args:
        sections: List of the sections of the sweep.
        claims: List of the claims and what the sweep says on them.
        figures: List with the figures of each section.
        over_labels: List of the figures that go beyond one section.
    """
    # The styles of the other page, and how it frames its tables.
    loader = jinja2.ChoiceLoader(
        [
            jinja2.PackageLoader("keras_e2e.experiments.limits"),
            jinja2.PackageLoader("keras_e2e.visualization.report"),
        ]
    )
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "accounting": accounting,
        "costs": costs,
        "kind": _kind,
        "rate": "{:.2f}".format,
        "spread": spread,
    }
    cells = [cell for section in sections for cell in section.rows()]
    runs = {setting for cell in cells for setting, _ in cell.runs}
    return environment.get_template("limits.html").render(
        sections=sections,
        claims=claims,
        verdicts=(SUPPORTS, DOES_NOT, NO_CLAIM),
        charts=[_charts(mine, f"s{i}") for i, mine in enumerate(figures, start=1)],
        over_labels=_charts(over_labels, "labels"),
        runs=len(runs),
        few=SEEDS if min(cell.seeds for cell in cells) < SEEDS else None,
        made=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %z"),
        light=_declared(dark=False),
        dark=_declared(dark=True),
    )


def accounting(section: Section) -> str:
    """Which regimes saw intermediate labels, and how many."""
    labeled: dict[str, list[str]] = {}
    free = []
    for regime in section.regimes:
        counts = {
            cell.k: count
            for cell in section.rows()
            if cell.regime == regime
            and (count := cell.median("spent", "labels")) is not None
        }
        if any(counts.values()):
            found = ", ".join(f"{count:,.0f} at k = {k}" for k, count in counts.items())
            labeled.setdefault(found, []).append(regime)
        elif counts:
            free.append(regime)
    groups = [f"{', '.join(names)} ({found})" for found, names in labeled.items()]
    return (
        f"Intermediate labels given to: {'; '.join(groups) or 'no regime'}. "
        f"Without any: {', '.join(free) or 'no regime'}."
    )


def spread(cell: Cell, name: str) -> str:
    """Median, least and most of the seeds, which a mean would hide."""
    values = known(cell.values(name))
    if not values:
        return NONE
    return f"{cell.median(name):.3f} ({min(values):.3f} to {max(values):.3f})"


def costs(cell: Cell, section: Section) -> list[str]:
    """What training took and the modules learned: medians, in the order of the table."""
    spent = [
        number(cell.median("spent", name), ",.0f")
        for name in ("labels", "parameters", "steps", "examples")
    ]
    rates = sorted({setting.learning_rate for setting, _ in cell.runs})
    reached = known(cell.values("reached"))
    when = f"{number(cell.median('reached'), ',.0f')} in {len(reached)} of {cell.seeds}"
    return [
        *spent,
        number(cell.median("spent", "seconds"), ".1f"),
        ", ".join(f"{rate:.2g}" for rate in rates),
        number(cell.median("ceiling"), ".3f"),
        *(number(cell.median("modules", m, "purity"), ".3f") for m in section.modules),
        when if reached else f"never in {cell.seeds}",
    ]


def number(value: float | None, form: str) -> str:
    """In that format, or a dash where there is none."""
    return NONE if value is None else format(value, form)


def _charts(drawn: Sequence[Drawn], prefix: str) -> list[Chart]:
    return [
        Chart(
            one.title,
            one.caption,
            drawing.inline(one.figure, f"{prefix}-{i}-{one.name}", one.title),
        )
        for i, one in enumerate(drawn)
    ]


def _kind(verdict: str) -> str:
    """The class of a verdict in the style sheet."""
    if verdict in (SUPPORTS, DOES_NOT):
        return "supports" if verdict == SUPPORTS else "against"
    return "mixed" if verdict.startswith(SUPPORTS) else "open"


def _declared(dark: bool) -> str:
    return " ".join(f"--{name}: {value};" for name, value in drawing.colors(dark).items())

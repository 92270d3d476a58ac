"""What a sweep says on the four claims of Glasmachers 2017, by the rules below.

"Limits of End-to-End Learning" (ACML 2017). The tasks are not those of the paper.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from keras_e2e.experiments.limits import comparisons
from keras_e2e.experiments.limits.comparisons import AT_CHANCE, SIGNIFICANT, Comparison
from keras_e2e.experiments.limits.summary import Cell, Section

SUPPORTS, DOES_NOT, NO_CLAIM = "supports", "does not support", "no claim"
NOT_MEASURED = "not measured"

# Failure comes by seeds: a rate of fewer says nothing.
SEEDS = 10

END_TO_END = "end_to_end"
# The regimes that end to end is compared with. For C1 and C2: those of the whole network.
WHOLE = ("deep_supervision", "greedy")
STRUCTURED = (
    "deep_supervision",
    "local",
    "local_then_end_to_end",
    "greedy",
    "independent",
    "pretrained",
)


class Finding(NamedTuple):
    """What one comparison says.

    Attributes:
        where: String, the title of the section.
        subject: String, the regime that was judged, or that end to end was compared with.
        k: Integer, the size of the task.
        numbers: String, what was measured.
        verdict: String, `SUPPORTS`, `DOES_NOT` or `NO_CLAIM`.
    """

    where: str
    subject: str
    k: int
    numbers: str
    verdict: str


class Claim(NamedTuple):
    """A claim and what the sweep says on it.

    Attributes:
        name: String, `"C1"` to `"C4"`.
        claimed: String, the claim, in our words.
        rule: String, what is measured, and what counts as support.
        findings: List of `Finding` tuples, one for each comparison.
    """

    name: str
    claimed: str
    rule: str
    findings: list[Finding]

    @property
    def verdict(self) -> str:
        """All findings in one word, or how many support the claim."""
        found = [one.verdict for one in self.findings if one.verdict != NO_CLAIM]
        if not self.findings:
            return NOT_MEASURED
        if not found:
            return NO_CLAIM
        if len(set(found)) == 1:
            return found[0]
        return f"{SUPPORTS} in {found.count(SUPPORTS)} of {len(found)} comparisons"

    def places(self, verdict: str) -> dict[str, list[str]]:
        """By section: which regimes the verdict was found for, and at which k."""
        sizes: dict[str, dict[str, list[str]]] = {}
        for one in self.findings:
            if one.verdict == verdict:
                here = sizes.setdefault(one.where, {})
                here.setdefault(one.subject, []).append(str(one.k))
        return {
            where: [f"{name} at k = {', '.join(ks)}" for name, ks in found.items()]
            for where, found in sizes.items()
        }


def judge(sections: Sequence[Section]) -> list[Claim]:
    """What a sweep says on each claim.

    Args:
        sections: List of the sections of the sweep, from `summary.sections`.

    Returns:
        The four claims, in order.
    """
    few = f"Fewer than {SEEDS} seeds"
    return [
        Claim(
            "C1",
            "End-to-end training of several non-trivial modules is inefficient.",
            "The step at which the training accuracy is above the mark, over the seeds, "
            "against deep supervision and greedy training; all stages count, and a run "
            "that never gets there counts as later than all others. Supports: end to end "
            "is later by the two-sided Mann-Whitney U test (normal approximation, "
            f"corrected for ties), p < {SIGNIFICANT}. {few} on either side: no claim.",
            _against(sections, WHOLE, comparisons.inefficiency),
        ),
        Claim(
            "C2",
            "In the worst case none of the modules learns.",
            "The share of seeds that break down. A run has broken down if its test "
            "accuracy is at chance and so is its first module: the accuracy that a "
            "perfect model downstream could reach on what the first module gets wrong "
            "(the ceiling). "
            f"At chance means less than {100 * AT_CHANCE:.0f} % of the way from chance to "
            "1. Supports: the 95 % interval (Newcombe) of the share end to end minus the "
            "share of the other regime, which trains the same network, lies above 0. "
            f"{few} on either side: no claim.",
            _against(sections, WHOLE, comparisons.breakdown),
        ),
        Claim(
            "C3",
            "Each module is able to learn when the others are trained and frozen.",
            "last_first: the earlier modules through a trained and frozen last one; "
            "greedy: the last module on trained and frozen earlier ones, in the "
            "seeds whose first module allows the mark by its ceiling. Supports: the 95 % "
            "interval (Wilson) of the rate of success lies above one half: most seeds "
            f"learn. {few}: no claim.",
            [found for section in sections for found in _alone(section)],
        ),
        Claim(
            "C4",
            "Simple modules are to be trained first, apart from the rest of the network.",
            "The rate of success of regimes that train modules by their own intermediate "
            "labels, at equal steps. Supports: the 95 % interval (Newcombe) of their rate "
            "minus that of end to end lies above 0. End to end sees no such label, so this "
            f"is no comparison at equal knowledge. {few} on either side: no claim.",
            _against(sections, STRUCTURED, comparisons.structure),
        ),
    ]


def _against(
    sections: Sequence[Section],
    regimes: Sequence[str],
    compare: Callable[[Cell, Cell], Comparison | None],
) -> list[Finding]:
    """Compares end to end with each of the regimes, at each size of each section."""
    findings = []
    for section in sections:
        for regime in regimes:
            for k in section.sizes:
                mine = section.cells.get((END_TO_END, k))
                other = section.cells.get((regime, k))
                found = compare(mine, other) if mine and other else None
                if found:
                    findings.append(_finding(section, regime, k, found))
    return findings


def _alone(section: Section) -> Iterator[Finding]:
    """For C3: modules that learn while the others are frozen."""
    for k in section.sizes:
        cell = section.cells.get(("last_first", k))
        if cell:
            subject = "last_first (earlier modules through a frozen last one)"
            independent = section.cells.get(("independent", k))
            found = comparisons.through_frozen(cell, independent)
            yield _finding(section, subject, k, found)
    for k in section.sizes:
        cell = section.cells.get(("greedy", k))
        learned = comparisons.last_on_frozen(cell) if cell else None
        if learned:
            subject = "greedy (last module on frozen earlier ones)"
            yield _finding(section, subject, k, learned)


def _finding(section: Section, subject: str, k: int, found: Comparison) -> Finding:
    verdict = SUPPORTS if found.supports else DOES_NOT
    if found.seeds < SEEDS:
        verdict = NO_CLAIM
    return Finding(section.title, subject, k, found.numbers, verdict)

"""The numbers of a sweep: rates of success with intervals, medians over seeds."""

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from scipy.stats import binomtest

from keras_e2e.experiments.command import CommandError
from keras_e2e.experiments.limits.names import BY_REWARD, REGIMES, WITHOUT_LABELS
from keras_e2e.experiments.limits.setting import Setting

Interval = tuple[float, float]
Row = tuple[Setting, dict[str, Any]]


class Cell(NamedTuple):
    """The runs of one regime at one size, which differ in their seeds.

    Attributes:
        regime: String, the name of the way of training.
        k: Integer, the size of the task.
        runs: Tuple of pairs `(setting, result)`, in the order of their seeds.

    Example:

    >>> from keras_e2e.experiments.limits.setting import Setting
    >>> from keras_e2e.experiments.limits.summary import Cell
    >>> rows = [(Setting("parity", 2, "local", seed=i), {"success": i > 0}) for i in (0, 1)]
    >>> cell = Cell("local", 2, tuple(rows))
    >>> cell.successes, cell.seeds, [round(end, 2) for end in cell.interval]
    (1, 2, [0.09, 0.91])
    """

    regime: str
    k: int
    runs: tuple[Row, ...]

    @property
    def seeds(self) -> int:
        """How many runs there are."""
        return len(self.runs)

    @property
    def successes(self) -> int:
        """How many of them have a test accuracy of at least the mark."""
        return sum(bool(value) for value in self.values("success"))

    @property
    def interval(self) -> Interval:
        """The 95 % interval of the rate of success."""
        return wilson(self.successes, self.seeds)

    @property
    def reached(self) -> list[float]:
        """The step at which each run was above the mark in training; infinite: never."""
        return [math.inf if step is None else step for step in self.values("reached")]

    def values(self, *path: str) -> list[Any]:
        """What each run has under these keys, None where it has nothing there."""
        return [_at(result, path) for _, result in self.runs]

    def median(self, *path: str) -> float | None:
        """The median of the runs that have a number there; None if none has."""
        found = known(self.values(*path))
        return statistics.median(found) if found else None


class Conditions(NamedTuple):
    """What runs share that can be compared, apart from their labels.

    Attributes:
        task: String, the name of the task.
        data: String, the name of the images.
        steps: Integer, the training steps.
        batch_size: Integer, the examples in a batch.
        examples: Integer, the training examples.
    """

    task: str
    data: str
    steps: int
    batch_size: int
    examples: int

    def words(self, labels: str | None = None) -> str:
        """For people, with the number of labels if it is given."""
        kind = "environment steps" if self.task in BY_REWARD else "steps"
        words = [f"{self.task} on {self.data}", f"{self.steps} {kind}"]
        if labels is not None:
            words.insert(1, labels)
        if self.batch_size != Setting.batch_size:
            words.append(f"batches of {self.batch_size}")
        if self.examples != Setting.examples:
            words.append(f"{self.examples} examples")
        return ", ".join(words)


class Section(NamedTuple):
    """All runs that can be compared with each other.

    Ways of training that see no intermediate label stand in the section of every number
    of labels, at the sizes that the others have there.

    Attributes:
        conditions: `Conditions` that they share.
        labels: Integer or `None`: the number of training images whose label is known;
            `None` for all.
        cells: Dict from `(regime, k)` to the `Cell` with its runs.
    """

    conditions: Conditions
    labels: int | None
    cells: dict[tuple[str, int], Cell]

    @property
    def title(self) -> str:
        """In a few words, for people."""
        labels = "all" if self.labels is None else str(self.labels)
        return self.conditions.words(f"{labels} labels")

    @property
    def regimes(self) -> list[str]:
        """The regimes in the order of `names.REGIMES`, unknown ones last."""
        order = {name: i for i, name in enumerate(REGIMES)}
        names = {regime for regime, _ in self.cells}
        return sorted(names, key=lambda name: (order.get(name, len(order)), name))

    @property
    def sizes(self) -> list[int]:
        """The values of k, ascending."""
        return sorted({k for _, k in self.cells})

    @property
    def modules(self) -> list[str]:
        """The modules that have labels, in order."""
        results = [result for cell in self.cells.values() for _, result in cell.runs]
        return list(dict.fromkeys(name for r in results for name in r.get("modules") or {}))

    def rows(self) -> list[Cell]:
        """The cells, by regime and then by size."""
        pairs = itertools.product(self.regimes, self.sizes)
        return [self.cells[pair] for pair in pairs if pair in self.cells]


def sections(rows: Iterable[Row]) -> list[Section]:
    """Sorts the runs of a sweep into what can be compared.

    Args:
        rows: Pairs of a setting and its result, in any order.

    Returns:
        The sections, in the order in which the rows name them, more labels first.

    Raises:
        CommandError: If two runs differ in nothing that the report shows, as with two
            learning rates of one regime.
    """
    groups: dict[Conditions, list[Row]] = {}
    for setting, result in rows:
        shared = Conditions(*(getattr(setting, name) for name in Conditions._fields))
        groups.setdefault(shared, []).append((setting, result))
    found = []
    for conditions, mine in groups.items():
        free = [row for row in mine if row[0].regime in WITHOUT_LABELS]
        others = [row for row in mine if row[0].regime not in WITHOUT_LABELS]
        budgets = {setting.labels for setting, _ in others} or {None}
        for labels in sorted(budgets, key=_amount, reverse=True):
            here = [row for row in others if row[0].labels == labels]
            sizes = {setting.k for setting, _ in here}
            here += [row for row in free if not sizes or row[0].k in sizes]
            found.append(Section(conditions, labels, _cells(here)))
        # Sizes at which nothing sees labels stand in a section of their own.
        sizes = {setting.k for setting, _ in others}
        left = [row for row in free if sizes and row[0].k not in sizes]
        if left:
            found.append(Section(conditions, None, _cells(left)))
    return found


def wilson(count: int, total: int) -> Interval:
    """Wilson's 95 % interval of a rate.

    Example:

    >>> from keras_e2e.experiments.limits.summary import wilson
    >>> [round(end, 3) for end in wilson(10, 10)]
    [0.722, 1.0]
    """
    found = binomtest(count, total).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def newcombe(count: int, total: int, other: int, total_other: int) -> Interval:
    """Newcombe's 95 % interval of the difference of two rates, the first minus the other.

    The hybrid score interval (Newcombe 1998, method 10), for independent runs. Seeds that
    two regimes share make it wider than it needs to be, if anything.

    Example:

    >>> from keras_e2e.experiments.limits.summary import newcombe
    >>> [round(end, 2) for end in newcombe(10, 10, 0, 10)]
    [0.61, 1.0]
    """
    rate, rate_other = count / total, other / total_other
    (low, high), (low_other, high_other) = (
        wilson(count, total),
        wilson(other, total_other),
    )
    difference = rate - rate_other
    return (
        difference - math.hypot(rate - low, high_other - rate_other),
        difference + math.hypot(high - rate, rate_other - low_other),
    )


def known(values: Iterable[float | None]) -> list[float]:
    """Those that are numbers."""
    return [value for value in values if value is not None]


def record(setting: Setting, result: dict[str, Any]) -> dict[str, Any]:
    """A run as one flat line: the setting, and of the result all but the series."""
    names = ("accuracy", "validation", "success", "reached", "ceiling", "chance", "mark")
    line = {**vars(setting), **{name: result.get(name) for name in names}}
    line |= {f"spent_{name}": value for name, value in (result.get("spent") or {}).items()}
    for module, values in (result.get("modules") or {}).items():
        line |= {f"{name}_{module}": value for name, value in values.items()}
    return line


def _cells(rows: Sequence[Row]) -> dict[tuple[str, int], Cell]:
    by_pair: dict[tuple[str, int], dict[int, Row]] = {}
    for setting, result in rows:
        runs = by_pair.setdefault((setting.regime, setting.k), {})
        if setting.seed in runs:
            raise CommandError(
                f"Two runs of {setting.regime} on {setting.task}, k={setting.k}, with the "
                f"seed {setting.seed}, for one table: {runs[setting.seed][0]} and "
                f"{setting}. Report one learning rate of each regime at a time."
            )
        runs[setting.seed] = (setting, result)
    return {
        pair: Cell(*pair, tuple(runs[seed] for seed in sorted(runs)))
        for pair, runs in by_pair.items()
    }


def _amount(labels: int | None) -> float:
    return math.inf if labels is None else labels


def _at(result: Any, path: Sequence[str]) -> Any:
    for key in path:
        result = result.get(key) if isinstance(result, dict) else None
    return result

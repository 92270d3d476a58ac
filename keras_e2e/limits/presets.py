"""Sweeps that are ready to run, as data."""

import dataclasses
import itertools

from keras_e2e.limits.setting import Setting

# The seeds of tuning begin here, those of the runs that are reported end before.
FIRST_TUNING_SEED = 1_000_000


@dataclasses.dataclass(frozen=True)
class Grid:
    """All combinations of some values; the fields are those of a `Setting`, in plural.

    Attributes:
        seeds: how many, from 0 on.

    Example:

    >>> from keras_e2e.limits.presets import Grid
    >>> grid = Grid(k=(3, 4), regimes=("end_to_end", "joint"), seeds=10)
    >>> len(grid.settings())
    40
    """

    task: tuple[str, ...] = ("parity",)
    k: tuple[int, ...] = (3, 4)
    data: tuple[str, ...] = ("digits",)
    regimes: tuple[str, ...] = ("end_to_end",)
    labels: tuple[int | None, ...] = (None,)
    seeds: int = 10
    steps: int = Setting.steps
    batch_size: int = Setting.batch_size
    learning_rate: float = Setting.learning_rate
    examples: int = Setting.examples

    def settings(self) -> list[Setting]:
        """The settings, all seeds of one combination behind each other."""
        axes = (self.task, self.k, self.data, self.regimes, self.labels, range(self.seeds))
        return [
            Setting(
                task,
                k,
                regime,
                data,
                labels,
                seed,
                self.steps,
                self.batch_size,
                self.learning_rate,
                self.examples,
            )
            for task, k, data, regime, labels, seed in itertools.product(*axes)
        ]


PRESETS: dict[str, tuple[Grid, ...]] = {
    # Where end-to-end training breaks down, and what repairs it.
    "quick": (
        Grid(
            regimes=(
                "end_to_end",
                "joint",
                "step_by_step",
                "local_then_end_to_end",
                "auto",
            ),
        ),
    ),
    # All regimes on all tasks over digits, on other images, and with fewer labels.
    "paper": (
        Grid(
            task=("parity", "sum_mod_10", "random_table"),
            k=(1, 2, 3, 4),
            regimes=(
                "end_to_end",
                "joint",
                "local",
                "step_by_step",
                "local_then_end_to_end",
                "last_first",
                "independent",
                "auto",
                "pretrained_reconstruction",
                "pretrained_barlow_twins",
                "curriculum",
            ),
        ),
        Grid(
            data=("fashion_mnist",),
            regimes=("end_to_end", "joint", "local_then_end_to_end", "auto"),
        ),
        Grid(
            k=(4,),
            regimes=("joint", "step_by_step", "local_then_end_to_end", "auto"),
            labels=(10, 30, 100, 300, 1000, None),
        ),
    ),
}
"""Sweeps by name: each is all that its grids hold."""

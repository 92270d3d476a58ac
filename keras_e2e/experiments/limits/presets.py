"""Sweeps that are ready to run, as data."""

import dataclasses
import itertools

from keras_e2e.experiments.limits.names import WITH_REWARDS
from keras_e2e.experiments.limits.setting import ROLLOUT, Setting

# The seeds of tuning begin here, those of the runs that are reported end before.
FIRST_TUNING_SEED = 1_000_000


@dataclasses.dataclass(frozen=True)
class Grid:
    """All combinations of some values; the fields are those of a `Setting`, in plural.

    Attributes:
        seeds: Integer, the number of seeds, from 0 on.

    Example:

    >>> from keras_e2e.experiments.limits.presets import Grid
    >>> grid = Grid(k=(3, 4), regimes=("end_to_end", "deep_supervision"), seeds=10)
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
        """The settings, all seeds of one combination one after another."""
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


MODULAR = ("deep_supervision", "greedy", "last_first", "local_then_end_to_end", "auto")

PRESETS: dict[str, tuple[Grid, ...]] = {
    # Where end-to-end training breaks down, and what repairs it: minutes.
    "quick": (
        Grid(
            regimes=("end_to_end", *MODULAR[:4]),
            steps=2000,
        ),
    ),
    # All regimes on parity, the main ones on other tasks and images, and label budgets:
    # hours.
    "paper": (
        Grid(
            k=(1, 2, 3, 4, 5),
            regimes=(
                "end_to_end",
                *MODULAR,
                "local",
                "independent",
                "pretrained_reconstruction",
                "pretrained_barlow_twins",
                "curriculum",
            ),
        ),
        Grid(
            task=("sum_mod_10", "random_table"),
            k=(1, 2, 3),
            regimes=("end_to_end", *MODULAR),
        ),
        Grid(
            k=(3, 4, 5),
            regimes=("deep_supervision", "local_then_end_to_end"),
            labels=(10, 20, 50, 100, 400),
        ),
        Grid(k=(3, 4), data=("fashion_mnist",), regimes=("end_to_end", *MODULAR)),
    ),
    # Parity learned by reward, with labels of all images and of one of each class.
    "rewards": (
        Grid(
            task=("parity_by_reward",),
            k=(1, 2, 3),
            regimes=WITH_REWARDS,
            labels=(None, 10),
            steps=36 * ROLLOUT,
        ),
    ),
}
"""Sweeps by name: each is all that its grids hold."""

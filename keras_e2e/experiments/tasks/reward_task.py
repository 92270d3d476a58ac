"""What a task offers that is learned by reward."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras

from keras_e2e.experiments.tasks.task import Cut, Split


class RewardTask(NamedTuple):
    """A modular task without targets: environments, and a policy to be cut.

    Attributes:
        name: String, a short name with the sizes that matter.
        build: Function from a seed to the stock Keras model, not compiled, with the outputs
            `policy` and `value`. The same seed gives the same weights; the cut points are
            layers of the model.
        environments: Function from a number of environments, and the name of a split
            (`"train"`, `"validation"` or `"test"`, each of raw data of its own), to a
            `gymnasium.vector.VectorEnv`.
        labels: Dict from the name of the layer to the function that labels observations of
            the training environments, as `rewards.Rollouts` takes it.
        cuts: Dict from the name of a layer to its `Cut`, in order.
        test: `Split` of observations with intermediate labels, to look at what modules
            have learned.
        chance: Float, the mean return without knowledge of the observation.
        best: Float, the highest mean return.
        ceiling: Function from the share of inputs that the first module gets wrong to the
            best mean return (NaN where there is no formula).

    Example:

    >>> from keras_e2e import tasks
    >>> task = tasks.parity_by_reward(k=2)
    >>> task.name, list(task.cuts), task.chance, task.success
    ('parity of 2 digits by reward', ['symbols'], 0.5, 0.75)
    """

    name: str
    build: Callable[[int], keras.Model]
    environments: Callable[..., Any]
    labels: dict[str, Callable[[Any, Mapping[str, Any]], Any]]
    cuts: dict[str, Cut]
    test: Split
    chance: float
    best: float = 1.0
    ceiling: Callable[[float], float] = lambda error: float("nan")

    @property
    def success(self) -> float:
        """Half-way between chance and the best: above it a training is a success."""
        return (self.chance + self.best) / 2.0

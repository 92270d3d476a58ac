"""Which observations and actions of Gymnasium a Keras model can take and give."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_e2e.rewards.distributions import DISTRIBUTIONS, Distribution


class Actions:
    """The actions of an environment, as a policy's outputs describe them.

    Args:
        space: The action space of one environment: `Discrete` or `Box`.

    Attributes:
        distribution: The `Distribution` over them.
        entries: Integer, how many numbers an action is.
        num_outputs: Integer, how many outputs the policy has to have.

    Raises:
        ValueError: If the space is of another kind, or a `Box` of integers.
    """

    def __init__(self, space: Any):
        kind = type(space).__name__
        if kind not in ("Discrete", "Box"):
            raise ValueError(
                f"The action space {space} is not supported. Expected Discrete (one of n "
                "actions) or Box (real numbers). Make one of it with "
                "gymnasium.wrappers.TransformAction."
            )
        if kind == "Box" and not np.issubdtype(space.dtype, np.floating):
            raise ValueError(
                f"The action space {space} is of {space.dtype}, to which numbers would "
                "be cut off. Expected a Box of floats. Make it one, or a Discrete, with "
                "gymnasium.wrappers.TransformAction."
            )
        self.space = space
        self.entries = int(np.prod(space.shape))
        discrete = kind == "Discrete"
        name = "categorical" if discrete else "gaussian"
        self.distribution: Distribution = DISTRIBUTIONS[name]
        self.num_outputs = int(space.n) if discrete else 2 * self.entries

    def for_environment(self, actions: np.ndarray) -> np.ndarray:
        """Returns actions as environments take them.

        Args:
            actions: Array `(num_envs, entries)`. Numbers out of a `Box` are cut off at its
                bounds.
        """
        if self.distribution.name == "categorical":
            return actions[:, 0].astype(self.space.dtype) + self.space.start
        shaped = actions.reshape(len(actions), *self.space.shape)
        return np.clip(shaped, self.space.low, self.space.high).astype(self.space.dtype)

    def check_outputs(self, outputs: np.ndarray, name: str) -> None:
        """Checks that a policy's outputs describe these actions.

        Args:
            outputs: Array `(num_envs, num_outputs)`.
            name: Name of the output, for the error.

        Raises:
            ValueError: If they are of another size, or probabilities in place of logits.
        """
        if outputs.shape[-1] != self.num_outputs:
            what = (
                "a logit for each action"
                if self.distribution.name == "categorical"
                else "the mean of each number and the logarithm of its standard deviation "
                "(put keras_e2e.rewards.GaussianPolicy() behind the means)"
            )
            raise ValueError(
                f"The output {name!r} of the model has {outputs.shape[-1]} entries. "
                f"Expected {self.num_outputs} for the action space {self.space}: {what}."
            )
        if self.distribution.name == "categorical" and self.num_outputs > 1:
            sums_to_one = np.allclose(outputs.sum(axis=-1), 1, atol=1e-5)
            if sums_to_one and np.all(outputs >= 0):
                raise ValueError(
                    f"The output {name!r} of the model seems to be probabilities: they sum "
                    "to 1. Expected logits: take the softmax away."
                )


def check_observations(space: Any, where: str = "the observation space") -> None:
    """Checks that a Keras model can take what an environment shows.

    Args:
        space: The observation space of one environment.
        where: What it is, for the error.

    Raises:
        ValueError: If it is neither numbers nor a dict of them.
    """
    kind = type(space).__name__
    if kind == "Dict":
        for name, inner in space.spaces.items():
            check_observations(inner, f"{name!r} of the observation space")
    elif kind not in ("Box", "Discrete", "MultiDiscrete", "MultiBinary"):
        raise ValueError(
            f"{where} is {space}, which a Keras model cannot take. Expected Box, Discrete, "
            "MultiDiscrete, MultiBinary or a Dict of them. Leave it out with "
            "gymnasium.wrappers.FilterObservation or change it with TransformObservation."
        )


def as_arrays(observations: Any) -> Any:
    """Returns a copy of observations as Keras takes them: float64 becomes float32.

    A copy, for environments may go on writing into the arrays that they return.

    Args:
        observations: An array, or a dict of arrays.
    """
    if isinstance(observations, Mapping):
        return {name: as_arrays(array) for name, array in observations.items()}
    array = np.asarray(observations)
    return array.astype("float32") if array.dtype == np.float64 else array.copy()

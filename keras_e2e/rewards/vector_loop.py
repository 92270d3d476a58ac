"""A vector of environments, step by step, whichever way it begins new episodes."""

from collections import deque
from collections.abc import Mapping
from itertools import count
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import keras
import numpy as np

from keras_e2e.rewards.spaces import as_arrays, check_observations

# Over how many episodes returns are averaged, as in stable-baselines3.
NUM_RECENT = 100

# Which loop began the episodes that environments are in; its number, so as not to keep it.
_begun_by: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
_numbers = count()


class Transition(NamedTuple):
    """What one action brought in each environment.

    Attributes:
        rewards: Array `(num_envs,)`.
        terminated: Boolean array, where the episode came to its end.
        truncated: Boolean array, where it was cut off.
        final: The last observations of episodes, where they are not the next ones; None
            where there are none.
        real: Boolean array, where an action was carried out: not where the environment
            only began anew.
    """

    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    final: Any
    real: np.ndarray


def make_environments(envs: Any, num_envs: int | None, who: str) -> Any:
    """Returns a vector environment: the given one, or copies of one made by its id.

    Args:
        envs: A `gymnasium.vector.VectorEnv`, or the id of an environment.
        num_envs: Integer, how many copies of an id; None means 8.
        who: Who asks, for the error.

    Raises:
        ImportError: If Gymnasium is not installed.
        TypeError: If it is neither.
        ValueError: If `num_envs` was given for environments that exist already.
    """
    try:
        import gymnasium
    except ImportError as error:
        raise ImportError(
            f"{who} needs Gymnasium: pip install 'keras-e2e[rewards]'."
        ) from error
    if isinstance(envs, str):
        return gymnasium.make_vec(
            envs,
            num_envs=8 if num_envs is None else num_envs,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP},
        )
    if not isinstance(envs, gymnasium.vector.VectorEnv):
        raise TypeError(
            f"{who}: envs must be a gymnasium.vector.VectorEnv or the id of an "
            f"environment. Found: {type(envs).__name__}. Make one with "
            "gymnasium.make_vec(id, num_envs=8), or put one environment into "
            "gymnasium.vector.SyncVectorEnv([lambda: env])."
        )
    if num_envs is not None and num_envs != envs.num_envs:
        raise ValueError(
            f"{who}: num_envs={num_envs}, but envs has {envs.num_envs} environments. Leave "
            "num_envs out, or give the id of an environment."
        )
    return envs


class VectorLoop:
    """Steps through a vector of environments and keeps the returns of episodes.

    Args:
        envs: A `gymnasium.vector.VectorEnv`, which begins new episodes by itself, in the
            step in which one ends or in the next.

    Attributes:
        observations: The present observations, `(num_envs, ...)`.
        infos: The info that came with them.
        returns, lengths: The sums of rewards and the numbers of steps of the latest
            episodes, 100 at most.
        num_steps: Integer, the actions carried out so far, over all environments.
        num_episodes: Integer, the episodes that ended.
        just_ended: Those that ended in the latest step: index of the environment, sum of
            rewards, number of steps.
        begins: Boolean array, where the present observation begins an episode.

    Raises:
        ValueError: If observations are of a kind that a model cannot take, or environments
            do not begin new episodes by themselves.
    """

    def __init__(self, envs: Any):
        check_observations(envs.single_observation_space)
        # Gymnasium's name of the mode; without one it takes the first as given.
        given = envs.metadata.get("autoreset_mode", "NextStep")
        mode = getattr(given, "value", given)
        if mode not in ("NextStep", "SameStep"):
            raise ValueError(
                f"The environments' autoreset_mode is {mode}: they do not begin new "
                "episodes. Expected AutoresetMode.SAME_STEP or NEXT_STEP: "
                "gymnasium.make_vec(..., vector_kwargs={'autoreset_mode': "
                "gymnasium.vector.AutoresetMode.SAME_STEP})."
            )
        self.envs = envs
        self.same_step = mode == "SameStep"
        self.returns: deque[float] = deque(maxlen=NUM_RECENT)
        self.lengths: deque[int] = deque(maxlen=NUM_RECENT)
        self.num_steps = self.num_episodes = 0
        self.observations: Any = None
        self._number = next(_numbers)

    @property
    def is_current(self) -> bool:
        """Whether the environments are in episodes that this loop began."""
        return _begun_by.get(self.envs.unwrapped) == self._number

    def reset(self, seed: int | None) -> None:
        """Begins new episodes everywhere.

        Args:
            seed: Integer seed of the environments, or None.
        """
        observations, self.infos = self._ask("reset", seed=seed)
        _begun_by[self.envs.unwrapped] = self._number
        self._return = np.zeros(self.envs.num_envs)
        self._length = np.zeros(self.envs.num_envs, "int64")
        self.begins = np.ones(self.envs.num_envs, bool)
        self._ended = np.zeros(self.envs.num_envs, bool)
        self.observations = as_arrays(observations)
        self._check_observations(self.observations)

    def step(self, actions: np.ndarray) -> Transition:
        """Carries out an action in each environment.

        Args:
            actions: Array `(num_envs, ...)` as the environments take them.

        Raises:
            ValueError: If there is not one reward for each environment, a reward or an
                observation is not finite, the last observation of an episode that was cut
                off is missing, or there is one that the environments' mode does not have.
            RuntimeError: If the environments cannot be stepped any more.
        """
        observations, rewards, terminated, truncated, infos = self._ask("step", actions)
        real = ~self._ended if not self.same_step else np.ones_like(self._ended)
        self._check_shapes(rewards=rewards, terminated=terminated, truncated=truncated)
        rewards = np.where(real, np.asarray(rewards, "float64"), 0.0)
        self._check_rewards(rewards)
        # Environments may go on writing into the arrays that they return.
        terminated, truncated = np.array(terminated, bool), np.array(truncated, bool)
        ended = terminated | truncated
        self.observations, self.infos = as_arrays(observations), infos
        self._check_observations(self.observations)
        final = self._final(infos, ended, truncated)
        self._count(rewards, ended, real)
        self.begins = ended if self.same_step else self._ended
        self._ended = ended
        return Transition(rewards, terminated, truncated, final, real)

    def _final(self, infos: Any, ended: np.ndarray, truncated: np.ndarray) -> Any:
        """The last observations of episodes, where others have begun in the same step."""
        if self.same_step and ended.any() and infos.get("final_obs") is not None:
            final = with_final(self.observations, infos["final_obs"], ended)
            self._check_observations(final)
            return final
        if not self.same_step and "final_obs" in infos:
            raise ValueError(
                "The environments' infos have 'final_obs', the last observation of an "
                "episode where the next one began in the same step, but their metadata do "
                "not say so. Expected metadata['autoreset_mode'] = "
                "gymnasium.vector.AutoresetMode.SAME_STEP."
            )
        if self.same_step and truncated.any():
            raise ValueError(
                f"Environment {np.flatnonzero(truncated)[0]} was cut off, and the "
                "environments' infos have no 'final_obs': its last observation, whose "
                "value stands for what would have come. Expected them as Gymnasium's "
                "SAME_STEP mode has them; AutoresetMode.NEXT_STEP needs none."
            )
        return None

    def _ask(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Calls a method of the environments."""
        try:
            return getattr(self.envs, method)(*args, **kwargs)
        except Exception as error:
            raise RuntimeError(
                f"The environments failed at {method!r} after {self.num_steps} steps "
                f"({type(error).__name__}: {error}). The model has the weights of its "
                "latest training step: make the environments anew, give them to a new "
                "Rollouts and call fit again."
            ) from error

    def _check_observations(self, observations: Any) -> None:
        for array in keras.tree.flatten(observations):
            if not np.issubdtype(array.dtype, np.floating):
                continue
            finite = np.isfinite(array.reshape(len(array), -1)).all(axis=1)
            if not finite.all():
                index = np.flatnonzero(~finite)[0]
                raise ValueError(
                    f"Environment {index} gave an observation that is not finite at step "
                    f"{self._length[index]} of its episode: {_shortened(array[index])}. "
                    "Expected finite numbers. The model was not trained with it."
                )

    def _check_shapes(self, **found: Any) -> None:
        expected = (self.envs.num_envs,)
        for name, array in found.items():
            if np.shape(array) != expected:
                raise ValueError(
                    f"The environments gave {name} of the shape {np.shape(array)}. "
                    f"Expected {expected}, one for each environment."
                )

    def _check_rewards(self, rewards: np.ndarray) -> None:
        wrong = np.flatnonzero(~np.isfinite(rewards))
        if wrong.size:
            raise ValueError(
                f"Environment {wrong[0]} gave the reward {rewards[wrong[0]]} at step "
                f"{self._length[wrong[0]]} of its episode. Expected a finite number. The "
                "model was not trained with it."
            )

    def _count(self, rewards: np.ndarray, ended: np.ndarray, real: np.ndarray) -> None:
        self._return += rewards
        self._length += real
        self.num_steps += int(real.sum())
        self.just_ended = [
            (int(i), float(self._return[i]), int(self._length[i]))
            for i in np.flatnonzero(ended)
        ]
        for _, total, length in self.just_ended:
            self.returns.append(total)
            self.lengths.append(length)
        self.num_episodes += len(self.just_ended)
        self._return[ended] = 0.0
        self._length[ended] = 0


def _shortened(array: np.ndarray) -> str:
    return np.array2string(array, threshold=10, precision=3)


def with_final(observations: Any, final: Any, ended: np.ndarray) -> Any:
    """Returns observations with the last ones of episodes that ended in their place.

    Args:
        observations: Array `(num_envs, ...)`, or a dict of them.
        final: Array of objects `(num_envs,)`, or a dict of them, as Gymnasium's info has
            it.
        ended: Boolean array, where there is one.
    """
    if isinstance(observations, Mapping):
        inner = {
            name: [final[i][name] if ended[i] else None for i in range(len(ended))]
            for name in observations
        }
        return {
            name: with_final(array, inner[name], ended)
            for name, array in observations.items()
        }
    changed = np.array(observations)
    for index in np.flatnonzero(ended):
        changed[index] = final[index]
    return changed

"""Digits by reward, as an environment of Gymnasium's. Loaded only where it is used."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space


class ParityEnvironments(VectorEnv):
    """Shows tuples of images; reward 1 for the action that is the parity of their classes.

    An episode is one step: the next observation begins another one (`SAME_STEP`). The info
    that comes with an observation holds, under `"images"`, the numbers of its images and,
    under `"classes"`, their classes.

    Args:
        images: Array `(images, d)` of float32 in [0, 1].
        classes: Integer array `(images,)`.
        k: Integer, how many images an observation shows.
        num_envs: Integer, how many environments there are.

    Example:

    >>> import numpy as np
    >>> from keras_e2e.experiments.tasks.digit_environment import ParityEnvironments
    >>> images = np.eye(4, dtype="float32")
    >>> envs = ParityEnvironments(images, np.array([0, 1, 2, 3]), k=2, num_envs=3)
    >>> shown, info = envs.reset(seed=0)
    >>> parity = info["classes"].sum(axis=1) % 2
    >>> shown.shape, envs.step(parity)[1].tolist()
    ((3, 2, 4), [1.0, 1.0, 1.0])
    """

    def __init__(self, images: np.ndarray, classes: np.ndarray, k: int, num_envs: int):
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.num_envs = num_envs
        shape = (k, images.shape[1])
        self.single_observation_space = gymnasium.spaces.Box(0.0, 1.0, shape, np.float32)
        self.single_action_space = gymnasium.spaces.Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._images, self._classes, self._k = images, classes, k

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._draw()

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        rewards = (np.asarray(actions) == self._parity).astype("float64")
        final = np.empty(self.num_envs, object)
        final[:] = [*self._observations]
        observations, info = self._draw()
        ended = np.ones(self.num_envs, bool)
        # As Gymnasium's own environments say what was seen last, and where.
        info |= {"final_obs": final, "_final_obs": ended}
        return observations, rewards, ended, ~ended, info

    def _draw(self) -> tuple[np.ndarray, dict[str, Any]]:
        size = (self.num_envs, self._k)
        drawn = self.np_random.integers(len(self._images), size=size)
        classes = self._classes[drawn]
        self._parity = classes.sum(axis=1) % 2
        self._observations = self._images[drawn]
        return self._observations, {"images": drawn, "classes": classes}

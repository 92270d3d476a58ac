"""What both sides of `rewards_baselines.py` share: tasks, numbers, the clock.

It imports neither Keras nor PyTorch, so that each side's process loads its own alone.
"""

import time
from typing import Any, NamedTuple

import gymnasium

EVALUATED_EPISODES = 32


class Setting(NamedTuple):
    """A task and PPO's numbers, by the names of `Rollouts`.

    `falling` is whether the learning rate falls linearly, to 0 in the last rollout;
    `normalize`, whether observations are normalized.
    """

    env_steps: int
    num_envs: int
    steps: int
    passes: int
    batch_size: int
    gae_lambda: float
    discount: float = 0.99
    learning_rate: float = 3e-4
    falling: bool = False
    normalize: bool = False
    clip: float = 0.2
    units: int = 64

    @property
    def rollouts(self) -> int:
        """How many rollouts there are."""
        return max(1, self.env_steps // (self.num_envs * self.steps))

    @property
    def batches(self) -> int:
        """How many batches a rollout makes, in all passes."""
        return self.passes * self.num_envs * self.steps // self.batch_size

    def falling_rate(self, rollout: int) -> float:
        """The learning rate of a rollout, counted from 0, if it falls."""
        return self.learning_rate * (1 - (rollout + 1) / self.rollouts)


# The tuned numbers of rl-baselines3-zoo, with fewer environment steps and a constant clip;
# observations of MiniGrid are not normalized.
SETTINGS = {
    "CartPole-v1": Setting(
        env_steps=50_000,
        num_envs=8,
        steps=32,
        passes=20,
        batch_size=256,
        gae_lambda=0.8,
        discount=0.98,
        learning_rate=1e-3,
        falling=True,
    ),
    "Acrobot-v1": Setting(
        env_steps=100_000,
        num_envs=16,
        steps=256,
        passes=4,
        batch_size=64,
        gae_lambda=0.94,
        normalize=True,
    ),
    "MiniGrid-Empty-8x8-v0": Setting(
        env_steps=80_000,
        num_envs=8,
        steps=128,
        passes=10,
        batch_size=64,
        gae_lambda=0.95,
        learning_rate=2.5e-4,
    ),
}


def make_env(task: str) -> Any:
    """One environment of a task; MiniGrid's view as 147 numbers."""
    if not task.startswith("MiniGrid"):
        return gymnasium.make(task)
    from minigrid.wrappers import ImgObsWrapper

    return gymnasium.wrappers.FlattenObservation(ImgObsWrapper(gymnasium.make(task)))


class Clock:
    """Seconds of wall and CPU, over all of training and after the first rollout."""

    def __init__(self) -> None:
        self._readings = [self._now()]

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def read(self) -> None:
        """Notes that a rollout was made and learned from."""
        self._readings.append(self._now())

    def measured(self, env_steps: int) -> dict[str, float]:
        """Environment steps per second, and per second of the CPU.

        "later" is without the first rollout, in which graphs are traced.
        """
        (begin, cpu_begin), (first, cpu_first), *_ = self._readings
        end, cpu_end = self._readings[-1]
        rollouts = len(self._readings) - 1
        later = env_steps * (rollouts - 1) / rollouts
        found = {
            "seconds": end - begin,
            "cpu_seconds": cpu_end - cpu_begin,
            "per_second": env_steps / (end - begin),
            "per_cpu_second": env_steps / (cpu_end - cpu_begin),
        }
        if rollouts > 1:
            found["later_per_second"] = later / (end - first)
            found["later_per_cpu_second"] = later / (cpu_end - cpu_first)
        return found

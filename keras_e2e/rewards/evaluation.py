"""What a policy gets when it is not trained."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_e2e.rewards.policy import Policy
from keras_e2e.rewards.spaces import Actions
from keras_e2e.rewards.vector_loop import VectorLoop, make_environments
from keras_e2e.utils.validation import check_integer, check_seed


class PolicyEvaluation(NamedTuple):
    """Episodes of a policy.

    Attributes:
        returns: Array `(episodes,)`, the sum of rewards of each.
        lengths: Integer array `(episodes,)`, the number of its steps.
    """

    returns: np.ndarray
    lengths: np.ndarray

    @property
    def mean_return(self) -> float:
        """The mean of the returns."""
        return float(np.mean(self.returns))

    @property
    def std_return(self) -> float:
        """The standard deviation of the returns over episodes."""
        return float(np.std(self.returns))

    def __str__(self) -> str:
        return (
            f"return {self.mean_return:.4g} +- {self.std_return:.3g}, length "
            f"{np.mean(self.lengths):.4g}, over {len(self.returns)} episodes"
        )


def evaluate_policy(
    model: keras.Model,
    envs: Any,
    episodes: int = 10,
    *,
    num_envs: int | None = None,
    deterministic: bool = True,
    states: Mapping[str, str] | None = None,
    seed: int | None = None,
) -> PolicyEvaluation:
    """Lets a policy play some episodes; nothing of the model changes.

    Each environment plays as many episodes as the others, so that short ones are not
    counted more often than long ones.

    Args:
        model: The Keras model, as `Rollouts` takes it.
        envs: A `gymnasium.vector.VectorEnv` or the id of an environment, as there. Begun
            anew.
        episodes: Integer, how many episodes: rounded up to a multiple of the number of
            environments. Defaults to 10.
        num_envs: Integer, how many copies of an id. Defaults to `None`: 8, or fewer if
            there are fewer episodes.
        deterministic: Boolean, whether the most likely action is taken, in place of one
            that is drawn. Defaults to `True`.
        states: Dict from the name of an input to that of an output, as in `Rollouts`.
            Defaults to `None`.
        seed: Integer, seed of environments and actions. Defaults to `None`.

    Returns:
        A `PolicyEvaluation`.

    Raises:
        ImportError, TypeError, ValueError, RuntimeError: As `Rollouts`.

    Example:

    >>> import keras, keras_e2e as e2e
    >>> observation = keras.Input((4,))
    >>> model = keras.Model(observation, {"policy": keras.layers.Dense(2)(observation)})
    >>> found = e2e.rewards.evaluate_policy(model, "CartPole-v1", episodes=4, seed=0)
    >>> len(found.returns)
    4
    """
    episodes = check_integer("evaluate_policy: episodes", episodes, 1)
    seed = check_seed("evaluate_policy: seed", seed)
    if isinstance(envs, str) and num_envs is None:
        num_envs = min(8, episodes)
    envs = make_environments(envs, num_envs, "evaluate_policy")
    loop = VectorLoop(envs)
    policy = Policy(model, Actions(envs.single_action_space), states)
    rng = np.random.default_rng(seed)
    loop.reset(int(rng.integers(2**31)))
    policy.begin(envs.num_envs)
    wanted = -(-episodes // envs.num_envs)
    returns: list[list[float]] = [[] for _ in range(envs.num_envs)]
    lengths: list[list[int]] = [[] for _ in range(envs.num_envs)]
    while min(map(len, returns)) < wanted:
        if policy.states:
            policy.begin(envs.num_envs, where=loop.begins)
        decision = policy.decide(loop.observations, None if deterministic else rng)
        loop.step(policy.actions.for_environment(decision.actions))
        for index, value, length in loop.just_ended:
            if len(returns[index]) < wanted:
                returns[index].append(value)
                lengths[index].append(length)
    return PolicyEvaluation(np.concatenate(returns), np.concatenate(lengths))

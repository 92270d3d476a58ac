"""How much better an action was than expected: generalized advantage estimation."""

import numpy as np

from keras_e2e.utils.validation import check_number


def generalized_advantages(
    rewards: np.ndarray,
    values: np.ndarray,
    next_values: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    discount: float = 0.99,
    gae_lambda: float = 0.95,
) -> np.ndarray:
    """Returns the generalized advantage of each step (Schulman et al. 2016).

    The advantage of step t is the sum over l of `(discount * gae_lambda) ** l` times
    `delta[t + l]`, up to the end of the episode or of the arrays, with
    `delta[t] = rewards[t] + discount * next_values[t] - values[t]`. After a state in which
    an episode terminates there is no value; where it is merely cut off (truncated), by a
    time limit for instance, `next_values` goes on counting. What came after the end of an
    episode never flows back over it.

    Args:
        rewards: Array `(steps, num_envs)`, the reward that each action brought.
        values: Array of the same shape, the value of the state in which it was taken.
        next_values: Array of the same shape, the value of the state to which it led: of
            the last state of the episode where one was truncated.
        terminated: Boolean array of the same shape, whether the episode came to its end.
        truncated: Boolean array of the same shape, whether it was cut off there.
        discount: Float from 0 to 1, what a reward is worth a step later (gamma). Defaults
            to 0.99, as in PPO's paper (Schulman et al. 2017).
        gae_lambda: Float from 0 to 1: 0 trusts the values, 1 the rewards. Defaults to
            0.95, as in that paper.

    Returns:
        Array `(steps, num_envs)` of float64. With `values` added they are the returns that
        values are trained on.

    Raises:
        ValueError: If the arrays differ in shape, or a number is out of range.

    Example:

    >>> import numpy as np, keras_e2e as e2e
    >>> never = np.zeros((3, 1), bool)
    >>> last = np.array([[False], [False], [True]])
    >>> e2e.rewards.generalized_advantages(
    ...     np.ones((3, 1)), np.zeros((3, 1)), np.zeros((3, 1)), last, never,
    ...     discount=0.5, gae_lambda=1.0).ravel()
    array([1.75, 1.5 , 1.  ])
    """
    discount = check_number("discount", discount, least=0, most=1)
    gae_lambda = check_number("gae_lambda", gae_lambda, least=0, most=1)
    arrays = [np.asarray(a) for a in (rewards, values, next_values, terminated, truncated)]
    if any(array.shape != arrays[0].shape for array in arrays):
        raise ValueError(
            "generalized_advantages: rewards, values, next_values, terminated and "
            "truncated must have one shape, (steps, num_envs). Found: "
            f"{', '.join(str(array.shape) for array in arrays)}."
        )
    rewards, values, next_values = (array.astype("float64") for array in arrays[:3])
    terminated, truncated = (array.astype(bool) for array in arrays[3:])
    deltas = rewards + discount * np.where(terminated, 0.0, next_values) - values
    decays = np.where(terminated | truncated, 0.0, discount * gae_lambda)
    advantages = np.zeros_like(deltas)
    later = np.zeros_like(deltas[0]) if len(deltas) else None
    for step in reversed(range(len(deltas))):
        advantages[step] = later = deltas[step] + decays[step] * later
    return advantages

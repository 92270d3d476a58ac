"""Some steps of a policy in its environments, and what each action was worth."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_e2e.rewards.advantages import generalized_advantages
from keras_e2e.rewards.policy import Policy
from keras_e2e.rewards.vector_loop import VectorLoop

Labels = Mapping[str, Callable[[Any, Mapping[str, Any]], Any]]


class Recording(NamedTuple):
    """What happened, all arrays `(steps, num_envs, ...)`.

    Attributes:
        observations: Array, or a dict of them.
        states: Dict from the name of an input to what the policy remembered before each
            step.
        labels: Dict from the name of a boundary to the labels of its observations.
        begins: Boolean, where an episode begins.
        real: Boolean, where an action was carried out.
        actions, log_probs: The actions `(..., entries)`, and the logarithms of the
            probabilities with which the policy chose them.
        advantages, returns: What each action brought beyond what was expected, and what
            values are trained on.
    """

    observations: Any
    states: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    begins: np.ndarray
    real: np.ndarray
    actions: np.ndarray
    log_probs: np.ndarray
    advantages: np.ndarray
    returns: np.ndarray


def labels_of(labels: Labels, observations: Any, infos: Mapping) -> dict[str, np.ndarray]:
    """Returns the labels of observations.

    Args:
        labels: Dict from the name of a boundary to a function of observations and infos.
        observations: The observations, `(num_envs, ...)`.
        infos: The info that came with them.

    Raises:
        ValueError: If a function fails or does not return a label for each observation.
    """
    num_envs = len(keras.tree.flatten(observations)[0])
    found = {}
    for name, function in labels.items():
        try:
            found[name] = array = np.asarray(function(observations, infos))
        except Exception as error:
            raise ValueError(
                f"Rollouts: labels[{name!r}] failed on {num_envs} observations "
                f"({type(error).__name__}: {error}). Expected a function of observations "
                f"({num_envs}, ...) and infos that returns their labels."
            ) from error
        if array.ndim == 0 or len(array) != num_envs:
            raise ValueError(
                f"Rollouts: labels[{name!r}] returned the shape {array.shape} for "
                f"{num_envs} observations. Expected ({num_envs}, ...)."
            )
    return found


def empty_recording(policy: Policy, loop: VectorLoop, labels: Labels) -> Recording:
    """Returns one step of zeros in one environment, with the shapes of a recording.

    Args:
        policy: The policy.
        loop: The environments.
        labels: Dict from the name of a boundary to the function that labels observations.
    """
    found = {
        "observations": loop.observations,
        "states": policy.carried,
        "labels": labels_of(labels, loop.observations, loop.infos),
        "actions": np.zeros((1, policy.actions.entries), "float32"),
    }
    zeros = keras.tree.map_structure(
        lambda a: np.zeros((1, 1, *a.shape[1:]), a.dtype), found
    )
    flat, mask = np.zeros((1, 1)), np.ones((1, 1), bool)
    return Recording(
        **zeros, log_probs=flat, advantages=flat, returns=flat, begins=mask, real=mask
    )


def record(
    policy: Policy,
    loop: VectorLoop,
    steps: int,
    rng: np.random.Generator,
    labels: Labels,
    discount: float,
    gae_lambda: float,
) -> Recording:
    """Lets a policy act and returns what happened.

    Args:
        policy: The policy.
        loop: The environments.
        steps: Integer, how many steps in each.
        rng: The generator that draws the actions.
        labels: Dict from the name of a boundary to the function that labels observations.
        discount: As in `generalized_advantages`.
        gae_lambda: As in `generalized_advantages`.
    """
    rows: list[dict[str, Any]] = []
    for _ in range(steps):
        rows.append(_step(policy, loop, rng, labels))
    last = policy.decide(loop.observations, None, remember=False).values
    together = {name: [row[name] for row in rows] for name in rows[0]}
    stacked = {
        name: keras.tree.map_structure(lambda *arrays: np.stack(arrays), *values)
        for name, values in together.items()
        if name not in ("transition", "cut_values")
    }
    transitions = [row["transition"] for row in rows]
    rewards, terminated, truncated, real = (
        np.stack([getattr(transition, name) for transition in transitions])
        for name in ("rewards", "terminated", "truncated", "real")
    )
    values = stacked.pop("values")
    next_values = np.concatenate([values[1:], last[None]])
    for step, cut_values in enumerate(together["cut_values"]):
        if cut_values is not None:
            next_values[step] = np.where(truncated[step], cut_values, next_values[step])
    advantages = generalized_advantages(
        rewards, values, next_values, terminated, truncated, discount, gae_lambda
    )
    outputs = stacked.pop("outputs")
    log_probs = policy.actions.distribution.log_prob(
        keras.ops.convert_to_tensor(outputs), stacked["actions"]
    )
    return Recording(
        real=real,
        log_probs=keras.ops.convert_to_numpy(log_probs),
        advantages=advantages,
        returns=advantages + values,
        **stacked,
    )


def _step(
    policy: Policy, loop: VectorLoop, rng: np.random.Generator, labels: Labels
) -> dict[str, Any]:
    """One step in each environment; `cut_values` are those of truncated episodes' ends."""
    if policy.states:
        policy.begin(loop.envs.num_envs, where=loop.begins)
    row = {
        "observations": loop.observations,
        "states": dict(policy.carried),
        "labels": labels_of(labels, loop.observations, loop.infos),
        "begins": loop.begins,
    }
    decision = policy.decide(loop.observations, rng)
    transition = loop.step(policy.actions.for_environment(decision.actions))
    cut_values = None
    if transition.final is not None and transition.truncated.any():
        cut_values = policy.decide(transition.final, None, remember=False).values
    return {
        **row,
        **decision._asdict(),
        "transition": transition,
        "cut_values": cut_values,
    }

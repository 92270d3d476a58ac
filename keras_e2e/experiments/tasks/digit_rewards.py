"""Parity of k digits by reward: the bandit twin of `parity`, which has labels.

The policy sees a tuple of images, chooses one of two actions, and gets a reward of 1 if it
is the parity of the tuple. What the other action would have brought it is not told.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_e2e.experiments.tasks.datasets import split_images
from keras_e2e.experiments.tasks.digit_tasks import (
    ENCODERS,
    HELD_OUT,
    check_labeled,
    in_turn,
)
from keras_e2e.experiments.tasks.image_tuples import MISSING, parity_ceiling, parity_tuples
from keras_e2e.experiments.tasks.reward_task import RewardTask
from keras_e2e.experiments.tasks.seeded import seeded_dense
from keras_e2e.experiments.tasks.task import Split, class_cut
from keras_e2e.utils.validation import check_integer, did_you_mean

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

SPLITS = ("train", "validation", "test")
CLASSIFIER = (128, 128)


def parity_by_reward(
    k: int, data: str = "digits", seed: int = 0, labeled: int | None = None
) -> RewardTask:
    """Whether the number of images of an odd class is odd, learned by reward.

    The images, their splits and the layers are those of `parity`; in place of a target the
    policy gets a reward of 1 for the right one of two actions, and of 0 for the other. An
    episode is one step. The environments take Gymnasium (the extra `rewards`).

    Args:
        k: Integer, the images in a tuple, at least 1.
        data: String, the images: "digits" or "fashion_mnist". Defaults to "digits".
        seed: Integer seed of the splits, at least 0. Defaults to 0.
        labeled: Integer, the number of training images whose class is known, as in
            `parity`. Defaults to None, which means all.

    Returns:
        A `RewardTask` with the cut point `symbols`.

    Raises:
        ValueError: If a number is out of range or the data is unknown.

    Example:

    >>> import keras_e2e as e2e
    >>> task = e2e.tasks.parity_by_reward(k=2)
    >>> envs = task.environments(4)
    >>> found = e2e.rewards.evaluate_policy(task.build(0), envs, episodes=8, seed=0)
    >>> len(found.returns), found.lengths.tolist()
    (8, [1, 1, 1, 1, 1, 1, 1, 1])
    """
    check_integer("k", k, 1)
    check_integer("seed", seed, 0)
    if data not in ENCODERS:
        raise ValueError(
            f"data={data!r}: expected one of {sorted(ENCODERS)}."
            f"{did_you_mean(data, ENCODERS)}"
        )
    images = dict(zip(SPLITS, split_images(data, seed), strict=True))
    x, classes = images["train"]
    known = np.ones(len(x), bool)
    if labeled is not None:
        check_labeled(labeled, len(x), data)
        known[in_turn(classes, seed)[labeled:]] = False

    def symbols(observations: Any, infos: Mapping[str, Any]) -> np.ndarray:
        seen = infos["classes"].astype("int32")
        return np.where(known[infos["images"]], seen, np.int32(MISSING))

    def environments(num_envs: int, split: str = "train") -> "VectorEnv":
        if split not in SPLITS:
            raise ValueError(f"split={split!r}: expected one of {', '.join(SPLITS)}.")
        from keras_e2e.experiments.tasks.digit_environment import ParityEnvironments

        return ParityEnvironments(*images[split], k, num_envs)

    drawn = parity_tuples(*images["test"], k, HELD_OUT, seed=3 * seed + 2)
    return RewardTask(
        f"parity of {k} {data} by reward",
        lambda model_seed: parity_policy(k, x.shape[1], ENCODERS[data], model_seed),
        environments,
        {"symbols": symbols},
        {"symbols": class_cut(10, lambda labels: labels % 2)},
        Split(drawn.x, {"policy": drawn.parity}, {"symbols": drawn.symbols}),
        chance=0.5,
        ceiling=lambda error: parity_ceiling(error, k),
    )


def parity_policy(k: int, d: int, encoder: tuple[int, ...], seed: int) -> keras.Model:
    """Builds the policy: the layers of `parity_model` up to its last one.

    In its place stand `policy`, a logit for each action, and `value`.

    Args:
        k: Integer, the images in a tuple.
        d: Integer, the values in an image.
        encoder: Tuple of the units of the encoder's hidden layers.
        seed: Integer seed of the weights. Layers that both have begin with equal ones.
    """
    names = [(f"encoder_{i}", units, "relu") for i, units in enumerate(encoder, 1)]
    names += [("symbols", 10, "softmax")]
    behind = [(f"classifier_{i}", units, "relu") for i, units in enumerate(CLASSIFIER, 1)]
    dense = seeded_dense(seed, len(names) + len(behind) + 2)
    images = hidden = keras.Input((int(k), int(d)), name="images")
    for name, units, activation in names:
        hidden = dense(name, units, activation)(hidden)
    hidden = keras.layers.Flatten(name="flatten")(hidden)
    for name, units, activation in behind:
        hidden = dense(name, units, activation)(hidden)
    outputs = {"policy": dense("policy", 2)(hidden), "value": dense("value", 1)(hidden)}
    return keras.Model(images, outputs, name="parity_policy")

"""One run of a sweep on a task that is learned by reward."""

from collections.abc import Callable
from typing import Any

from keras_e2e.callbacks import AutoMode
from keras_e2e.experiments import regimes, tasks
from keras_e2e.experiments.limits.names import WITHOUT_LABELS
from keras_e2e.experiments.limits.results import Signals, rewarded
from keras_e2e.experiments.limits.setting import ROLLOUT, Setting
from keras_e2e.experiments.tasks import RewardTask
from keras_e2e.experiments.tasks.datasets import split_images
from keras_e2e.rewards import evaluate_policy

# How often a rollout is gone through.
PASSES = 4

# Episodes of the validation and of the test.
EPISODES = 4096

TASKS: dict[str, Callable[[Setting], RewardTask]] = {
    "parity_by_reward": lambda s: tasks.parity_by_reward(s.k, s.data, s.seed, s.labels),
}
"""What makes the task of a setting, by its name (`names.BY_REWARD`)."""


def run(setting: Setting) -> dict[str, Any]:
    """Trains a policy as the setting says, and measures.

    Args:
        setting: A `Setting` of one of these tasks that `Setting.check` accepts.

    Returns:
        A dict as of `run.run`. The `accuracy` is the mean reward of a test episode, the
        `curve` that of the latest episodes in training. Steps are environment steps but
        for `spent`, where they are the `examples`, and `labels` is the number of images
        whose label is known.
    """
    task = TASKS[setting.task](setting)
    batches = PASSES * ROLLOUT // setting.batch_size
    watch = AutoMode() if setting.regime == "auto" else Signals(batches)
    found = regimes.train_by_reward(
        task,
        setting.regime,
        setting.steps,
        seed=setting.seed,
        learning_rate=setting.learning_rate,
        num_envs=ROLLOUT,
        passes=PASSES,
        batch_size=setting.batch_size,
        episodes=EPISODES,
        watch=watch,
        verbose=0,
    )
    environments = task.environments(ROLLOUT, "validation")
    validation = evaluate_policy(found.model, environments, EPISODES, seed=setting.seed)
    return rewarded(task, found, validation.mean_return, _labels(setting))


def _labels(setting: Setting) -> int:
    """How many training images have a label that the regime sees."""
    if setting.regime in WITHOUT_LABELS:
        return 0
    if setting.labels is not None:
        return setting.labels
    return len(split_images(setting.data, setting.seed)[0][1])

"""Ways to train a policy by reward: what of it learns from rewards, and what beside."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import keras

from keras_e2e.callbacks import AutoMode, ModuleDiagnostics
from keras_e2e.experiments.regimes.plans import (
    Stage,
    auto,
    deep_supervision,
    end_to_end,
    greedy,
    local,
    local_then_end_to_end,
)
from keras_e2e.experiments.regimes.policies import train_policy
from keras_e2e.experiments.regimes.training import Trained
from keras_e2e.experiments.regimes.transfer import transfer_weights
from keras_e2e.experiments.tasks.reward_task import RewardTask
from keras_e2e.models.modularize import modularize
from keras_e2e.objectives import IntermediateTarget
from keras_e2e.rewards import PPO, Rollouts, evaluate_policy
from keras_e2e.utils.validation import did_you_mean


def pretrained_then_frozen(names: Sequence[str]) -> list[Stage]:
    """Trains all modules but the last on what a random policy sees, then the last alone.

    A third of the steps each: the modules but the last in turn, by their own objectives,
    while the last one is as it was drawn; the last one, by reward, while they are frozen;
    and end to end.

    Args:
        names: List of the names of the modules, in order.

    Returns:
        List of the `Stage`s.

    Example:

    >>> from keras_e2e.experiments.regimes import pretrained_then_frozen
    >>> [stage.frozen for stage in pretrained_then_frozen(["encoder", "policy"])]
    [(), ('encoder',), ()]
    """
    first = greedy(names)[:-1]
    share = float(len(first))
    return [*first, Stage(share, frozen=tuple(names[:-1])), Stage(share)]


class RewardRegime(NamedTuple):
    """A way to train a policy.

    Attributes:
        plan: Function from the names of the modules to the `Stage`s.
        objective: The objective of each module but the last; None where there is none, and
            `"labels"` for the labels of the task.
    """

    plan: Callable[[Sequence[str]], list[Stage]]
    objective: str | None


LABELS = "labels"

REWARD_REGIMES: dict[str, RewardRegime] = {
    "end_to_end": RewardRegime(end_to_end, None),
    "local_reconstruction": RewardRegime(local, "reconstruction"),
    "local_barlow_twins": RewardRegime(local, "barlow_twins"),
    "pretrained_reconstruction": RewardRegime(pretrained_then_frozen, "reconstruction"),
    "pretrained_barlow_twins": RewardRegime(pretrained_then_frozen, "barlow_twins"),
    "deep_supervision": RewardRegime(deep_supervision, LABELS),
    "local": RewardRegime(local, LABELS),
    "local_then_end_to_end": RewardRegime(local_then_end_to_end, LABELS),
    "auto": RewardRegime(auto, LABELS),
}
"""The ways of training by reward, by name."""


class TrainedPolicy(NamedTuple):
    """A policy that was trained by reward, and what became of it.

    Attributes:
        model: The modular model.
        trained: `Trained`, with the curve.
        reward: Float, the mean return of its most likely actions in the environments of
            the split "test".
        watch: The callback that measured meanwhile, None without one.
    """

    model: Any
    trained: Trained
    reward: float
    watch: ModuleDiagnostics | None


def train_by_reward(
    task: RewardTask,
    regime: str,
    env_steps: int,
    *,
    seed: int = 0,
    learning_rate: float = 1e-3,
    num_envs: int = 1024,
    rollout_steps: int = 1,
    passes: int = 4,
    batch_size: int = 128,
    episodes: int = 4096,
    watch: ModuleDiagnostics | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    model: Any = None,
    verbose: int | Literal["auto"] = "auto",
) -> TrainedPolicy:
    """Makes a modular policy for a task, trains it by reward, and tests it.

    By PPO, with half of the squared error of the value; advantages are not normalized: in
    a task that can be solved they end at zero, and a standard deviation of one would be
    noise.

    Args:
        task: A `tasks.RewardTask`.
        regime: String, a name from `REWARD_REGIMES`.
        env_steps: Integer, the environment steps of all stages together, a multiple of
            those of a rollout, `num_envs * rollout_steps`.
        seed: Integer seed of weights, environments and actions. Defaults to 0.
        learning_rate: Float, that of Adam. Defaults to 0.001.
        num_envs: Integer, the number of environments. Defaults to 1024.
        rollout_steps: Integer, the steps in each that make a rollout. Defaults to 1.
        passes: Integer, how often a rollout is gone through. Defaults to 4.
        batch_size: Integer, the steps of a batch. Defaults to 128.
        episodes: Integer, the episodes of the test. Defaults to 4096.
        watch: A `ModuleDiagnostics` that measures in all stages, in the regime "auto" an
            `AutoMode`. Defaults to None: nothing is measured but by `AutoMode()`.
        callbacks: Further callbacks. Defaults to none.
        model: The model of an earlier call for a task of that size, which is taken again
            and begins anew; traces need not be made again. Defaults to None.
        verbose: As in `train_policy`. Defaults to `"auto"`.

    Returns:
        A `TrainedPolicy`.

    Raises:
        ValueError: If the regime is unknown, or `env_steps` are no multiple.

    Example:

    >>> from keras_e2e import regimes, tasks
    >>> task = tasks.parity_by_reward(k=1, labeled=10)
    >>> found = regimes.train_by_reward(task, "deep_supervision", 256, num_envs=128,
    ...                                 verbose=0)
    >>> 0.0 < found.reward < 1.0, found.trained.history[-1]["env_steps"]
    (True, 256.0)
    """
    size = num_envs * rollout_steps
    _check(regime, env_steps, size)
    keras.utils.set_random_seed(seed)
    if model is None:
        model = policy_model(task, regime, seed, learning_rate)
    else:
        _begin_anew(model, task.build(seed))
    stages = REWARD_REGIMES[regime].plan([module.name for module in model.modules])
    if regime == "auto":
        # AutoMode measures by itself: a second callback would measure the same again.
        watch = watch or AutoMode()
        stages = [stage._replace(callbacks=list) for stage in stages]
    rollouts = Rollouts(
        task.environments(num_envs),
        model,
        steps=rollout_steps,
        passes=passes,
        batch_size=batch_size,
        normalize_advantages=False,
        labels=task.labels if REWARD_REGIMES[regime].objective == LABELS else None,
        seed=seed,
    )
    used = [*([watch] if watch else []), *callbacks]
    epochs = env_steps // size
    trained = train_policy(
        model, stages, rollouts, epochs=epochs, callbacks=used, verbose=verbose
    )
    test = task.environments(min(episodes, num_envs), "test")
    reward = evaluate_policy(model, test, episodes, seed=seed).mean_return
    return TrainedPolicy(model, trained, reward, watch)


def _check(regime: str, env_steps: int, size: int) -> None:
    if regime not in REWARD_REGIMES:
        raise ValueError(
            f"regime={regime!r}: expected one of {', '.join(REWARD_REGIMES)}."
            f"{did_you_mean(regime, REWARD_REGIMES)}"
        )
    if env_steps < 1 or env_steps % size:
        raise ValueError(
            f"env_steps={env_steps}: expected a multiple of the {size} steps of a rollout."
        )


def policy_model(task: RewardTask, regime: str, seed: int, learning_rate: float) -> Any:
    """Makes the compiled modular policy of a regime.

    Args:
        task: The `RewardTask`.
        regime: String, a name from `REWARD_REGIMES`.
        seed: Integer seed of the weights.
        learning_rate: Float, that of Adam.
    """
    objective = REWARD_REGIMES[regime].objective
    own: dict[str, Any] = {
        name: IntermediateTarget(cut.loss) if objective == LABELS else objective
        for name, cut in task.cuts.items()
    }
    model = modularize(task.build(seed), own)
    model.compile(
        keras.optimizers.Adam(learning_rate, epsilon=1e-5, global_clipnorm=0.5),
        loss={"policy": PPO(entropy=0.01), "value": "mse"},
        loss_weights={"policy": 1.0, "value": 0.5},
        # AutoMode measures every tenth step; in executions of ten it would measure all.
        steps_per_execution=1 if regime == "auto" else 8,
    )
    return model


def _begin_anew(model: Any, fresh: keras.Model) -> None:
    """Gives a model the weights of a fresh one, and its optimizer's state of the start."""
    transfer_weights(fresh, model)
    for variable in model.optimizer.variables:
        if variable is not model.optimizer.learning_rate:
            variable.assign(keras.ops.zeros_like(variable))

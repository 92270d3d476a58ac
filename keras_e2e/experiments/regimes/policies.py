"""Trains a policy by reward, by a plan of stages."""

import time
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import keras

from keras_e2e.callbacks import EpisodeReturns
from keras_e2e.experiments.regimes.freezing import frozen_modules
from keras_e2e.experiments.regimes.plans import Stage, divide
from keras_e2e.experiments.regimes.stage_progress import StageProgress
from keras_e2e.experiments.regimes.training import Trained
from keras_e2e.rewards import Rollouts
from keras_e2e.trainers.modular_trainer import ModularTrainer
from keras_e2e.utils.graphs import count_parameters
from keras_e2e.utils.progress import Progress
from keras_e2e.utils.validation import check_integer


def train_policy(
    model: Any,
    plan: Iterable[Stage],
    rollouts: Rollouts,
    *,
    epochs: int,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int | Literal["auto"] = "auto",
) -> Trained:
    """Trains a compiled modular policy by a plan.

    As `train`, with rollouts in place of examples: the policy acts anew in each epoch, in
    whatever stage. So all plans get the same number of environment steps.

    Args:
        model: A compiled modular model, the one that the rollouts are made with.
        plan: The stages; none may be `downstream_of` a boundary.
        rollouts: The `rewards.Rollouts`.
        epochs: Integer, the rollouts of all stages together.
        callbacks: Callbacks for all stages. Defaults to none.
        verbose: As in `train`, with rollouts in place of steps. Defaults to `"auto"`.

    Returns:
        A `Trained`. Its history has an entry for each epoch, with `episode_return` (the
        mean of the latest 100 episodes), `env_steps`, and `step`, the number of optimizer
        steps at its end; its `examples` are the environment steps.

    Raises:
        TypeError: If the model is not modular.
        ValueError: If the rollouts are another model's, a stage is `downstream_of` a
            boundary or freezes an unknown module, there are fewer epochs than stages, or
            `verbose` is unknown.

    Example:

    >>> import keras_e2e as e2e
    >>> from keras_e2e import regimes, tasks
    >>> task = tasks.parity_by_reward(k=1)
    >>> model = e2e.modularize(task.build(0), ["symbols"])
    >>> model.compile("adam", loss={"policy": e2e.rewards.PPO(), "value": "mse"})
    >>> rollouts = e2e.rewards.Rollouts(task.environments(64), model, steps=1, passes=1)
    >>> plan = [regimes.Stage(mode="local")]
    >>> found = regimes.train_policy(model, plan, rollouts, epochs=3, verbose=0)
    >>> found.steps, found.examples
    (3, 192)
    """
    progress = Progress("train_policy", verbose, "rollout")
    stages = list(plan)
    parts = _epochs_of(model, stages, rollouts, epochs)
    model._build_optimizer()  # on all variables, those that a stage freezes among them
    begin, before = time.perf_counter(), rollouts.env_steps
    returns, most = EpisodeReturns(rollouts), 0
    shown = StageProgress(progress, stages, parts)
    history: list[dict[str, float]] = []
    for stage, count in zip(stages, parts, strict=True):
        with frozen_modules(model, stage.frozen):
            model.training_mode = model.check_training_mode(stage.mode)
            most = max(most, count_parameters(model.trainable_variables))
            used = [returns, *stage.callbacks(), *callbacks, shown]
            logs = model.fit(rollouts, epochs=count, verbose=0, callbacks=used).history
        for i in range(count):
            here = {name: float(values[i]) for name, values in logs.items()}
            history.append({**here, "step": (len(history) + 1) * rollouts.num_batches})
    seconds = time.perf_counter() - begin
    steps = epochs * rollouts.num_batches
    return Trained(history, steps, rollouts.env_steps - before, most, seconds)


def _epochs_of(
    model: Any, stages: list[Stage], rollouts: Rollouts, epochs: int
) -> list[int]:
    """Checks the arguments, and returns the epochs of each stage."""
    if not isinstance(model, ModularTrainer):
        raise TypeError(
            f"train_policy needs a modular model; {getattr(model, 'name', model)!r} is a "
            f"{type(model).__name__}. Give modularize(model, boundaries), compiled."
        )
    if rollouts.model is not model:
        raise ValueError(
            f"train_policy: another model ({rollouts.model.name!r}) acts in the rollouts "
            f"than is trained ({model.name!r}). Make Rollouts(envs, model) with this one."
        )
    names = [module.name for module in model.modules]
    unknown = sorted({name for stage in stages for name in stage.frozen} - {*names})
    behind = [stage.downstream_of for stage in stages if stage.downstream_of]
    if unknown or behind:
        found = f"frozen={unknown}" if unknown else f"downstream_of={behind[0]!r}"
        raise ValueError(
            f"train_policy: a stage has {found}. Expected modules of the model ({names}) "
            "to be frozen, and all of the model to be trained: a reward needs the whole "
            "policy."
        )
    check_integer("train_policy: epochs", epochs, len(stages))
    return divide(epochs, [stage.share for stage in stages])

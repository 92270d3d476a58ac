"""One run of a sweep: makes the task and the model, trains, and measures."""

import dataclasses
import functools
import gc
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_e2e.callbacks import AutoMode, ModuleDiagnostics
from keras_e2e.experiments import regimes, tasks
from keras_e2e.experiments.limits import by_reward
from keras_e2e.experiments.limits.names import (
    BY_REWARD,
    CURRICULUM,
    LABEL_FREE,
    WITHOUT_LABELS,
)
from keras_e2e.experiments.limits.results import Signals, measured
from keras_e2e.experiments.limits.setting import WINDOW, Setting
from keras_e2e.experiments.tasks import Task
from keras_e2e.models.modularize import modularize
from keras_e2e.objectives import IntermediateTarget
from keras_e2e.utils.compat import release_traces


def _of_symbols(make: Callable[..., Task]) -> Callable[[Setting], Task]:
    return lambda s: make(s.k, s.data, s.examples, s.seed, s.labels)


TASKS: dict[str, Callable[[Setting], Task]] = {
    "parity": _of_symbols(tasks.parity),
    "sum_mod_10": _of_symbols(tasks.sum_mod_10),
    "random_table": _of_symbols(tasks.random_table),
    "lines": lambda s: tasks.lines(s.k, s.examples, s.seed),
    "stocks": lambda s: tasks.stocks(s.k, n=s.examples, seed=s.seed),
    "memory": lambda s: tasks.memory(s.k, s.data, s.examples, s.seed),
    "pentomino": lambda s: tasks.pentomino(n=s.examples, seed=s.seed),
    "clothes_patches": lambda s: tasks.pentomino("fashion_mnist", s.examples, s.seed),
    "roman_arithmetic": lambda s: tasks.arithmetic("roman", n=s.examples, seed=s.seed),
    "decimal_arithmetic": lambda s: tasks.arithmetic("decimal", n=s.examples, seed=s.seed),
    "scenes": lambda s: tasks.scenes(s.examples, s.seed),
}
"""What makes the task of a setting, by its name; of those by reward `by_reward.TASKS`."""


def run(setting: Setting) -> dict[str, Any]:
    """Trains as the setting says, and measures.

    Args:
        setting: A `Setting` that `Setting.check` accepts.

    Returns:
        A dict that can be written as JSON: test `accuracy`, that of the `validation`,
        whether it is a `success`, the step `reached` at which the training accuracy was
        above that mark (None: never), the `curve` of the training accuracy, for each module
        that has labels its `purity` and `error`, for each module the `snr` over steps, the
        `ceiling` that the error allows, `chance`, and what was `spent`.
    """
    setting.check()
    try:
        if setting.task in BY_REWARD:
            return by_reward.run(setting)
        return _curriculum(setting) if setting.regime == CURRICULUM else _whole(setting)
    finally:
        # TensorFlow would keep what the run traced, and with it the run's examples.
        release_traces()
        gc.collect()


def _whole(setting: Setting) -> dict[str, Any]:
    """All stages on the whole task."""
    task = TASKS[setting.task](setting)
    model = _fresh(setting, task)
    plan = "pretrained" if setting.regime in LABEL_FREE else setting.regime
    watch = _watch(setting)
    keras.utils.set_random_seed(setting.seed)
    ideal_activations = {
        name: cut.ideal_activation(_known(task.train, name))
        for name, cut in task.cuts.items()
    }
    labels = task.train.labels if setting.regime not in WITHOUT_LABELS else {}
    stages = regimes.PLANS[plan]([module.name for module in model.modules])
    if setting.regime == "auto":
        # AutoMode measures by itself: a second callback would measure the same again.
        stages = [regimes.Stage(callbacks=lambda: [watch])]
    callbacks = [] if setting.regime == "auto" else [watch]
    trained = regimes.train(
        model,
        stages,
        task.train.x,
        {**task.train.y, **labels},
        steps=setting.steps,
        batch_size=setting.batch_size,
        seed=setting.seed,
        window=WINDOW,
        ideal_activations=ideal_activations,
        callbacks=callbacks,
        verbose=0,
    )
    labeled = setting.regime not in WITHOUT_LABELS
    return measured(task, model, trained, watch, labeled)


def _curriculum(setting: Setting) -> dict[str, Any]:
    """Tuples of one image first, then of two, and so on, with equal shares of the steps."""
    share = setting.steps // setting.k // WINDOW * WINDOW
    parts = [share] * (setting.k - 1) + [setting.steps - share * (setting.k - 1)]
    model: Any = None
    history: list = []
    seconds = 0.0
    for k, steps in enumerate(parts, start=1):
        smaller = dataclasses.replace(setting, k=k, regime="end_to_end")
        task = TASKS[setting.task](smaller)
        easier, model = model, _fresh(smaller, task)
        if easier is not None:
            regimes.transfer_weights(easier, model)
        watch = _watch(smaller)
        keras.utils.set_random_seed(setting.seed)
        trained = regimes.train(
            model,
            "end_to_end",
            task.train.x,
            task.train.y,
            steps=steps,
            batch_size=setting.batch_size,
            seed=setting.seed,
            window=WINDOW,
            callbacks=[watch],
            verbose=0,
        )
        done, seconds = sum(parts[: k - 1]), seconds + trained.seconds
        history += [{**logs, "step": logs["step"] + done} for logs in trained.history]
    whole = trained._replace(
        # The accuracy of an easier task is not that of the task.
        history=[logs for logs in history if logs["step"] > setting.steps - parts[-1]],
        steps=setting.steps,
        examples=setting.steps * setting.batch_size,
        seconds=seconds,
    )
    return measured(task, model, whole, watch, labeled=False)


def _fresh(setting: Setting, task: Task) -> Any:
    """A compiled model with the seed's weights and a fresh optimizer."""
    objective = LABEL_FREE.get(setting.regime)
    if objective is not None:  # its heads begin at weights of their own
        keras.utils.set_random_seed(setting.seed)
        model = _compiled(setting, task, objective)
    else:
        kept = (setting.task, setting.k, setting.data, _at_once(setting))
        model, start = _traced(kept, lambda: _compiled(setting, task, None))
        model.set_weights(task.build(setting.seed).get_weights())
        for variable, value in zip(model.optimizer.variables, start, strict=True):
            variable.assign(value)
    model.optimizer.learning_rate = setting.learning_rate
    return model


class _Kept:
    """An argument for the cache that is compared by its key alone."""

    def __init__(self, key: tuple, make: Callable[[], Any]):
        self.key, self.make = key, make

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Kept) and self.key == other.key


def _traced(key: tuple, make: Callable[[], Any]) -> tuple[Any, list]:
    """A model that is traced once for all seeds, and its optimizer's start."""
    return _cached(_Kept(key, make))


# A curriculum needs one for each size, in each of its runs.
@functools.lru_cache(maxsize=8)
def _cached(kept: _Kept) -> tuple[Any, list]:
    model = kept.make()
    del kept.make  # which holds the task, with all its examples
    model._build_optimizer()
    return model, [keras.ops.convert_to_numpy(v).copy() for v in model.optimizer.variables]


def _compiled(setting: Setting, task: Task, objective: str | None) -> Any:
    base = task.build(setting.seed)
    own: dict[str, Any] = {
        name: objective or IntermediateTarget(cut.loss) for name, cut in task.cuts.items()
    }
    model = modularize(base, own)
    model.compile(
        keras.optimizers.Adam(setting.learning_rate),
        task.loss,
        metrics=task.metrics,
        steps_per_execution=_at_once(setting),
    )
    return model


def _at_once(setting: Setting) -> int:
    """AutoMode measures every tenth step; in executions of ten it would measure all."""
    return 1 if setting.regime == "auto" else 10


def _watch(setting: Setting) -> ModuleDiagnostics:
    return AutoMode() if setting.regime == "auto" else Signals(WINDOW)


def _known(split: tasks.Split, name: str) -> np.ndarray:
    """The labels; those that are missing as zero."""
    return np.maximum(split.labels[name], 0)

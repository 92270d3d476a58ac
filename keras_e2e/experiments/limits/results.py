"""The results of a run of a sweep: numbers that can be written as JSON."""

import math
from typing import Any

import keras
import numpy as np

from keras_e2e.callbacks import ModuleDiagnostics
from keras_e2e.experiments import regimes
from keras_e2e.experiments.tasks import RewardTask, Task
from keras_e2e.models.modularize import strip


class Signals(ModuleDiagnostics):
    """Keeps the gradient SNR over all stages, while `history` starts anew with each."""

    def __init__(self, update_freq: int):
        super().__init__(update_freq)
        self.series: dict[str, list] = {}

    def on_measurement(self, step, measurements):
        for name in self.module_names:
            value = measurements["gradient_snr"].get(name, math.nan)
            self.series.setdefault(name, []).append([step, value])


def measured(
    task: Task,
    model: Any,
    trained: regimes.Trained,
    watch: ModuleDiagnostics,
    labeled: bool,
) -> dict[str, Any]:
    """Returns the results of a run; see `run.run`.

    Args:
        task: The `Task` that was trained.
        model: The trained model.
        trained: The `Trained` of its training.
        watch: The callback that measured meanwhile: `Signals`, or `AutoMode`.
        labeled: Boolean, whether the regime sees intermediate labels.

    Returns:
        A dict that can be written as JSON.
    """
    test, validation = (
        model.evaluate(split.x, split.y, batch_size=1000, verbose=0, return_dict=True)
        for split in (task.test, task.validation)
    )
    metric = next(name for name in test if name != "loss")
    curve = [[logs["step"], logs.get(metric, math.nan)] for logs in trained.history]
    scores = test[metric], validation[metric]
    snr = _snr(watch, trained.history)
    labels = _labels(task) if labeled else 0
    return _results(task, model, trained, watch, scores, curve, snr, labels)


def rewarded(
    task: RewardTask, found: regimes.TrainedPolicy, validation: float, labels: int
) -> dict[str, Any]:
    """Returns the results of a run by reward; see `by_reward.run`.

    Args:
        task: The `RewardTask`.
        found: The `TrainedPolicy`; its callback is `Signals` or `AutoMode`.
        validation: Float, the mean return in the environments of that split.
        labels: Integer, how many labels the regime sees.

    Returns:
        A dict that can be written as JSON.
    """
    trained = found.trained

    def in_environments(step: float) -> int:
        return round(step * trained.examples / trained.steps)

    curve = [
        [in_environments(logs["step"]), logs["episode_return"]] for logs in trained.history
    ]
    snr = {
        name: [[in_environments(step), value] for step, value in series]
        for name, series in _snr(found.watch, trained.history).items()
    }
    scores = found.reward, validation
    return _results(task, found.model, trained, found.watch, scores, curve, snr, labels)


def _results(
    task: Task | RewardTask,
    model: Any,
    trained: regimes.Trained,
    watch: ModuleDiagnostics | None,
    scores: tuple[float, float],
    curve: list,
    snr: dict[str, list],
    labels: int,
) -> dict[str, Any]:
    """What all runs have; `scores` are those of the test and of the validation."""
    # Some stages make no predictions.
    curve = [[step, value] for step, value in curve if not math.isnan(value)]
    above = [step for step, value in curve if value >= task.success]
    modules = _modules(task, model)
    first = next(iter(modules.values()), {})
    ceiling = task.ceiling(first["error"]) if first else math.nan
    return _plain(
        {
            "accuracy": scores[0],
            "validation": scores[1],
            "success": bool(scores[0] >= task.success),
            "reached": above[0] if above else None,
            "curve": curve,
            "modules": modules,
            "snr": snr,
            "decisions": [
                [d.step, str(d.mode), d.reason] for d in getattr(watch, "decisions", [])
            ],
            "ceiling": ceiling,
            "chance": task.chance,
            "mark": task.success,
            "spent": {
                "steps": trained.steps,
                "examples": trained.examples,
                "labels": labels,
                "parameters": trained.parameters,
                "seconds": trained.seconds,
            },
        }
    )


def purity(units: np.ndarray, labels: np.ndarray) -> float:
    """The share of labels that are the most frequent one of their cluster.

    Args:
        units: Array with the cluster of each example, integers.
        labels: Array of the same size with the label of each example.

    Example:

    >>> import numpy as np
    >>> from keras_e2e.experiments.limits.results import purity
    >>> purity(np.array([3, 3, 3, 1]), np.array([0, 0, 5, 5]))
    0.75
    """
    kinds, coded = np.unique(labels.ravel(), return_inverse=True)
    table = np.zeros((int(units.max()) + 1, len(kinds)), int)
    np.add.at(table, (units.ravel(), coded.ravel()), 1)
    return float(table.max(axis=1).sum() / units.size)


def _snr(watch: Any, history: list[dict[str, float]]) -> dict[str, list]:
    """The gradient SNR of each module: steps, all stages counted, and values."""
    if not isinstance(watch, Signals):  # AutoMode, whose training is of one stage
        return {
            name: [list(pair) for pair in zip(watch.steps, values, strict=True)]
            for name, values in watch.history["gradient_snr"].items()
        }
    # What lies downstream of a boundary has an optimizer of its own, which does not count.
    whole = [
        logs["step"]
        for logs in history
        if not any(name.startswith(regimes.DOWNSTREAM) for name in logs)
    ]
    before = whole[0] - watch.update_freq if whole else 0
    return {
        name: [[before + step, value] for step, value in series]
        for name, series in watch.series.items()
    }


def _modules(task: Task | RewardTask, model: Any) -> dict[str, dict[str, float]]:
    """How well the activation at each cut predicts the labels, up to their names.

    `purity`: the share of positions whose label is the most frequent one where that unit
    is the largest. `error`: one minus the same for what the task needs of the labels.
    """
    found = {}
    # A graph of its own: Keras names the inputs of a part of a modular one twice.
    plain = task.build(0)
    regimes.transfer_weights(strip(model), plain)
    for name, cut in task.cuts.items():
        if cut.classes is None:
            continue
        part = keras.Model(plain.inputs, plain.get_layer(name).output)
        activation = part.predict(task.test.x, batch_size=1000, verbose=0)
        if activation.shape[-1] == 1:
            units = (activation[..., 0] > 0.5).astype(int)
        else:
            units = activation.argmax(-1)
        labels = task.test.labels[name].reshape(units.shape)
        needed = np.asarray(cut.needed(labels))
        found[name] = {
            "purity": purity(units, labels),
            "error": 1.0 - purity(units, needed),
        }
    return found


def _labels(task: Task) -> int:
    """How many intermediate labels the training examples carry."""
    return int(sum((labels >= 0).sum() for labels in task.train.labels.values()))


def _plain(value: Any) -> Any:
    """With Python's own numbers, and None for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value

"""Trains a modular model by a plan: one stage after another."""

import contextlib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
from keras import tree

from keras_e2e.experiments.regimes.caching import Unchanged, UpstreamCache
from keras_e2e.experiments.regimes.data import ArrayData, Data, as_data, as_validation_data
from keras_e2e.experiments.regimes.downstream import compile_downstream
from keras_e2e.experiments.regimes.freezing import frozen_modules
from keras_e2e.experiments.regimes.plans import PLANS, Stage, divide
from keras_e2e.experiments.regimes.stage_progress import StageProgress
from keras_e2e.trainers.modular_trainer import ModularTrainer
from keras_e2e.utils.compat.build import build_as_fit_does
from keras_e2e.utils.data import endless
from keras_e2e.utils.graphs import count_parameters
from keras_e2e.utils.progress import Progress
from keras_e2e.utils.validation import check_integer, did_you_mean

DOWNSTREAM = "downstream_"
"""Prefix of the logs of a stage that trains what lies downstream of a boundary."""


class Trained(NamedTuple):
    """The result of a training: learning curve and costs.

    Attributes:
        history: List with a dict for each window of steps: the logs of `fit`, and `step`,
            the number of steps at its end. The logs of a stage that trains what lies
            downstream of a boundary begin with `downstream_`. Metrics that a stage has
            not, such as the accuracy while the outputs are not computed, are NaN.
        steps: Integer, the optimizer steps of all stages together.
        examples: Integer, the examples seen, repetitions included. (A smaller last batch
            of a dataset counts as a full one.)
        parameters: Integer, the most parameters that a stage trained, heads included.
        seconds: Float, the time that all stages took, tracing included.
        cached_bytes: Integer, the most that cached activations took at a time. Defaults
            to 0.

    Example:

    >>> from keras_e2e.experiments.regimes import Trained
    >>> found = Trained([{"loss": 0.5, "step": 100}], 100, 12800, 42, 1.5)
    >>> found.history[-1]["loss"], found.examples
    (0.5, 12800)
    """

    history: list[dict[str, float]]
    steps: int
    examples: int
    parameters: int
    seconds: float
    cached_bytes: int = 0


def train(
    model: Any,
    plan: str | Iterable[Stage],
    x: Any,
    y: Any = None,
    *,
    steps: int,
    batch_size: int | None = None,
    seed: int = 0,
    window: int = 100,
    ideal_activations: Mapping[str, Any] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    validation_data: Any = None,
    cache: str | os.PathLike | None = None,
    verbose: int | Literal["auto"] = "auto",
) -> Trained:
    """Trains a compiled modular model by a plan.

    A plan is a list of stages, one after another; each trains some of the modules for a
    share of the steps (`Stage`). The optimizer goes on from stage to stage, as it does
    when the mode is switched in `fit`. A stage with `downstream_of` has an optimizer of
    its own, made like the model's.

    In a stage that trains one module alone (`"sequential:NAME"`, as in the plans `greedy`
    and `pretrained`) those upstream stand still, in inference mode, and return the same in
    each epoch. With `cache` this is computed once, when the stage begins, and its steps run
    one module. Weights, metrics and losses are those of the run without, up to rounding
    (with arrays to the bit on all models that were tried), but for penalties on
    activations of modules upstream, which train nothing there and are no longer in the
    loss. A dataset is gone through more often than without, so the order of one that
    shuffles is another. A step that measures diagnostics runs all modules.

    Args:
        model: A compiled modular model.
        plan: String, a name from `PLANS`, or the stages themselves.
        x: The inputs, arrays. Or a `tf.data.Dataset` or a `keras.utils.PyDataset` with an
            end, that brings batches with their targets; it is gone through again and again.
        y: The targets, and intermediate labels by name, as in `model.fit`; arrays.
            Defaults to None, for a dataset.
        steps: Integer, the steps of all stages together, a multiple of `window`.
        batch_size: Integer, the examples in a batch of arrays; every batch is full.
            Defaults to None, which means 128, as in the experiments of this package.
        seed: Integer seed for the order of arrays' examples, which differs from stage to
            stage. Defaults to 0.
        window: Integer, the steps from one entry of the history to the next. Defaults to
            100.
        ideal_activations: A dict from the name of a boundary to an array: what the
            boundary ought to return for each example. Needed for each boundary that a
            stage is `downstream_of`. Defaults to None.
        callbacks: Callbacks for all stages that train the whole model. Defaults to none.
        validation_data: Tuple `(x, y)` of arrays, or a dataset, to evaluate the model on at
            the end of each window of those stages. Defaults to None.
        cache: `"memory"`, or the path of a folder: where what modules upstream return is
            kept for stages that train one module alone. The folder holds a file while this
            runs. Defaults to None: nothing is kept.
        verbose: 0 for nothing, 1 for a bar, 2 for a line for each stage and now and then,
            or `"auto"`: 1 in a terminal or a notebook, else 2. Defaults to `"auto"`.

    Returns:
        A `Trained`. The model's `training_mode` is that of the last such stage.

    Raises:
        TypeError: If the model is not modular.
        ValueError: If a plan, module, boundary or `verbose` is unknown, the steps cannot
            be divided, the ideal activations of a stage are missing, or a model cannot be
            cut at its boundary. With `cache`: if no stage trains on what stands still, the
            data are augmented, what modules upstream return for an example is not the same
            each time, or the folder is full or not writable. Nothing is trained then.
        RuntimeError: If a callback switches the mode of a stage that uses the cache, or
            sets weights upstream of it.

    Example:

    >>> import keras, numpy as np, keras_e2e as e2e
    >>> base = keras.Sequential([keras.Input((2,)), *map(keras.layers.Dense, (3, 1))])
    >>> model = e2e.modularize(base, 1)
    >>> model.compile("sgd", "mse")
    >>> found = e2e.regimes.train(model, "greedy", np.ones((64, 2)), np.ones((64, 1)),
    ...                           steps=4, batch_size=16, window=2, verbose=0)
    >>> found.steps, [logs["step"] for logs in found.history]
    (4, [2, 4])
    """
    if not isinstance(model, ModularTrainer):
        raise TypeError(
            f"regimes.train needs a modular model; {getattr(model, 'name', model)!r} is a "
            f"{type(model).__name__}. Give modularize(model, boundaries), compiled."
        )
    told = Progress("regimes.train", verbose)
    stages = _stages(plan, [module.name for module in model.modules])
    parts = _parts(stages, steps, window)
    data = as_data(x, y, batch_size)
    validation = as_validation_data(validation_data, batch_size)
    ideal = ideal_activations or {}
    downstream = _check(model, stages, data, ideal)
    kept = None if cache is None else UpstreamCache(model, stages, data, validation, cache)
    begin = time.perf_counter()
    shown = StageProgress(told, stages, [n * window for n in parts])
    history: list[dict[str, float]] = []
    most = 0
    with contextlib.closing(kept) if kept else contextlib.nullcontext():
        for number, (stage, windows) in enumerate(zip(stages, parts, strict=True)):
            fit = {"steps_per_epoch": window, "epochs": windows, "callbacks": [shown]}
            order, boundary = seed + 1000 * number, stage.downstream_of
            if boundary is None:
                found = _Source(data, validation, kept, order)
                logs, count = _train_whole(model, stage, found, fit, callbacks)
            else:
                part, given = downstream[boundary], ideal[boundary]
                logs, count = _train_downstream(model, part, given, data, order, fit)
            most = max(most, count)
            done = history[-1]["step"] if history else 0
            for i in range(windows):
                here = {name: float(values[i]) for name, values in logs.items()}
                history.append({**here, "step": done + (i + 1) * window})
    seconds, size = time.perf_counter() - begin, kept.bytes if kept else 0
    return Trained(history, steps, steps * data.batch_size, most, seconds, size)


class _Source(NamedTuple):
    """Where the batches of a stage of the whole model come from."""

    data: Data
    validation: Data | None
    cache: UpstreamCache | None
    order: int


def _train_whole(
    model: Any, stage: Stage, source: _Source, fit: dict, callbacks: Sequence
) -> tuple[dict[str, list], int]:
    """The logs of a stage of the whole model, and how many parameters it trained."""
    with frozen_modules(model, stage.frozen):
        model.training_mode = mode = model.check_training_mode(stage.mode)
        count = count_parameters(model.trainable_variables)
        used = [*stage.callbacks(), *callbacks, *fit["callbacks"]]
        cache = source.cache
        batches = cache and cache.batches(mode, source.order)
        if cache and batches is not None:
            validation = cache.validation(mode)
            used.append(Unchanged(mode, cache.parts[str(mode.module)]))
        else:
            batches = source.data.batches(source.order)
            validation = source.validation and source.validation.one_epoch()
        fit = {**fit, "callbacks": used, "validation_data": validation}
        found = model.fit(batches, shuffle=False, verbose=0, **fit)
        return found.history, count


def _train_downstream(
    model: Any, part: keras.Model, ideal: Any, data: Any, order: int, fit: dict
) -> tuple[dict[str, list], int]:
    """The same of a stage that trains what lies downstream of a boundary."""
    compile_downstream(model, part)  # with the learning rate of now
    targets = model._split(data.y, None).y
    inputs = (*tree.flatten(model._in_order(data.x)), np.asarray(ideal))
    batches = endless((inputs, targets), data.batch_size, order)
    found = part.fit(batches, shuffle=False, verbose=0, **fit).history
    # Losses and metrics on ideal activations are not those of the whole model.
    logs = {f"{DOWNSTREAM}{name}": values for name, values in found.items()}
    return logs, count_parameters(part.trainable_variables)


def _stages(plan: str | Iterable[Stage], names: Sequence[str]) -> list[Stage]:
    if not isinstance(plan, str):
        return list(plan)
    if plan not in PLANS:
        raise ValueError(
            f"plan={plan!r}: expected one of {list(PLANS)}, or stages."
            f"{did_you_mean(plan, PLANS)}"
        )
    return PLANS[plan](names)


def _parts(stages: list[Stage], steps: int, window: int) -> list[int]:
    """The windows of each stage."""
    check_integer("steps", steps, 1)
    check_integer("window", window, 1)
    if not stages or any(not stage.share > 0 for stage in stages):
        raise ValueError(
            f"plan={stages!r}: expected one or more stages, each with a share above 0."
        )
    windows, left = divmod(steps, window)
    if left or windows < len(stages):
        raise ValueError(
            f"steps={steps}: expected a multiple of window={window}, and a window for each "
            f"of the {len(stages)} stages: {len(stages) * window} or more, or a smaller "
            "window."
        )
    return divide(windows, [stage.share for stage in stages])


def _check(
    model: Any, stages: list[Stage], data: Data, ideal_activations: Mapping
) -> dict[str, Any]:
    """Checks the stages, and builds what they need before anything is trained.

    Returns:
        The model downstream of each boundary that a stage names, by its name.
    """
    names = [module.name for module in model.modules]
    downstream: dict[str, Any] = {}
    for stage in stages:
        unknown = sorted(set(stage.frozen) - set(names))
        if unknown:
            raise ValueError(
                f"Stage(frozen={unknown}): the model has no such modules. The modules: "
                f"{names}."
            )
        model.check_training_mode(stage.mode)
        boundary = stage.downstream_of
        if boundary is None or boundary in downstream:
            continue
        if boundary not in ideal_activations:
            raise ValueError(
                f"A stage trains what lies downstream of {boundary!r} on its ideal "
                f"activations; ideal_activations has {sorted(ideal_activations)}. Give "
                f"ideal_activations={{{boundary!r}: ...}}, such as one-hot labels."
            )
        if not isinstance(data, ArrayData):
            raise ValueError(
                f"A stage trains what lies downstream of {boundary!r} on ideal "
                "activations, one for each example, and x is a dataset. Give arrays x, y."
            )
        downstream[boundary] = model.downstream_model(boundary)
    # On all variables, those of modules that the first stage freezes among them.
    model._build_optimizer()
    # By batches as they are: `fit` could not build on those with cached activations.
    build_as_fit_does(model, data.example)
    for part in downstream.values():
        # Compiled again when its stage begins; what cannot be compiled is refused now.
        compile_downstream(model, part)
    return downstream

"""A check-up of a model: train it for a while, judge its modules, restore it."""

import inspect
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import keras

from keras_e2e.callbacks.module_diagnostics import ModuleDiagnostics
from keras_e2e.callbacks.steps import batches_per_step
from keras_e2e.diagnostics import OnDemand
from keras_e2e.diagnostics.idle import with_measured
from keras_e2e.models.diagnosed import as_modules, refuse_model
from keras_e2e.models.diagnosis import Diagnosis
from keras_e2e.models.diagnosis_data import TrainingData, ValidationData
from keras_e2e.models.diagnosis_steps import DiagnosisProgress, StopAfter
from keras_e2e.models.diagnosis_words import explanations, where_gradients_end
from keras_e2e.models.placement import Boundaries
from keras_e2e.modules.training_mode import ModeName, TrainingMode
from keras_e2e.trainers.modular_trainer import ModularTrainer
from keras_e2e.utils.state import preserve_everything
from keras_e2e.utils.validation import check_integer, did_you_mean

# A verdict is made of so many measurements.
MEASUREMENTS = 10
# What `diagnose` gives to `fit` itself.
_OWN = ("callbacks", "epochs", "initial_epoch", "validation_freq", "validation_split")


def diagnose(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    steps: int = 300,
    update_freq: int = 5,
    boundaries: Boundaries = None,
    mode: TrainingMode | ModeName | None = None,
    on_demand: Iterable[OnDemand] = (),
    validation_data: Any = None,
    verbose: int | Literal["auto"] = "auto",
    **fit: Any,
) -> Diagnosis:
    """Trains a model for a few hundred steps and judges each of its modules.

    Any compiled Keras model will do: Functional, Sequential, subclassed or modular. One
    that is not modular is split as `modularize(model, boundaries)` splits it, without
    objectives: unless they are given at the boundaries that it holds, else at up to three
    places that balance the modules. If there is no such place, all of it is one module. It
    is trained with the loss and the optimizer that it is compiled with, from the state that
    both are in.

    Afterwards everything is as it was, to the bit: weights, the optimizer, metrics, random
    generators, the mode, what was built and compiled. What `fit` does then is what it would
    have done without. (The model itself is trained and restored, not a copy, for not every
    model can be copied.) If training fails it is restored as well. Data that keeps a state
    of its own goes on from there: a generator is used up by one batch a step, and a dataset
    that shuffles goes on to its next order.

    Args:
        model: A compiled Keras model.
        x: As in `model.fit`: arrays, or what brings batches with targets: a
            `tf.data.Dataset` or `keras.utils.PyDataset`, which is repeated if need be, or a
            Python generator, after whose end the diagnosis ends.
        y: As in `model.fit`. Defaults to `None`, for datasets.
        steps: Integer, the number of training steps: iterations of the optimizer, of
            several batches each if it accumulates gradients. Defaults to 300.
        update_freq: Integer, the number of steps from one measurement to the next; a
            verdict takes ten measurements. Defaults to 5.
        boundaries: Where the modules end, for a model that is not modular: names of layers,
            or a number of cut points, as in `modularize`. A module is judged as a whole,
            so small ones show more. Defaults to `None`, chosen as said above.
        mode: `TrainingMode` or its name, the mode to train in. Defaults to `None`, which
            means the mode that the model is in.
        on_demand: List of `diagnostics.OnDemand` quantities to measure besides, on the
            model as it is at the start; `x` and `y` must then be arrays. With
            `FrozenUtility()` a module is judged idle if the task is learned as well while
            it is frozen, which takes one more training for each module, and one more.
            Defaults to none.
        validation_data: As in `model.fit`, but for generators. The loss on it is reported,
            before and after. Defaults to `None`.
        verbose: `"auto"`, 0, 1 or 2: 1 prints a progress bar, 2 a line at the start, at
            the end and every ten seconds. `"auto"` is 1 in a terminal or a notebook, else
            2. Defaults to `"auto"`.
        **fit: Further arguments of `model.fit`, such as `batch_size` (`None` means 32,
            as in Keras), `sample_weight` and `class_weight`.

    Returns:
        A `Diagnosis`: print it, or let a notebook show it.

    Raises:
        TypeError: If it is not a Keras model, something in `on_demand` is not an
            `OnDemand`, or an argument is unknown to `fit` or given to it by `diagnose`.
        ValueError: If there are too few steps for ten measurements, the model is not
            compiled or has a `train_step` of its own, boundaries or mode do not fit it, or
            data or targets are missing; if a dataset or class weights are given together
            with `on_demand`.

    Example:

    >>> import keras, numpy as np, keras_e2e as e2e
    >>> model = keras.Sequential([keras.Input((2,)), *map(keras.layers.Dense, (3, 1))])
    >>> model.compile(keras.optimizers.SGD(0.0), "mse")
    >>> found = e2e.diagnose(model, np.ones((64, 2)), np.ones(64), steps=50, verbose=0)
    >>> [verdict.state for verdict in found.verdicts.values()]
    ['frozen', 'frozen']

    Closer, a module for each layer of a deeper one:

    >>> deep = keras.Sequential([keras.Input((2,)), *map(keras.layers.Dense, [3] * 5)])
    >>> deep.compile("sgd", "mse")
    >>> ends = [layer.name for layer in deep.layers[:-1]]
    >>> found = e2e.diagnose(deep, np.ones((64, 2)), np.ones((64, 3)), steps=50, verbose=0,
    ...                      boundaries=ends)
    >>> len(found.verdicts)
    5
    """
    on_demand = list(on_demand)
    refuse_model(model)
    _refuse_arguments(steps, update_freq, fit)
    _refuse_on_demand(on_demand, fit)
    _refuse_boundaries(model, boundaries)
    _refuse_mode(model, mode)
    held_out = ValidationData(validation_data, fit)
    per_step = batches_per_step(model)
    data = TrainingData(x, y, int(steps) * per_step, fit)
    data.refuse_missing_targets(model)
    stop = StopAfter(int(steps), per_step)
    progress = DiagnosisProgress(stop, verbose)
    watch = ModuleDiagnostics(update_freq, "full", max(update_freq, steps // MEASUREMENTS))
    with preserve_everything(model):
        modular = as_modules(model, lambda: data.examples(model), boundaries)
        modular.training_mode = modular.training_mode if mode is None else mode
        measured = _measured(on_demand, modular, x, y, fit, progress)
        before = held_out.loss(model)
        with warnings.catch_warnings():
            # Of a dataset whose size is not known Keras says so after each pass.
            warnings.filterwarnings("ignore", "Your input ran out of data")
            modular.fit(**data.arguments, callbacks=[stop, progress, watch], verbose=0)
        if not stop.taken:
            raise ValueError("diagnose: the data is empty. Give examples to train on.")
        after = held_out.loss(model)
        verdicts = with_measured(watch.verdicts(), measured)
        return Diagnosis(
            verdicts,
            watch.history,
            watch.steps,
            measured,
            stop.taken,
            {} if before is None or after is None else {"before": before, "after": after},
            [*where_gradients_end(modular, verdicts), *_notes(model, modular, stop)],
            explanations([*watch.quantities, *on_demand]),
        )


def _measured(
    on_demand: Sequence[OnDemand],
    modular: Any,
    x: Any,
    y: Any,
    fit: Mapping[str, Any],
    progress: DiagnosisProgress,
) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for quantity in on_demand:
        progress.say(f"measuring {quantity.name}")
        weight, verbose = fit.get("sample_weight"), progress.progress.verbose
        found.update(quantity.measure(modular, x, y, weight, verbose=verbose))
    return found


def _notes(model: keras.Model, modular: Any, stop: StopAfter) -> list[str]:
    """What a reader must know of how it was made, a sentence each."""
    notes = []
    if len(modular.modules) == 1:
        notes.append(
            f"{model.name!r} is judged as one module: it has no layer that all paths from "
            "input to output cross, with weights before and after it."
        )
    elif not isinstance(model, ModularTrainer):
        notes += _split(modular)
    if stop.taken < stop.steps:
        notes.append(
            f"The data ended after {stop.taken} of {stop.steps} steps. Give data that can "
            "be gone through again, or fewer steps."
        )
    return notes


def _split(modular: Any) -> list[str]:
    """Which layers stand behind the names of the modules, where these do not say it."""
    spans = []
    for module in modular.modules:
        layers = [layer.name for layer in module.layers if layer.weights]
        if layers and layers != [module.name]:
            between = " to " if len(layers) > 1 else ""
            last = layers[-1] if between else ""
            spans.append(f"{module.name} ({layers[0]}{between}{last})")
    if not spans:
        return []
    return [
        "A module goes by its last layer and is judged as a whole. Its layers with "
        f"weights: {', '.join(spans)}. To look closer, name the "
        "layers that end a module: diagnose(..., boundaries=[...])."
    ]


def _refuse_boundaries(model: Any, boundaries: Any) -> None:
    """Raises ValueError for boundaries that a diagnosis has no use for."""
    if boundaries is not None and isinstance(model, ModularTrainer):
        raise ValueError(
            f"diagnose(boundaries=...): {model.name!r} is modular and judged by its own "
            "modules. Leave boundaries out, or diagnose the model it was made from."
        )
    if isinstance(boundaries, Mapping):
        raise ValueError(
            "diagnose(boundaries=...): a diagnosis of a model that is not modular has no "
            f"objectives. Give the names alone, {list(boundaries)}; or diagnose "
            "modularize(model, boundaries), compiled."
        )


def _refuse_mode(model: Any, mode: Any) -> None:
    """Raises ValueError for a mode that does not fit the model."""
    if mode is None:
        return
    if isinstance(model, ModularTrainer):
        model.check_training_mode(mode)
    elif TrainingMode.get(mode).name != "end_to_end":
        raise ValueError(
            f"diagnose(mode={str(TrainingMode.get(mode))!r}): {model.name!r} has no local "
            "objectives, so it can be trained end to end only. Leave mode out, or give "
            "modularize(model, boundaries), compiled."
        )


def _refuse_arguments(steps: Any, update_freq: Any, fit: Mapping[str, Any]) -> None:
    """Raises an error for numbers of steps, or arguments of `fit`, that are invalid."""
    check_integer("diagnose: update_freq", update_freq, 1)
    check_integer("diagnose: steps", steps, 1)
    least = MEASUREMENTS * update_freq
    if steps < least:
        raise ValueError(
            f"diagnose(steps={steps}, update_freq={update_freq}): expected steps enough "
            f"for {MEASUREMENTS} measurements: {least} or more."
        )
    own = [*inspect.signature(diagnose).parameters][1:-1]
    fits = [*inspect.signature(keras.Model.fit).parameters][1:]
    known = [*dict.fromkeys(name for name in own + fits if name not in _OWN)]
    for name in fit:
        if name in _OWN:
            raise TypeError(f"diagnose: {name!r} cannot be given: {_instead(name)}")
        if name not in known:
            raise TypeError(
                f"diagnose: unknown argument {name!r}.{did_you_mean(name, known)} Expected "
                f"an argument of diagnose or of model.fit: {known}."
            )


def _instead(name: str) -> str:
    """Why an argument of `fit` is not taken, and what to do."""
    if name.startswith("validation"):
        return (
            "the loss on validation_data is computed before and after, on all of it. Give "
            "validation_data=(x, y)."
        )
    return (
        "diagnose calls fit with a value of its own and restores the model afterwards. To "
        "watch a training of yours, give ModuleDiagnostics() to model.fit."
    )


def _refuse_on_demand(on_demand: Sequence[Any], fit: Mapping[str, Any]) -> None:
    """Raises what `diagnose` says it does, of the quantities on demand."""
    for quantity in on_demand:
        if not isinstance(quantity, OnDemand):
            raise TypeError(
                "diagnose(on_demand=...): expected OnDemand objects, such as "
                f"keras_e2e.diagnostics.FrozenUtility(); found {quantity!r}."
            )
    names = [column for quantity in on_demand for column in quantity.columns]
    if len(set(names)) < len(names):
        raise ValueError(
            f"diagnose(on_demand=...): expected different names; found {names}. Measure "
            "quantities of one name in calls of their own."
        )
    if on_demand and fit.get("class_weight") is not None:
        raise ValueError(
            "diagnose: quantities on demand do not take class_weight. Give the weights of "
            "the examples, as sample_weight."
        )

"""A check-up of a modular model: train it for a while, judge its modules, restore it."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from keras_e2e.callbacks.module_diagnostics import ModuleDiagnostics
from keras_e2e.callbacks.steps import count_steps
from keras_e2e.diagnostics import OnDemand
from keras_e2e.diagnostics.verdicts import with_measured
from keras_e2e.models.diagnosis import Diagnosis
from keras_e2e.modules.training_mode import ModeName, TrainingMode
from keras_e2e.trainers.modular_trainer import ModularTrainer
from keras_e2e.utils.data import brings_batches
from keras_e2e.utils.state import preserve_state
from keras_e2e.utils.validation import check_integer, did_you_mean

# A verdict is made of so many measurements.
MEASUREMENTS = 10
# What `diagnose` gives to `fit` itself.
_OWN = ("callbacks", "epochs", "initial_epoch")


def diagnose(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    steps: int = 300,
    update_freq: int = 5,
    mode: TrainingMode | ModeName | None = None,
    on_demand: Iterable[OnDemand] = (),
    **fit: Any,
) -> Diagnosis:
    """Trains a modular model for a few hundred steps and judges each of its modules.

    Afterwards the model is as it was, to the bit: its weights, its optimizer, its random
    generators and its mode. (The model itself is trained and restored, not a copy, for not
    every model can be copied.) If training fails it is restored as well.

    Args:
        model: A compiled modular model, as `modularize` returns it.
        x: As in `model.fit`: arrays, or a dataset, which is repeated if need be.
        y: As in `model.fit`. Defaults to `None`, for datasets.
        steps: Integer, the number of training steps. Defaults to 300.
        update_freq: Integer, the number of steps from one measurement to the next; a
            verdict takes ten measurements. Defaults to 5.
        mode: `TrainingMode` or its name, the mode to train in. Defaults to `None`, which
            means the mode that the model is in.
        on_demand: List of `diagnostics.OnDemand` quantities to measure besides, on the
            model as it is at the start; `x` and `y` must then be arrays. With
            `FrozenUtility()` a module is judged idle if the task is learned as well while
            it is frozen, which takes one more training for each module, and one more.
            Defaults to none.
        **fit: Further arguments of `model.fit`, such as `batch_size` (`None` means 32,
            as in Keras) and `sample_weight`.

    Returns:
        A `Diagnosis`: print it, or let a notebook show it.

    Raises:
        TypeError: If the model is not modular, something in `on_demand` is not an
            `OnDemand`, or an argument is unknown to `fit` or given to it by `diagnose`.
        ValueError: If there are too few steps for ten measurements, the model is not
            compiled, the mode does not fit it, or targets are missing; if a dataset or
            class weights are given together with `on_demand`.

    Example:

    >>> import keras, numpy as np, keras_e2e as e2e
    >>> base = keras.Sequential([keras.Input((2,)), *map(keras.layers.Dense, (3, 1))])
    >>> model = e2e.modularize(base, 1)
    >>> model.compile(keras.optimizers.SGD(0.0), "mse")
    >>> found = e2e.diagnose(model, np.ones((64, 2)), np.ones(64), steps=50)
    >>> [verdict.state for verdict in found.verdicts.values()]
    ['frozen', 'frozen']
    """
    on_demand = list(on_demand)
    _refuse_model(model)
    _refuse_arguments(steps, update_freq, fit)
    _refuse_on_demand(on_demand, fit)
    if x is None:
        raise ValueError("diagnose: x is None; expected arrays or a dataset. Give x.")
    if not model.modules:
        model._examine_first(x)
    wanted = model.check_training_mode(model.training_mode if mode is None else mode)
    _refuse_missing_targets(model, x, y)
    watch = ModuleDiagnostics(update_freq, "full", max(update_freq, steps // MEASUREMENTS))
    with preserve_state(model):
        model.training_mode = wanted
        measured = _measured(on_demand, model, x, y, fit.get("sample_weight"))
        stop = _StopAfter(steps)
        model.fit(x, y, epochs=steps, callbacks=[watch, stop], **{"verbose": 0, **fit})
        if not watch.steps:
            raise ValueError("diagnose: the data is empty. Give examples to train on.")
        verdicts = with_measured(watch.verdicts(), measured)
        return Diagnosis(verdicts, watch.history, watch.steps, measured, stop.taken)


def _refuse_model(model: Any) -> None:
    """Raises an error if it is not a compiled modular model."""
    if not isinstance(model, ModularTrainer):
        name = f"; {model.name!r} is a " if isinstance(model, keras.Model) else "; found a "
        raise TypeError(
            f"diagnose needs a modular model{name}{type(model).__name__}. Use "
            "keras_e2e.modularize(model, ...)."
        )
    if not model.compiled:  # type: ignore[attr-defined]
        raise ValueError(f"diagnose: {model.name!r} is not compiled. Compile it first.")


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
            raise TypeError(
                f"diagnose: {name!r} cannot be given: diagnose calls fit with a value of "
                "its own and restores the model afterwards. To watch a training of yours, "
                "give ModuleDiagnostics() to model.fit."
            )
        if name not in known:
            raise TypeError(
                f"diagnose: unknown argument {name!r}.{did_you_mean(name, known)} Expected "
                f"an argument of diagnose or of model.fit: {known}."
            )


def _refuse_missing_targets(model: Any, x: Any, y: Any) -> None:
    """Raises ValueError where there are no targets for the compiled loss.

    Some quantities compute it in every training mode.
    """
    if model.loss is None:
        return
    if brings_batches(x):
        spec = getattr(x, "element_spec", None)  # known beforehand of a tf.data.Dataset
        given = spec is None or keras.utils.unpack_x_y_sample_weight(spec)[1] is not None
    else:
        given = y is not None
    if not given:
        raise ValueError(
            f"diagnose: there are no targets, but {model.name!r} is compiled with the loss "
            f"{model.loss!r}. Give y, or a dataset of (x, y)."
        )


def _measured(
    on_demand: Sequence[OnDemand], model: Any, x: Any, y: Any, sample_weight: Any
) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for quantity in on_demand:
        found.update(quantity.measure(model, x, y, sample_weight))
    return found


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


class _StopAfter(keras.callbacks.Callback):
    """Ends `fit` after so many steps, in the middle of an epoch if need be."""

    def __init__(self, steps: int):
        super().__init__()
        self.steps, self.taken = steps, 0

    def on_train_begin(self, logs=None):
        self._before = count_steps(self.model)

    def on_train_batch_end(self, batch, logs=None):
        self.taken = count_steps(self.model) - self._before
        if self.taken >= self.steps:
            self.model.stop_training = True

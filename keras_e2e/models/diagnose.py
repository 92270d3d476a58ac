"""A check-up of a modular model: train it for a while, judge its modules, put it back."""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
from rich.console import Console
from rich.table import Table

from keras_e2e.callbacks.module_diagnostics import ModuleDiagnostics
from keras_e2e.diagnostics import OnDemand, Verdict, states
from keras_e2e.diagnostics.verdicts import with_measured
from keras_e2e.modules import training_mode
from keras_e2e.trainers.modular_trainer import ModularTrainer
from keras_e2e.utils.state import preserve_state

# The numbers that the table shows.
SHOWN = ("loss", "gradient_snr", "signal_gain", "update_ratio", "dormant_fraction")


class Diagnosis(NamedTuple):
    """What `diagnose` found. Printed: tables, and in words what there is to do.

    Attributes:
        verdicts: a `diagnostics.Verdict` for each module, in order.
        history: the readings, by name and module.
        steps: the step of each reading.
        measured: what was measured on demand, by name and module, before those steps.
    """

    verdicts: dict[str, Verdict]
    history: dict[str, dict[str, list[float]]]
    steps: list[int]
    measured: dict[str, dict[str, float]]

    def __str__(self) -> str:
        text = io.StringIO()
        console = Console(file=text, width=110)
        console.print(self._judged())
        if self.measured:
            console.print(self._on_demand())
        for module, verdict in self.verdicts.items():
            if states.BY_NAME[verdict.state].advice:
                console.print(f"{module}: {verdict.message}", highlight=False, markup=False)
        return text.getvalue().rstrip()

    def _judged(self) -> Table:
        table = Table(title=f"Modules after {self.steps[-1]} steps", title_justify="left")
        table.add_column("#")
        for name in ("module", "verdict"):
            table.add_column(name, overflow="fold")
        for name in ("confidence", *SHOWN):
            table.add_column(name, justify="right")
        for number, (module, verdict) in enumerate(self.verdicts.items(), start=1):
            numbers = [verdict.numbers.get(name) for name in SHOWN]
            table.add_row(
                str(number),
                module,
                verdict.state,
                f"{verdict.confidence:.0%}" if verdict.state != "unclear" else "",
                *("" if n is None else f"{n:.3g}" for n in numbers),
            )
        return table

    def _on_demand(self) -> Table:
        table = Table(title="Measured on demand, before those steps", title_justify="left")
        table.add_column("#")
        table.add_column("module", overflow="fold")
        for name in self.measured:
            table.add_column(name, justify="right", overflow="fold")
        for number, module in enumerate(self.verdicts, start=1):
            values = [self.measured[name][module] for name in self.measured]
            shown = ("" if math.isnan(v) else f"{v:.3g}" for v in values)
            table.add_row(str(number), module, *shown)
        return table


def diagnose(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    steps: int = 300,
    every: int = 5,
    mode: Any = None,
    on_demand: Iterable[OnDemand] = (),
    **fit: Any,
) -> Diagnosis:
    """Trains a modular model for a few hundred steps and judges each of its modules.

    The model is as it was afterwards, to the bit: its weights, its optimizer, its random
    generators and its mode. (What it trains is put back, not a copy, for not every model
    can be copied.) If training fails it is put back as well.

    Args:
        model: a compiled modular model.
        x: as in `model.fit`: arrays, or a dataset, which is repeated if need be.
        y: as in `model.fit`.
        steps: for how many steps.
        every: steps from one reading to the next; a judgement takes ten readings.
        mode: a training mode; by default the one in force.
        on_demand: what to measure besides, on the model as it is at the start
            (`diagnostics.OnDemand`); `x` and `y` must then be arrays. With
            `FrozenUtility()` a module is judged idle if the task does as well with it
            frozen. It takes as many more trainings as there are modules, and one.
        **fit: further arguments of `model.fit`: `batch_size`, `sample_weight`, ...

    Returns:
        A `Diagnosis`: print it.

    Raises:
        TypeError: the model is not modular; something in `on_demand` is no `OnDemand`.
        ValueError: `steps` is too few for ten readings, the model is not compiled, or the
            mode does not fit it; a dataset or class weights beside `on_demand`.

    Example:

    >>> import keras, numpy as np, keras_e2e as e2e
    >>> base = keras.Sequential([keras.Input((2,)), *map(keras.layers.Dense, (3, 1))])
    >>> model = e2e.modularize(base, 1)
    >>> model.compile(keras.optimizers.SGD(0.0), "mse")
    >>> found = e2e.diagnose(model, np.ones((64, 2)), np.ones(64), steps=50)
    >>> [verdict.state for verdict in found.verdicts.values()]
    ['frozen', 'frozen']
    """
    modular = isinstance(model, ModularTrainer)
    if not modular:
        raise TypeError(
            f"diagnose needs a modular model; {model.name!r} is a {type(model).__name__}. "
            "Use keras_e2e.modularize(model, ...)."
        )
    if not model.compiled:
        raise ValueError(f"diagnose: {model.name!r} is not compiled. Compile it first.")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 10 * every:
        raise ValueError(
            f"diagnose(steps={steps!r}, every={every}): expected a whole number of steps, "
            f"enough for ten readings: {10 * every} or more."
        )
    on_demand = list(on_demand)
    _refuse(on_demand, fit)
    if not model.modules:
        model._examine_first(x)  # type: ignore[attr-defined]
    wanted = model.training_mode if mode is None else training_mode.TrainingMode.get(mode)
    model.check_training_mode(wanted)
    periodic = max(every, steps // 10)
    readings = ModuleDiagnostics(every, "full", periodic)
    with preserve_state(model):
        model.training_mode = wanted
        measured = _measured(on_demand, model, x, y, fit.get("sample_weight"))
        stop = _StopAfter(steps)
        model.fit(x, y, epochs=steps, callbacks=[readings, stop], **{"verbose": 0, **fit})
        if not readings.steps:
            raise ValueError("diagnose: the data is empty. Give examples to train on.")
        verdicts = with_measured(readings.verdicts(), measured)
        return Diagnosis(verdicts, readings.history, readings.steps, measured)


def _measured(
    on_demand: Sequence[OnDemand], model: Any, x: Any, y: Any, sample_weight: Any
) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for quantity in on_demand:
        found.update(quantity.measure(model, x, y, sample_weight))
    return found


def _refuse(on_demand: Sequence[Any], fit: Mapping[str, Any]) -> None:
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
            f"diagnose(on_demand=...): expected different names; found {names}."
        )
    if on_demand and fit.get("class_weight") is not None:
        raise ValueError(
            "diagnose: what is measured on demand knows no class_weight. Give the weights "
            "of the examples, as sample_weight."
        )


class _StopAfter(keras.callbacks.Callback):
    """Ends `fit` after so many steps, in the middle of an epoch if need be."""

    def __init__(self, steps: int):
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, batch, logs=None):
        self.left -= self.model.steps_per_execution
        if self.left <= 0:
            self.model.stop_training = True

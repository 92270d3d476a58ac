"""A check-up of a modular model: train it for a while, judge its modules, put it back."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from keras_e2e import modes
from keras_e2e.callbacks.readings import Readings
from keras_e2e.diagnostics import Verdict
from keras_e2e.training import ModularTraining

# The numbers that the table shows.
SHOWN = ("loss", "gradient_snr", "signal_gain", "update_ratio", "dormant_fraction")


class Diagnosis(NamedTuple):
    """What `diagnose` found. Printed, it is a table with the words below it.

    Attributes:
        verdicts: a `diagnostics.Verdict` for each module, in order.
        history: the readings, by name and module.
        steps: the step of each reading.
    """

    verdicts: dict[str, Verdict]
    history: dict[str, dict[str, list[float]]]
    steps: list[int]

    def __str__(self) -> str:
        table = Table(title=f"Modules after {self.steps[-1]} steps", title_justify="left")
        table.add_column("#")
        for name in ("module", "verdict"):
            table.add_column(name, overflow="fold")
        for name in ("sure", *SHOWN):
            table.add_column(name, justify="right")
        for number, (module, verdict) in enumerate(self.verdicts.items(), start=1):
            numbers = [verdict.numbers.get(name) for name in SHOWN]
            table.add_row(
                str(number),
                module,
                verdict.state,
                f"{verdict.sure:.0%}" if verdict.state != "unclear" else "",
                *("" if n is None else f"{n:.3g}" for n in numbers),
            )
        text = io.StringIO()
        console = Console(file=text, width=110)
        console.print(table)
        for module, verdict in self.verdicts.items():
            if verdict.alarm:
                console.print(f"{module}: {verdict.words}", highlight=False, markup=False)
        return text.getvalue().rstrip()


def diagnose(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    steps: int = 300,
    every: int = 5,
    mode: Any = None,
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
        **fit: further arguments of `model.fit`: `batch_size`, `sample_weight`, ...

    Returns:
        A `Diagnosis`: print it.

    Raises:
        TypeError: the model is not modular.
        ValueError: `steps` is too few for ten readings, the model is not compiled, or the
            mode does not fit it.

    Example:

    >>> import keras, numpy as np, keras_e2e as e2e
    >>> base = keras.Sequential([keras.Input((2,)), *map(keras.layers.Dense, (3, 1))])
    >>> model = e2e.modularize(base, 1)
    >>> model.compile(keras.optimizers.SGD(0.0), "mse")
    >>> found = e2e.diagnose(model, np.ones((64, 2)), np.ones(64), steps=50)
    >>> [verdict.state for verdict in found.verdicts.values()]
    ['frozen', 'frozen']
    """
    modular = isinstance(model, ModularTraining)
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
    wanted = model.training_mode if mode is None else modes.TrainingMode.get(mode)
    model.check_training_mode(wanted)
    periodic = max(every, steps // 10)
    readings = Readings(every, "full", periodic)
    with put_back(model):
        model.training_mode = wanted
        stop = _StopAfter(steps)
        model.fit(x, y, epochs=steps, callbacks=[readings, stop], **{"verbose": 0, **fit})
        if not readings.steps:
            raise ValueError("diagnose: the data is empty. Give examples to train on.")
        return Diagnosis(readings.verdicts(), readings.history, readings.steps)


@contextlib.contextmanager
def put_back(model: Any) -> Iterator[None]:
    """Puts a modular model back to where it was when this began.

    Weights, the optimizer's variables, seeds and metrics, the training mode, and what
    `fit` and diagnostics leave behind. Holds a copy of all variables meanwhile.
    """
    model._build_optimizer()
    state = model._modular
    variables = [*model.variables, *model.optimizer.variables]
    values = [np.array(keras.ops.convert_to_numpy(v)) for v in variables]
    mode, recorder = state.mode, state.recorder
    left = {name: getattr(model, name, None) for name in ("history", "stop_training")}
    try:
        yield
    finally:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        model.training_mode = mode
        state.recorder, state.due = recorder, 0
        # Steps with diagnostics write to the recorder they were traced with.
        state.functions = {k: f for k, f in state.functions.items() if not k[1]}
        for name, was in left.items():
            setattr(model, name, was)


class _StopAfter(keras.callbacks.Callback):
    """Ends `fit` after so many steps, in the middle of an epoch if need be."""

    def __init__(self, steps: int):
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, batch, logs=None):
        self.left -= self.model.steps_per_execution
        if self.left <= 0:
            self.model.stop_training = True

"""The measurements of a callback as they are saved with the weights."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from keras_e2e.modules.training_mode import TrainingMode
from keras_e2e.trainers.saved_with_weights import State

Numbers = Mapping[str, Mapping[str, Sequence[float]]]


class Measurements(NamedTuple):
    """What was measured: see the attributes of `ModuleDiagnostics`."""

    history: dict[str, dict[str, list[float]]]
    steps: list[int]
    modes: list[TrainingMode]


def pack(history: Numbers, steps: list[int], modes: Sequence[TrainingMode]) -> State:
    """The measurements as a state; the numbers are float32, as they were measured."""
    different = [*dict.fromkeys(modes)]
    numbers = [[*by_module.values()] for by_module in history.values()]
    return State(
        {
            "columns": _columns(history),
            "steps": steps,
            "modes": [mode.get_config() for mode in different],
        },
        {
            "history": np.array(numbers, "float32"),
            "mode_of": np.array([different.index(mode) for mode in modes], "int32"),
        },
    )


def unpack(state: State, history: Numbers) -> Measurements:
    """The measurements of a state.

    Args:
        state: What `pack` returned.
        history: The history, which may be empty, of the quantities and modules there are.

    Raises:
        ValueError: If the state is of other quantities or modules, or damaged.
    """
    saved, expected = state.config["columns"], _columns(history)
    if saved != expected:
        raise ValueError(
            f"it is of the quantities and modules {saved}; here they are {expected}"
        )
    modes = [TrainingMode.get(mode) for mode in state.config["modes"]]
    steps = [int(step) for step in state.config["steps"]]
    numbers, mode_of = state.arrays["history"], state.arrays["mode_of"]
    if mode_of.shape != (len(steps),) or numbers.shape[2:] != (len(steps),):
        raise ValueError(f"it has {len(steps)} steps, and arrays of other lengths")
    return Measurements(
        {
            column: dict(zip(by_module, values.tolist(), strict=True))
            for (column, by_module), values in zip(expected.items(), numbers, strict=True)
        },
        steps,
        [modes[index] for index in mode_of],
    )


def _columns(history: Numbers) -> dict[str, list[str]]:
    """The modules of each quantity."""
    return {column: [*by_module] for column, by_module in history.items()}

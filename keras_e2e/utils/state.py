"""Putting a modular model back to where it was, in place of working on a copy."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np


@contextlib.contextmanager
def preserve_state(model: Any) -> Iterator[None]:
    """Puts a modular model back to where it was when this began.

    Weights, the optimizer's variables, seeds and metrics, the training mode, and what
    `fit` and diagnostics leave behind. Holds a copy of all variables meanwhile. (Not every
    model can be copied.)
    """
    model._build_optimizer()
    state = model._modular
    optimizer = getattr(model, "optimizer", None)
    variables = [*model.variables, *(optimizer.variables if optimizer else ())]
    values = [np.array(keras.ops.convert_to_numpy(v)) for v in variables]
    mode, recorder = state.mode, state.recorder
    left = {name: getattr(model, name, None) for name in ("history", "stop_training")}
    try:
        yield
    finally:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        model.training_mode = mode
        state.put_recorder_back(recorder)
        for name, was in left.items():
            setattr(model, name, was)


@contextlib.contextmanager
def freeze(model: Any, variables: Iterable[keras.Variable]) -> Iterator[None]:
    """Freezes variables of a modular model while this is open.

    Steps are compiled anew meanwhile; those that were compiled before are kept.

    Args:
        model: A modular model.
        variables: Variables of it that are trainable.
    """
    frozen, steps = list(variables), model._modular.steps
    kept = steps.functions, steps.trained
    steps.functions, steps.trained = {}, None
    try:
        for variable in frozen:
            variable.trainable = False
        yield
    finally:
        for variable in frozen:
            variable.trainable = True
        steps.functions, steps.trained = kept

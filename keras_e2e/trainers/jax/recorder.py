"""The variables of the recorder, on JAX."""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_e2e.diagnostics.quantity import ModuleView, Quantity
from keras_e2e.trainers import recorder
from keras_e2e.trainers.optimizer_step import Outcome


class Recorder(recorder.Recorder):
    """A recorder whose variables go through a step as values, as those of a model do.

    Attributes:
        variables: List of all variables.
        values_in_step: List of their values in the step under way; None outside of one.
    """

    def __init__(self, shapes: recorder.Shapes, quantities: Sequence[Quantity]):
        super().__init__(shapes, quantities)
        self.variables = [self.values, *tree.flatten(self.kept)]
        self.values_in_step: list | None = None

    @contextlib.contextmanager
    def in_step(self, values: Sequence[Any]) -> Iterator[None]:
        """In this context `write` goes on from these values of the variables."""
        self.values_in_step = list(values)
        try:
            yield
        finally:
            self.values_in_step = None

    def write(
        self, views: Sequence[ModuleView], measured: Collection[str], outcome: Outcome
    ) -> None:
        mapping = zip(self.variables, self.values_in_step or (), strict=True)
        with keras.StatelessScope(list(mapping)) as scope:
            super().write(views, measured, outcome)
            self.values_in_step = [*map(scope.get_current_value, self.variables)]

    def _variable(self, shape: tuple) -> keras.Variable:
        # Under a name of its own: automatic ones count up, those of layers too.
        zeros = np.zeros(shape, "float32")
        return keras.Variable(
            zeros, trainable=False, dtype="float32", autocast=False, name="diagnostics"
        )

    def _read(self, variable: Any) -> Any:
        return ops.convert_to_tensor(variable)

    def _on_device(self) -> Any:
        return self.values.value

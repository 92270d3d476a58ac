"""The gradients of extra passes over the batch of a step, on JAX."""

from typing import Any

from keras import ops

from keras_e2e.modules.step_context import step_context
from keras_e2e.modules.training_mode import TrainingMode
from keras_e2e.trainers import extra_passes
from keras_e2e.trainers.jax.gradients import StepGradients, unscaled


class ExtraPasses(extra_passes.ExtraPasses):
    """Extra passes through functions of the variables' values.

    Args:
        model: The modular model.
        batch: Tuple of the inputs, targets and sample weights.
        state: Tuple of the values of the variables, as `StepGradients` takes it.

    Attributes:
        trainable: List of the values of the variables that are trained.
        optimizer_values: List of those of the optimizer's.
    """

    def __init__(self, model: Any, batch: tuple, state: tuple):
        super().__init__(model, *batch)
        self.trainable, _, self.optimizer_values, _ = self._state = state

    def _gradients(self, mode: TrainingMode, batch: Any, share: float = 1.0) -> dict:
        model = self.model
        change = step_context(
            model._modular,
            mode=mode,
            targets=batch[1:],
            **{"tap": None, "watch": None, "after_pass": None},
        )
        with change as context:
            gradients = StepGradients(
                *(model, context, self._state, batch, share), measures=True
            )
            _, found = gradients.take(self.trainable)
        factor = gradients.scale(ops.ones(()))
        return {
            id(v): unscaled(g, factor)
            for v, g in zip(model.trainable_variables, found, strict=True)
        }

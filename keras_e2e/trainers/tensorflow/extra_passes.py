"""The gradients of extra passes over the batch of a step, on TensorFlow."""

from typing import Any

import keras
import tensorflow as tf

from keras_e2e.modules.step_context import step_context
from keras_e2e.modules.training_mode import TrainingMode
from keras_e2e.trainers import extra_passes
from keras_e2e.trainers.tensorflow.gradients import StepGradients, unscaled
from keras_e2e.utils.graphs import unique


class ExtraPasses(extra_passes.ExtraPasses):
    """Extra passes whose gradients are taken from a tape."""

    def _gradients(self, mode: TrainingMode, batch: Any, share: float = 1.0) -> dict:
        x, y, sample_weight = batch
        state = self.model._modular
        variables = state.steps.variables(self.model)
        change = step_context(
            state, mode=mode, targets=(y, sample_weight), tap=None, hold=None
        )

        def scale(loss: Any) -> Any:
            return self.model.optimizer.scale_loss(loss) * share

        with change as context:
            gradients = StepGradients(self.model, context, x, variables, scale)
            # With values, or Keras finds none for its penalties of weights; those that were
            # thawed after the step was compiled have penalties, too.
            known = unique([*variables, *self.model.trainable_variables])
            with gradients.tape:
                values = [(v, v.value) for v in known]
                with keras.StatelessScope(values, collect_losses=True):
                    y_pred = self.model(x, training=True)
                    loss = self.model.compute_loss(
                        x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True
                    )
                    if loss is None:
                        return {}
                    gradients.finish(loss, y_pred)
            found = gradients.take()
        factor = scale(tf.ones(()))
        return {id(v): unscaled(g, factor) for v, g in zip(variables, found, strict=True)}

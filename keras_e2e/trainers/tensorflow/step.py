"""The training step on TensorFlow: Keras's own numbers, plus diagnostics when asked."""

import contextlib
import functools
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf
from keras import tree

from keras_e2e.modules.step_context import StepContext, context_of, step_context
from keras_e2e.optimizers.apply_apart import apply_apart, apply_at, count_step
from keras_e2e.trainers.build_optimizer import build_optimizer
from keras_e2e.trainers.one_pass import why_one_apply
from keras_e2e.trainers.state import ModularState
from keras_e2e.trainers.tensorflow.extra_passes import ExtraPasses, first_tensor
from keras_e2e.trainers.tensorflow.gradients import StepGradients
from keras_e2e.trainers.tensorflow.instrumentation import StepInstrumentation
from keras_e2e.utils import compat
from keras_e2e.utils.compat.multi_worker import let_workers_fit, several_workers

if TYPE_CHECKING:
    from keras import Model
else:
    Model = object


class ModularStep(Model):
    """The TensorFlow `train_step` of modular models.

    It follows Keras's own step call by call. It differs in three ways: variables that
    must not change in the training mode are left out of the apply; where boundaries stop
    the gradient, `StepGradients` takes gradients, and may apply them, while the forward
    pass runs; and an instrumented step also asks for the gradients at the boundaries.
    """

    _modular: ModularState

    @property
    def distribute_strategy(self):
        """As in Keras, which asks for it before anything else when a training begins."""
        strategy = super().distribute_strategy
        if several_workers(strategy):
            let_workers_fit()
        return strategy

    def train_step(self, data):
        state = self._modular
        metric_variables = len(self.metrics_variables)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        # End to end no head sends anything back, and all sums are those of stock Keras.
        apart = state.mode.name != "end_to_end"
        with step_context(state, targets=(y, sample_weight)) as context:
            gradients = StepGradients(
                *(self, context, x, self._movable()),
                tapped=bool(state.steps.measuring),
                apply=self._apply_early(),
            )
            context.tap = _tap(gradients.tape if state.steps.measuring else None, apart)
            with gradients.tape:
                y_pred = self(x, training=True)
                loss = self.compute_loss(
                    x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True
                )
                self._track_loss(loss, x)
                gradients.finish(loss, y_pred)
            self._update(gradients, context, x, loss, y_pred)
        logs = self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        if len(self.metrics_variables) == metric_variables:
            # Else Keras has just made its metrics, in a trace that TensorFlow repeats.
            state.steps.count_trace(state.mode)
        return logs

    def _making_step(self, iterator):
        """The context in which Keras makes a step that is to be run with this."""
        return contextlib.nullcontext()

    def _movable(self) -> list:
        """The variables that the step may change."""
        state = self._modular
        frozen = state.frozen_variables()
        return [v for v in state.steps.variables(self) if id(v) not in frozen]

    def _apply_early(self) -> Callable[[list, list], None] | None:
        """What applies a module's gradients at its boundary; None if the end has to come.

        An instrumented step compares all weights before and after, and so keeps them.
        """
        if self._modular.steps.measuring or tf.distribute.has_strategy():
            return None
        if not self.optimizer.built:  # before all heads are made it cannot be
            return None
        if why_one_apply(self) is not None:
            return None
        iteration = context_of(self._modular).iteration
        if iteration is not None:
            return functools.partial(apply_at, self.optimizer, iteration)
        return functools.partial(apply_apart, self.optimizer)

    def _track_loss(self, loss: Any, x: Any) -> None:
        """Updates the reported loss, as Keras does."""
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        compat.loss_tracker(self).update_state(
            loss * tf.cast(replicas, loss.dtype) if replicas > 1 else loss,
            sample_weight=tf.shape(first_tensor(x))[0],
        )

    def _update(
        self, gradients: StepGradients, context: StepContext, x: Any, loss: Any, y_pred: Any
    ) -> None:
        """Applies the gradients, and measures what this step is to measure."""
        state, variables, found = self._modular, gradients.variables, gradients.take()
        instrumentation = None
        if state.steps.measuring:
            passes = ExtraPasses(self, x, *context.targets)
            instrumentation = StepInstrumentation(self, context, y_pred, passes)
            instrumentation.before_step(gradients)
        if gradients.applied and all(gradient is None for gradient in found):
            if context.iteration is None:
                count_step(self.optimizer)
        elif variables:
            if not self.optimizer.built:  # a step by hand
                build_optimizer(self)
            with tf.control_dependencies(_forward(state.mode, loss, y_pred)):
                if context.iteration is not None:
                    apply_at(self.optimizer, context.iteration, found, variables)
                else:
                    self.optimizer.apply_gradients(zip(found, variables, strict=True))
        else:
            warnings.warn(
                f"{self.name!r} has nothing to train in mode '{state.mode}'.",
                stacklevel=2,
            )
        if instrumentation is not None:
            instrumentation.record(variables, found)


def _tap(tape: tf.GradientTape | None, apart: bool) -> Any:
    def tap(tensor):
        if apart:
            tensor = _summed_apart(tensor)
        if tape is not None:
            tape.watch(tensor)
        return tensor

    return tap


@tf.custom_gradient
def _summed_apart(tensor: Any) -> Any:
    """The tensor, whose gradient is a sum of its own.

    What comes back from the next module's branches is summed here, and then added to
    what comes from the heads, whether or not the step reads it. Else TensorFlow would
    make one sum of both where nobody reads the first, in another order: with
    diagnostics the weights would differ in the last bit.
    """
    shape = tensor.shape
    # Unlike tf.identity, this one is left in place by the graph optimizer.
    return tf.identity(tensor), lambda gradient: tf.ensure_shape(gradient, shape)


def _forward(mode: Any, loss: Any, y_pred: Any) -> list:
    """What a step must have computed before a weight changes.

    TensorFlow puts each read of a weight before its update. Keras sends all gradients
    through one operation (`all_reduce` to a single replica), in which each seems to
    depend on all, so the graph optimizer drops that order as implied, and then the
    operation. A read from which no gradient of the same weight is made, such as that of
    a clean pass beside the corrupted one that trains, could then come too late.
    End to end such reads are rare, and the step is Keras's own, to the bit.
    """
    if mode.name == "end_to_end":
        return []
    return [tensor for tensor in tree.flatten((loss, y_pred)) if tensor is not None]

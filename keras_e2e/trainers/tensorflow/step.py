"""The training step on TensorFlow: Keras's own numbers, plus diagnostics when asked."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf
from keras import tree

from keras_e2e.modules.step_context import StepContext, context_of, step_context
from keras_e2e.objectives.global_batch import kept_while_waiting, share_of_batch
from keras_e2e.optimizers.apply_apart import apply_apart, apply_at, count_step
from keras_e2e.trainers.build_optimizer import build_optimizer
from keras_e2e.trainers.local_losses import compiled_outputs
from keras_e2e.trainers.multi_worker import let_workers_train
from keras_e2e.trainers.one_pass import why_one_apply
from keras_e2e.trainers.state import ModularState
from keras_e2e.trainers.tensorflow.extra_passes import ExtraPasses
from keras_e2e.trainers.tensorflow.gradients import StepGradients
from keras_e2e.trainers.tensorflow.instrumentation import StepInstrumentation
from keras_e2e.trainers.tensorflow.replicas import (
    compiled,
    compiled_inside,
    compiles_replicas,
)
from keras_e2e.utils import compat
from keras_e2e.utils.compat.calls import keep_penalties
from keras_e2e.utils.compat.multi_worker import several_workers
from keras_e2e.utils.data import first_tensor, num_examples
from keras_e2e.utils.warned import warn_user

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
            let_workers_train()
        return strategy

    def train_step(self, data):
        state = self._modular
        metric_variables = len(self.metrics_variables)
        step = self._compiled_step if compiles_replicas(self) else self._step
        logs = step(*keras.utils.unpack_x_y_sample_weight(data))
        if len(self.metrics_variables) == metric_variables:
            # Else Keras has just made its metrics, in a trace that TensorFlow repeats.
            state.steps.count_trace(state.mode)
        return logs

    def test_step(self, *args):
        run = functools.partial(super().test_step, *args)
        return compiled(self, run) if compiles_replicas(self) else run()

    def _step(self, x, y, sample_weight):
        targets, share = (y, sample_weight), self._share(x)
        keep = functools.partial(keep_penalties, self)
        change = step_context(self._modular, targets=targets, share=share)
        with kept_while_waiting(keep), change as context:
            gradients, loss, y_pred = self._pass(context, x)
            self._update(gradients, context, x, loss, y_pred)
        return self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    def _compiled_step(self, x, y, sample_weight):
        """A step of which XLA compiles all but the apply, for this replica."""
        targets, share = (y, sample_weight), self._share(x)

        def up_to_gradients():
            with step_context(self._modular, targets=targets, share=share) as context:
                gradients, _, y_pred = self._pass(context, x)
                found = gradients.take()
            logs = self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
            return found, logs

        found, logs = compiled(self, up_to_gradients)
        self._apply(self._movable(), found)
        return logs

    def _share(self, x: Any) -> Any:
        # End to end the parts of an uneven batch weigh alike, as in stock Keras.
        is_stock = self._modular.mode.name == "end_to_end"
        return None if is_stock else share_of_batch(first_tensor(x))

    def _pass(self, context: StepContext, x: Any) -> tuple[StepGradients, Any, Any]:
        """The forward pass and the loss: what takes gradients, the loss, the outputs."""
        state = self._modular
        # End to end no head sends anything back, and all sums are those of stock Keras.
        apart = state.mode.name != "end_to_end"
        gradients = StepGradients(
            *(self, context, x, self._movable()),
            tapped=bool(state.steps.measuring),
            apply=self._apply_early(),
        )
        context.tap = _tap(gradients.tape if state.steps.measuring else None, apart)
        y, sample_weight = context.targets
        with gradients.tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(
                x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True
            )
            self._track_loss(loss, x)
            gradients.finish(loss, y_pred)
        return gradients, loss, y_pred

    def _making_step(self, iterator):
        """The context in which Keras makes a step that is to be run with this."""
        return compiled_inside(self)

    def make_test_function(self, force=False):
        with compiled_inside(self):
            return super().make_test_function(force)

    def _movable(self) -> list:
        """The variables that the step may change."""
        state = self._modular
        frozen = state.frozen_variables(compiled_outputs(self))
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
            sample_weight=num_examples(x),
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
        else:
            with tf.control_dependencies(_forward(state.mode, loss, y_pred)):
                self._apply(variables, found)
        if instrumentation is not None:
            instrumentation.record(variables, found)

    def _apply(self, variables: list, found: list) -> None:
        """Applies the gradients of the variables."""
        if not variables:
            warn_user(f"{self.name!r} has nothing to train in mode '{self._modular.mode}'.")
            return
        if not self.optimizer.built:  # a step by hand
            build_optimizer(self)
        iteration = context_of(self._modular).iteration
        if iteration is not None:
            apply_at(self.optimizer, iteration, found, variables)
        else:
            self.optimizer.apply_gradients(zip(found, variables, strict=True))


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

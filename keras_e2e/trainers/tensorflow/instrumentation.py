"""What one instrumented step measures of each module, on TensorFlow."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from keras import tree

from keras_e2e.diagnostics.quantity import Quantity
from keras_e2e.modules.step_context import StepContext
from keras_e2e.objectives.global_batch import share_of_batch
from keras_e2e.trainers.module_views import Further, Seen, Signals, module_views
from keras_e2e.trainers.optimizer_step import OptimizerStep
from keras_e2e.trainers.recorder_state import prepare_recorder
from keras_e2e.trainers.tensorflow.extra_passes import ExtraPasses
from keras_e2e.trainers.tensorflow.gradients import StepGradients, over_replicas, unscaled
from keras_e2e.trainers.tensorflow.recorder import Recorder
from keras_e2e.trainers.tensorflow.replicas import refuse_compiled_replicas
from keras_e2e.utils import compat
from keras_e2e.utils.data import first_tensor, num_examples


def instrument(model: Any, quantities: list[Quantity]) -> Any:
    """Lets the steps of a model measure these quantities, too. See `ModularTrainer`."""
    model._refuse_unknown_modules("instrument()")
    refuse_compiled_replicas(model, "diagnostics look at activations and signals")
    return prepare_recorder(model, quantities, Recorder)


class StepInstrumentation:
    """What one instrumented step measures, from the tape to the recorder.

    Args:
        model: The modular model, after its loss was computed.
        context: The `StepContext` of the step.
        y_pred: The model's outputs in the step.
        passes: The `ExtraPasses` over the batch.
    """

    def __init__(self, model: Any, context: StepContext, y_pred: Any, passes: ExtraPasses):
        self.model, self.passes = model, passes
        self.state = model._modular
        self.measured = self.state.steps.measuring
        self.needs = self.state.recorder.needs(self.measured)
        self.losses, self.share = context.losses, context.share
        self.crossings = [] if context.record is None else context.record.crossings
        self.y_pred = y_pred
        self.outputs = [] if y_pred is None else tree.flatten(y_pred)

    def before_step(self, gradients: StepGradients) -> None:
        """Notes what the gradients show, and what the step is about to change.

        Args:
            gradients: The gradients of the step, all taken.
        """
        variables, model = gradients.variables, self.model
        if self.share is None:  # end to end: there losses are logged by examples, too
            self.share = share_of_batch(first_tensor(self.passes.batch[0]))
        self.step = OptimizerStep(model.optimizer, bool(variables), _read)
        self.before = [tf.identity(v) for v in variables]
        self.halves = self.passes.halves() if "halves" in self.needs else None
        self.local = self.passes.local() if "local" in self.needs else None
        self.classes = self.passes.classes() if "classes" in self.needs else None
        self.reference = None
        if "reference" in self.needs:
            task = self._task_loss()
            found = self.passes.reference(
                self.y_pred, task, over_replicas, penalized=bool(model.losses)
            )
            self.reference = None if found is None else tuple(map(self._weighed, found))

        def signal(tensor: Any) -> Any:
            # Always that under a probability where there is one: in mixed precision a cast
            # hides it from the loss, and the measurement must not depend on the precision.
            below = gradients.at(compat.logits_of(tensor))
            found = gradients.at(tensor) if below is None else below
            return unscaled(found, self.step.scale)

        self.signals = Signals(
            [signal(tensor) for tensor in self.outputs],
            [[signal(t) for t in crossing.inputs] for crossing in self.crossings],
            [[signal(t) for t in crossing.outputs] for crossing in self.crossings],
        )

    def record(self, variables: Sequence, gradients: Sequence) -> None:
        """Makes the views of the modules, after the step, and has them written.

        Args:
            variables: List of the variables that the step has changed.
            gradients: List of their gradients.
        """
        outcome = self.step.outcome(gradients)
        pairs = zip(variables, gradients, strict=True)
        found = {id(v): unscaled(gradient, self.step.scale) for v, gradient in pairs}
        local = {} if self.losses is None else self.losses.local
        seen = Seen(
            crossings=self.crossings,
            masks=[compat.mask_of(crossing.outputs[0]) for crossing in self.crossings],
            signals=self.signals,
            local={name: self._weighed(loss) for name, loss in local.items()},
            task=self._weighed(self._task_loss()),
            before={id(v): old for v, old in zip(variables, self.before, strict=True)},
            after=lambda variable: variable,
            gradients=self._summed(found),
            further=self._further(),
            num_examples=over_replicas(
                tf.cast(num_examples(self.passes.batch[0]), tf.float32)
            ),
            total=over_replicas,
        )
        self.state.recorder.write(module_views(self.model, seen), self.measured, outcome)

    def _further(self) -> Further:
        later = self.passes.later() if "later" in self.needs else None
        return Further(
            halves=[self._summed(half) for half in self.halves or ()],
            local=None if self.local is None else self._summed(self.local),
            later=None if later is None else self._summed(later),
            reference=self.reference,
            classes=self.classes,
        )

    def _summed(self, found: Mapping[int, Any]) -> dict[int, Any]:
        """Gradients by variable, over all replicas."""
        return {
            id(v): over_replicas(_shaped(found[id(v)], v.shape))
            for v in self.state.steps.variables(self.model)
            if found.get(id(v)) is not None
        }

    def _weighed(self, loss: Any) -> Any:
        """A loss of this replica such that in their sum all examples weigh alike."""
        if loss is None or self.share is None:
            return loss
        return tf.cast(loss, tf.float32) * self.share

    def _task_loss(self) -> Any:
        return self.losses.task if self.outputs else None


def _read(variable: Any) -> Any:
    return tf.identity(tf.convert_to_tensor(variable))


def _shaped(gradient: Any, shape: Any) -> Any:
    """A gradient with its static shape, which Keras leaves open for some."""
    if gradient.shape.is_fully_defined():
        return gradient
    return tf.ensure_shape(gradient, shape)

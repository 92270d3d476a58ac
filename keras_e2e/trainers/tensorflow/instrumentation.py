"""What one instrumented step measures of each module."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from keras import tree

from keras_e2e.diagnostics.quantity import ModuleView, Quantity
from keras_e2e.modules.module import Module
from keras_e2e.modules.step_context import StepContext
from keras_e2e.trainers.saved_with_weights import SeedStates
from keras_e2e.trainers.tensorflow.extra_passes import ExtraPasses, first_tensor
from keras_e2e.trainers.tensorflow.gradients import StepGradients, over_replicas, unscaled
from keras_e2e.trainers.tensorflow.optimizer_step import OptimizerStep
from keras_e2e.trainers.tensorflow.recorder import Recorder
from keras_e2e.trainers.tensorflow.recorder_state import RecorderState
from keras_e2e.trainers.tensorflow.replicas import refuse_compiled_replicas
from keras_e2e.utils import compat
from keras_e2e.utils.graphs import strategy_scope


def instrument(model: Any, quantities: list[Quantity]) -> Any:
    """Lets the steps of a model measure these quantities, too. See `ModularTrainer`."""
    model._refuse_unknown_modules("instrument()")
    refuse_compiled_replicas(model, "diagnostics look at activations and signals")
    state = model._modular
    shapes = {
        m.name: [tuple(v.shape) for v in state.trained_variables(m)] for m in state.modules
    }
    before = state.recorder
    wanted = quantities if before is None else before.with_added(quantities)
    if before is None or before.shapes != shapes or wanted != before.quantities:
        with strategy_scope(model):
            state.recorder = Recorder(shapes, wanted)
        if before is not None:
            state.recorder.carry_asked(before)
        state.steps.forget_instrumented()
    state.recorder.ask(quantities)
    state.saved.register("quantities", RecorderState(state.recorder), part=True)
    state.saved.register("seeds", SeedStates(model), part=True)
    return state.recorder


class _Signals(NamedTuple):
    """Gradients of the loss with respect to tensors of the forward pass.

    Attributes:
        outputs: Gradients with respect to the model's outputs.
        entering: For each crossing, gradients with respect to what enters the boundary.
        leaving: For each crossing, gradients with respect to what leaves it.
    """

    outputs: list
    entering: list[list]
    leaving: list[list]


class _Further(NamedTuple):
    """What extra passes found, by `id` of the variable; None where one was not made."""

    halves: Sequence[Mapping[int, Any]] = ()
    local: Mapping[int, Any] | None = None
    later: Mapping[int, Any] | None = None
    reference: tuple | None = None
    classes: Any = None


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
        self.losses = context.losses
        self.crossings = [] if context.record is None else context.record.crossings
        self.y_pred = y_pred
        self.outputs = [] if y_pred is None else tree.flatten(y_pred)

    def before_step(self, gradients: StepGradients) -> None:
        """Notes what the gradients show, and what the step is about to change.

        Args:
            gradients: The gradients of the step, all taken.
        """
        variables = gradients.variables
        self.step = OptimizerStep(self.model.optimizer, bool(variables))
        self.before = [tf.identity(v) for v in variables]
        self.halves = self.passes.halves() if "halves" in self.needs else None
        self.local = self.passes.local() if "local" in self.needs else None
        self.classes = self.passes.classes() if "classes" in self.needs else None
        self.reference = None
        if "reference" in self.needs:
            self.reference = self.passes.reference(self.y_pred, self._task_loss())

        def signal(tensor: Any) -> Any:
            # Always that under a probability where there is one: in mixed precision a cast
            # hides it from the loss, and the measurement must not depend on the precision.
            below = gradients.at(compat.logits_of(tensor))
            return gradients.at(tensor) if below is None else below

        self.signals = _Signals(
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
        before = {id(v): old for v, old in zip(variables, self.before, strict=True)}
        trained_by = self._summed(
            {id(v): self._unscaled(g) for v, g in zip(variables, gradients, strict=True)}
        )
        later = self.passes.later() if "later" in self.needs else None
        further = _Further(
            halves=[self._summed(half) for half in self.halves or ()],
            local=None if self.local is None else self._summed(self.local),
            later=None if later is None else self._summed(later),
            reference=self.reference,
            classes=self.classes,
        )
        size = tf.shape(first_tensor(self.passes.batch[0]))[0]
        examples = over_replicas(tf.cast(size, tf.float32))
        self.state.recorder.write(
            [
                self._view(module, before, trained_by, further, examples)
                for module in self.state.modules
            ],
            self.measured,
            outcome,
        )

    def _view(
        self,
        module: Module,
        before: Mapping,
        trained_by: Mapping,
        further: _Further,
        examples,
    ) -> ModuleView:
        """What the step shows of one module."""
        crossings = self.crossings
        ends = [i for i, c in enumerate(crossings) if c.boundary is module.boundary]
        starts = [i for i, c in enumerate(crossings) if c.boundary.module in module.inputs]
        entered = [t for i in ends for t in crossings[i].inputs]
        signals = [t for i in ends for t in self.signals.entering[i]]
        if module.boundary is None:
            signals = self.signals.outputs
        elif any(signal is not None for signal in signals):
            # Of several tensors that cross together, one may matter to no loss.
            signals = _filled(signals, entered)
        own = self.state.trained_variables(module)

        def of(found: Mapping | None) -> Any:
            return None if found is None else [found.get(id(v)) for v in own]

        sent_back = [t for i in starts for t in self.signals.leaving[i]]
        if all(signal is not None for signal in signals):
            # Where a signal comes in and none goes out, the module has swallowed it.
            left = [t for i in starts for t in crossings[i].outputs]
            sent_back = _filled(sent_back, left)
        return ModuleView(
            name=module.name,
            variables=[before[id(v)] for v in own if id(v) in before],
            gradients=of(trained_by),
            updates=[v - before[id(v)] if id(v) in before else None for v in own],
            loss=self._loss_of(module),
            activation=_joined([tf.cast(tensor, tf.float32) for tensor in entered]),
            signal=_joined([self._unscaled(t) for t in signals]),
            input_signal=_joined([self._unscaled(t) for t in sent_back]),
            total=over_replicas,
            num_examples=examples,
            halves=(of(further.halves[0]), of(further.halves[1]))
            if further.halves
            else None,
            local_gradients=of(further.local),
            later_gradients=of(further.later),
            prediction_losses=further.reference if module.boundary is None else None,
            classes=further.classes,
            shapes=[tuple(v.shape) for v in own],
            mask=self._mask(ends) if len(entered) == 1 else None,
        )

    def _mask(self, ends: list[int]) -> Any:
        """The mask of the only tensor that enters a boundary; it is noted behind it."""
        return compat.mask_of(self.crossings[ends[0]].outputs[0])

    def _unscaled(self, tensor: Any) -> Any:
        return unscaled(tensor, self.step.scale)

    def _summed(self, found: Mapping[int, Any]) -> dict[int, Any]:
        """Gradients by variable, over all replicas."""
        return {
            id(v): over_replicas(_shaped(found[id(v)], v.shape))
            for v in self.state.steps.variables(self.model)
            if found.get(id(v)) is not None
        }

    def _task_loss(self) -> Any:
        return self.losses.task if self.outputs else None

    def _loss_of(self, module: Module) -> Any:
        """The local loss of a module; for the last one the task loss."""
        if module.boundary is not None:
            if module.objective is not None and module.objective.feedback_source:
                return None  # a signal of the objective's making adds 0: it has no loss
            return self.losses.local.get(module.name)
        return self._task_loss()


def _shaped(gradient: Any, shape: Any) -> Any:
    """A gradient with its static shape, which Keras leaves open for some."""
    if gradient.shape.is_fully_defined():
        return gradient
    return tf.ensure_shape(gradient, shape)


def _filled(gradients: list, tensors: list) -> list:
    """Gradients at some tensors, with zeros for those that there are not."""
    return [
        tf.zeros_like(tensor) if gradient is None else gradient
        for gradient, tensor in zip(gradients, tensors, strict=True)
    ]


def _joined(tensors: list) -> Any:
    """Several tensors as one `(batch, features)` or as it is; None if one is absent."""
    if not tensors or any(t is None for t in tensors):
        return None
    if len(tensors) == 1:
        return tensors[0]
    # Outputs of several shapes, or several crossings: examples stay in the first axis.
    flat = [tf.reshape(t, (tf.shape(t)[0], -1)) for t in tensors]
    return tf.concat(flat, axis=1)

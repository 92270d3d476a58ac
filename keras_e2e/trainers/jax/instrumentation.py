"""What one instrumented step measures of each module, on JAX."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops, tree

from keras_e2e.diagnostics.quantity import Quantity
from keras_e2e.modules.probabilities import (
    probabilities_at_boundaries,
    probabilities_at_outputs,
    under_probability,
)
from keras_e2e.trainers.jax.extra_passes import ExtraPasses
from keras_e2e.trainers.jax.gradients import StepGradients, unscaled
from keras_e2e.trainers.jax.recorder import Recorder
from keras_e2e.trainers.local_losses import compiled_outputs
from keras_e2e.trainers.module_views import Further, Seen, Signals, module_views
from keras_e2e.trainers.optimizer_step import OptimizerStep
from keras_e2e.trainers.recorder_state import prepare_recorder
from keras_e2e.utils import compat
from keras_e2e.utils.data import num_examples


def instrument(model: Any, quantities: list[Quantity]) -> Any:
    """Lets the steps of a model measure these quantities, too. See `ModularTrainer`."""
    return prepare_recorder(model, quantities, Recorder)


class StepInstrumentation:
    """What one instrumented step measures, from its gradients to the recorder.

    Args:
        model: The modular model.
        passes: The `ExtraPasses` over the batch, with the values from before the step.
        gradients: The gradients of the step, all taken.
        y_pred: The model's outputs in the step.
    """

    def __init__(
        self, model: Any, passes: ExtraPasses, gradients: StepGradients, y_pred: Any
    ):
        self.model, self.passes = model, passes
        self.gradients, self.y_pred = gradients, y_pred
        self.before = passes.trainable
        with self._optimizer_at(passes.optimizer_values):
            self.step = OptimizerStep(
                *(model.optimizer, bool(self.before), ops.convert_to_tensor)
            )

    def measure(self, found: list, trainable: list, optimizer_values: list) -> None:
        """Makes the views of the modules, after the step, and has them written.

        Args:
            found: List of the gradients of the trainable variables, None where there is
                none.
            trainable: List of the values of these variables after the step.
            optimizer_values: List of those of the optimizer's after the step.
        """
        model, state = self.model, self.model._modular
        measured = state.steps.measuring
        frozen = state.frozen_variables(compiled_outputs(model))
        with self._optimizer_at(optimizer_values):
            outcome = self.step.outcome(found)
        variables = model.trainable_variables
        after = {id(v): new for v, new in zip(variables, trainable, strict=True)}
        free = [i for i, v in enumerate(variables) if id(v) not in frozen]
        seen = Seen(
            crossings=self.gradients.crossings,
            masks=self.gradients.masks,
            signals=self._signals(),
            local=self.gradients.local,
            task=self._task_loss(),
            before={id(variables[i]): self.before[i] for i in free},
            after=lambda variable: after[id(variable)],
            gradients=_known({id(variables[i]): self._unscaled(found[i]) for i in free}),
            further=self._further(state.recorder.needs(measured), trainable),
            num_examples=ops.convert_to_tensor(
                num_examples(self.passes.batch[0]), "float32"
            ),
            total=lambda tensor: tensor,
        )
        state.recorder.write(module_views(model, seen), measured, outcome)

    def _signals(self) -> Signals:
        """The gradients at outputs and boundaries, without the loss scale.

        At the values under probabilities, as on TensorFlow, where Keras takes a
        cross-entropy from those. Where a model has no graph it does not show them.
        """
        found, graph = self.gradients.signals(self._unscaled), self.model._modular.graph
        if graph is None:
            return found
        outputs = [] if self.y_pred is None else tree.flatten(self.y_pred)
        crossings, at_ends = self.gradients.crossings, probabilities_at_boundaries(graph)
        kinds = [
            at_ends.get(crossing.boundary.module, [None] * len(crossing.inputs))
            for crossing in crossings
        ]
        entering = [
            _under(kind, crossing.inputs, gradients)
            for kind, crossing, gradients in zip(
                kinds, crossings, found.entering, strict=True
            )
        ]
        leaving = found.leaving
        if self.model._modular.mode.name == "end_to_end":
            # There boundaries do nothing: what leaves one is what enters it.
            leaving = [
                _under(kind, crossing.outputs, gradients)
                for kind, crossing, gradients in zip(kinds, crossings, leaving, strict=True)
            ]
        at_outputs = probabilities_at_outputs(graph) if outputs else []
        return Signals(_under(at_outputs, outputs, found.outputs), entering, leaving)

    def _further(self, needs: set[str], trainable: list) -> Further:
        passes = self.passes
        halves = passes.halves() if "halves" in needs else None
        local = passes.local() if "local" in needs else None
        classes = passes.classes() if "classes" in needs else None
        reference = self._reference() if "reference" in needs else None
        later = None
        if "later" in needs:
            passes.trainable = trainable
            later = passes.later()
        return Further(
            halves=[*map(_known, halves or ())],
            local=None if local is None else _known(local),
            later=None if later is None else _known(later),
            reference=reference,
            classes=classes,
        )

    def _reference(self) -> tuple | None:
        outputs = [] if self.y_pred is None else tree.flatten(self.y_pred)
        # Only meanwhile: Keras's own step takes metrics of predictions without masks.
        for output, mask in zip(outputs, self.gradients.output_masks, strict=True):
            compat.set_mask(output, mask)
        try:
            return self.passes.reference(
                *(self.y_pred, self._task_loss(), lambda tensor: tensor),
                penalized=self.gradients.penalized,
            )
        finally:
            for output in outputs:
                compat.set_mask(output, None)

    def _task_loss(self) -> Any:
        return None if self.y_pred is None else self.gradients.task

    def _unscaled(self, gradient: Any) -> Any:
        return unscaled(gradient, self.step.scale)

    def _optimizer_at(self, values: list) -> keras.StatelessScope:
        """A scope in which the optimizer's variables have these values."""
        variables = self.model.optimizer.variables
        return keras.StatelessScope([*zip(variables, values, strict=True)])


def _under(kinds: list, tensors: Sequence, gradients: list) -> list:
    return [*map(under_probability, kinds, tensors, gradients)]


def _known(gradients: dict[int, Any]) -> dict[int, Any]:
    return {key: found for key, found in gradients.items() if found is not None}

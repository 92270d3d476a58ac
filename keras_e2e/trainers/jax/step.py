"""The training step on JAX: Keras's own numbers, plus diagnostics when asked.

A step that fails, because it is refused for example, leaves the variables as they were.
"""

import itertools
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
import keras
from keras import tree

from keras_e2e.modules.step_context import StepContext, step_context
from keras_e2e.trainers.jax.extra_passes import ExtraPasses
from keras_e2e.trainers.jax.gradients import StepGradients, are_apart
from keras_e2e.trainers.jax.instrumentation import StepInstrumentation
from keras_e2e.trainers.local_losses import compiled_outputs
from keras_e2e.trainers.state import ModularState
from keras_e2e.utils import compat
from keras_e2e.utils.compat.jax_state import state_in_variables
from keras_e2e.utils.compat.jax_steps import update_metrics

if TYPE_CHECKING:
    from keras import Model
else:
    Model = object


class ModularStep(Model):
    """The JAX `train_step` of modular models."""

    _modular: ModularState

    def train_step(self, state, data):
        modular = self._modular
        batch = keras.utils.unpack_x_y_sample_weight(data)
        with step_context(modular, targets=batch[1:]) as context:
            if are_apart(self):
                logs, new_state = self._step_apart(context, state, batch)
            else:
                logs, new_state = super().train_step(state, data)
        modular.steps.count_trace(modular.mode)
        return logs, new_state

    def _step_apart(self, context: StepContext, state: tuple, batch: tuple) -> tuple:
        """Keras's own step, call by call, but for how the gradients are taken."""
        x, y, sample_weight = batch
        gradients = StepGradients(self, context, state, batch)
        (loss, y_pred, others, metrics), found = gradients.take(state[0])
        trainable, optimizer_values = self._applied(self._movable(found), state)
        logs, metrics = update_metrics(self, metrics, loss, x, y, y_pred, sample_weight)
        return logs, (trainable, others, optimizer_values, metrics)

    def _measure(self, state: tuple, data: Any, values: list) -> list:
        """Makes the step on the side, for what it shows; the next values of the recorder.

        On the side, since XLA computes a step in another way where something else is read
        of it, too: the last bits of the weights would depend on what is measured.
        """
        modular, recorder = self._modular, self._modular.recorder
        batch = keras.utils.unpack_x_y_sample_weight(data)
        with (
            recorder.in_step(values),
            step_context(modular, targets=batch[1:]) as context,
        ):
            gradients = StepGradients(self, context, state, batch, measures=True)
            (_, y_pred, *_), found = gradients.take(state[0])
            found = self._movable(found)
            trainable, optimizer_values = self._applied(found, state)
            passes = ExtraPasses(self, batch, state)
            instrumentation = StepInstrumentation(self, passes, gradients, y_pred)
            instrumentation.measure(found, trainable, optimizer_values)
            modular.steps.count_trace(modular.mode)
            return recorder.values_in_step

    def _movable(self, gradients: list) -> list:
        """The gradients of variables that may change; None of the others."""
        frozen = self._modular.frozen_variables(compiled_outputs(self))
        return [
            None if id(variable) in frozen else gradient
            for variable, gradient in zip(self.trainable_variables, gradients, strict=True)
        ]

    def _applied(self, gradients: list, state: tuple) -> tuple[list, list]:
        """The values of the trainable and of the optimizer's variables after a step.

        Without a gradient a variable and what the optimizer keeps for it stay as they are:
        a gradient of zero would change both under momentum or weight decay.
        """
        trainable, _, optimizer_values, _ = state
        if all(gradient is None for gradient in gradients):
            return trainable, optimizer_values
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Gradients do not exist")  # as it should be
            return self.optimizer.stateless_apply(optimizer_values, gradients, trainable)

    def _making_step(self, state, iterator):
        """The context in which Keras makes a step that is to be run with these."""
        return state_in_variables(self, state)

    def make_train_function(self, force=False):
        """As Keras does, but with a function of its own for each training mode."""
        if self._modular.steps.measuring:
            self._make_measured_function()
            return
        step = type(self).train_step

        # jax.jit keeps what it traced by the equality of functions, and a bound method
        # equals itself: the trace of the first mode would serve all of them.
        def train_step(state, data):
            return step(self, state, data)

        self.train_step = train_step
        try:
            super().make_train_function(force=force)
        finally:
            del self.train_step
        made = compat.with_state_put_back(self, self.train_function)
        self.train_function = lambda state, iterator: made(state, self._noted(iterator))

    def _noted(self, iterator: Iterator) -> Iterator:
        """The same batches; what the latest holds is noted in the `CompiledSteps`."""
        for data in iterator:
            self._modular.steps.specs = tree.map_structure(_spec, data)
            yield data

    def _make_measured_function(self) -> None:
        """Makes an execution whose steps are measured, each before it is made."""
        modular = self._modular
        recorder = modular.recorder
        step = modular.steps.without_measuring(modular.mode, self._compile_step)

        def measure(state, data, values):
            return self._measure(state, data, values)

        if self.jit_compile and not self.run_eagerly:
            measure = jax.jit(measure)  # a function of its own, as above

        def measured_step(state: tuple, data: Any) -> tuple[Any, tuple]:
            values = measure(state, data, [v.value for v in recorder.variables])
            logs, state = step(state, iter([data]))
            for variable, value in zip(recorder.variables, values, strict=True):
                variable.assign(value)
            return logs, state

        def execute(state: tuple, iterator: Iterator) -> tuple[Any, tuple]:
            logs, state = measured_step(state, next(iterator))
            for data in itertools.islice(iterator, self.steps_per_execution - 1):
                logs, state = measured_step(state, data)
            return logs, state

        self.train_function = compat.with_state_put_back(self, execute)

    def make_test_function(self, force=False):
        if self.test_function is None or force:
            super().make_test_function(force=True)
            self.test_function = compat.with_state_put_back(self, self.test_function)

    def make_predict_function(self, force=False):
        if self.predict_function is None or force:
            super().make_predict_function(force=True)
            self.predict_function = compat.with_state_put_back(self, self.predict_function)
        return self.predict_function


def _spec(value: Any) -> Any:
    """The shape and dtype of an array; None for None."""
    return None if value is None else jax.ShapeDtypeStruct(value.shape, value.dtype)

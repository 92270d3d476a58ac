"""The training step on JAX: Keras's own; frozen variables are restored after it.

A step that fails, because it is refused for example, leaves the variables as they were.
"""

from typing import TYPE_CHECKING

import keras

from keras_e2e.modules.step_context import step_context
from keras_e2e.trainers.state import ModularState
from keras_e2e.utils import compat
from keras_e2e.utils.compat.jax_state import state_in_variables

if TYPE_CHECKING:
    from keras import Model
else:
    Model = object


class ModularStep(Model):
    """The JAX `train_step` of modular models."""

    _modular: ModularState

    def train_step(self, state, data):
        modular = self._modular
        separate = modular.flow().separate
        if separate:
            raise NotImplementedError(
                f"{self.name}: mode '{modular.mode}' needs a backward pass for each of the "
                f"losses of {list(separate)}, which the tensorflow backend has and "
                "jax has not. Use reach 1 or 'all', or KERAS_BACKEND=tensorflow."
            )
        targets = keras.utils.unpack_x_y_sample_weight(data)[1:]
        with step_context(modular, targets=targets):
            logs, new_state = super().train_step(state, data)
        frozen = modular.frozen_variables()
        # A zero gradient still changes a variable under momentum or weight decay.
        trainable = [
            old if id(variable) in frozen else new
            for variable, old, new in zip(
                self.trainable_variables, state[0], new_state[0], strict=True
            )
        ]
        modular.steps.count_trace(modular.mode)
        return logs, (trainable, *new_state[1:])

    def _making_step(self, state, iterator):
        """The context in which Keras makes a step that is to be run with these."""
        return state_in_variables(self, state)

    def make_train_function(self, force=False):
        """As Keras does, but with a function of its own for each training mode."""
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
        self.train_function = compat.with_state_put_back(self, self.train_function)

    def make_test_function(self, force=False):
        if self.test_function is None or force:
            super().make_test_function(force=True)
            self.test_function = compat.with_state_put_back(self, self.test_function)

    def make_predict_function(self, force=False):
        if self.predict_function is None or force:
            super().make_predict_function(force=True)
            self.predict_function = compat.with_state_put_back(self, self.predict_function)
        return self.predict_function

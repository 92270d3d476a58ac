"""The training step on JAX: Keras's own, with what must stand still put back."""

from typing import Any

import keras


class ModularStep:
    """Mixin with the JAX `train_step` of modular models."""

    _modular: Any
    name: str

    def train_step(self, state, data):
        modular = self._modular
        modular.traces[(str(modular.mode), False)] += 1
        separate = modular.flow().separate
        if separate:
            raise NotImplementedError(
                f"{self.name}: mode '{modular.mode}' needs a backward pass for each of the "
                f"losses of {list(separate)}, which the tensorflow backend has and "
                "jax has not. Use reach 1 or 'all', or KERAS_BACKEND=tensorflow."
            )
        modular.local.targets = keras.utils.unpack_x_y_sample_weight(data)[1:]
        try:
            logs, new_state = super().train_step(state, data)
        finally:
            del modular.local.targets
        self._forget_forward()
        still = modular.still_variables()
        # A zero gradient still moves a variable under momentum or weight decay.
        trainable = [
            old if id(variable) in still else new
            for variable, old, new in zip(
                self.trainable_variables, state[0], new_state[0], strict=True
            )
        ]
        return logs, (trainable, *new_state[1:])

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

    def _instrument(self, quantities: list) -> Any:
        raise RuntimeError(
            f"{self.name}: diagnostics need the instrumented step, which exists for "
            "the tensorflow backend only. Train without ModuleTensorBoard here, or set "
            "KERAS_BACKEND=tensorflow."
        )

"""Chooses the training step of the Keras backend in use.

Each backend is a folder beside this file with the same files and public names:
`step.ModularStep`, the base class with `train_step`, and `instrumentation.instrument`.
"""

from typing import Any

import keras

from keras_e2e.diagnostics.quantity import Quantity

BACKEND = keras.config.backend()

if BACKEND == "tensorflow":
    from keras_e2e.trainers.tensorflow.instrumentation import instrument
    from keras_e2e.trainers.tensorflow.step import ModularStep
elif BACKEND == "jax":
    from keras_e2e.trainers.jax.instrumentation import instrument
    from keras_e2e.trainers.jax.step import ModularStep  # type: ignore[assignment]
else:

    class ModularStep:  # type: ignore[no-redef]
        """Refuses a backend that keras_e2e does not train on."""

        def __init__(self, *args, **kwargs):
            raise NotImplementedError(
                f"keras_e2e trains on the tensorflow and jax backends of Keras, not on "
                f"{BACKEND!r}. Set KERAS_BACKEND=tensorflow before importing keras."
            )

    def instrument(model: Any, quantities: list[Quantity]) -> Any:
        """Refuses, as no model can be made on this backend."""
        raise NotImplementedError(
            f"keras_e2e has no diagnostics on {BACKEND!r}. Set KERAS_BACKEND=tensorflow "
            "before importing keras."
        )


__all__ = ["BACKEND", "ModularStep", "instrument"]

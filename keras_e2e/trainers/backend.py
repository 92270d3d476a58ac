"""Chooses the training step of the Keras backend in use."""

import keras

BACKEND = keras.config.backend()

if BACKEND == "tensorflow":
    from keras_e2e.trainers.tensorflow.step import ModularStep
elif BACKEND == "jax":
    from keras_e2e.trainers.jax.step import ModularStep  # type: ignore[assignment]
else:

    class ModularStep:  # type: ignore[no-redef]
        """Refuses a backend that keras_e2e does not train on."""

        def __init__(self, *args, **kwargs):
            raise NotImplementedError(
                f"keras_e2e trains on the tensorflow and jax backends of Keras, not on "
                f"{BACKEND!r}. Set KERAS_BACKEND=tensorflow before importing keras."
            )


__all__ = ["ModularStep"]

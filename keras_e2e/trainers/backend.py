"""Chooses the training step of the Keras backend in use.

Each backend is a folder beside this file with the same files and public names:
`step.ModularStep`, the base class with `train_step`, and `instrumentation.instrument`.
"""

import keras

BACKEND = keras.config.backend()

if BACKEND == "tensorflow":
    from keras_e2e.trainers.tensorflow.instrumentation import instrument
    from keras_e2e.trainers.tensorflow.step import ModularStep
elif BACKEND == "jax":
    from keras_e2e.trainers.jax.instrumentation import instrument
    from keras_e2e.trainers.jax.step import ModularStep  # type: ignore[assignment]
else:
    from keras_e2e.trainers.unsupported import (  # type: ignore[assignment]
        ModularStep,
        instrument,
    )

__all__ = ["BACKEND", "ModularStep", "instrument"]

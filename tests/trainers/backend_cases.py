"""Trains and measures the same on whichever backend: `test_backend_values.py` compares.

`KERAS_BACKEND=jax python -m tests.trainers.backend_cases FILE.npz` writes what is found.
"""

import sys

import keras
import numpy as np
from keras import layers

import keras_e2e as e2e
from tests.conformance import cases, models

EXAMPLES, BATCH = 24, 8


def ordinary(mode):
    return e2e.modularize(models.build("deep"), models.CUTS, training_mode=mode)


def chain():
    """A reach of two modules: a backward pass for each loss, through open boundaries.

    Of two outputs, whose loss keeps metrics.
    """
    x = inputs = keras.Input((6,))
    for name in ("first", "second", "third"):
        x = layers.Dense(5, activation="tanh", kernel_regularizer="l2", name=name)(x)
    outputs = [
        layers.Dense(models.CLASSES, activation="softmax", name=name)(x)
        for name in ("out", "other")
    ]
    base = keras.Model(inputs, outputs)
    mode = e2e.TrainingMode("local", reach=2)
    return e2e.modularize(base, ["first", "second", "third"], training_mode=mode)


def shared():
    """One layer in two modules, in local mode: its owner's loss alone trains it."""
    block = layers.Dense(6, activation="relu", name="block")
    x = inputs = keras.Input((6,))
    x = layers.Activation("linear", name="first")(block(x))
    x = layers.Activation("linear", name="second")(block(layers.Dense(6, name="own")(x)))
    base = keras.Model(
        inputs, layers.Dense(models.CLASSES, activation="softmax", name="out")(x)
    )
    objectives = {"first": "prediction", "second": "prediction"}
    return e2e.modularize(base, objectives, training_mode="local")


def words():
    """Padding, and a state that is passed on from position to position."""
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(7, 4, mask_zero=True, name="first")(inputs)
    x = layers.LSTM(4, return_sequences=True, name="second")(x)
    x = layers.GlobalAveragePooling1D()(x)
    base = keras.Model(
        inputs, layers.Dense(models.CLASSES, activation="softmax", name="out")(x)
    )
    objectives = {"first": None, "second": "prediction"}
    mode = e2e.TrainingMode("mixed", stop=["second"])
    return e2e.modularize(base, objectives, training_mode=mode)


def half():
    """Mixed precision, with a loss scale."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return ordinary("local")
    finally:
        keras.config.set_dtype_policy("float32")


# Of what stands still the optimizer's averages do, too.
SWITCHES = {0: "local", 1: "sequential:second", 2: "end_to_end", 3: "local"}
CASES = {
    "switched": (lambda: ordinary("local"), "adam"),
    "reach": (chain, "adamw"),
    "shared": (shared, "momentum"),
    "words": (words, "accumulating"),
    "half": (half, "sgd"),
}
OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.01, global_clipnorm=1.0),
    "accumulating": lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=3),
}


class Measure(keras.callbacks.Callback):
    """Measures every quantity at every step."""

    def on_train_begin(self, logs=None):
        self.recorder = self.model.instrument(cases.everything())
        self.read = []

    def on_train_batch_begin(self, batch, logs=None):
        self.model.request_diagnostics([q.name for q in self.recorder.quantities])

    def on_train_batch_end(self, batch, logs=None):
        self.read.append(self.recorder.read())


def data(model):
    random = np.random.RandomState(1)
    x = random.randn(EXAMPLES, 6).astype("float32")
    if model.input_shape == (None, 5):
        x = random.randint(0, 7, (EXAMPLES, 5))
        x[:, 0] = 1
    return x, random.randint(0, models.CLASSES, EXAMPLES)


def run(name):
    """What a case measures, step by step, and the weights after it, as arrays by name."""
    make, optimizer = CASES[name]
    model = make()
    random = np.random.RandomState(0)
    for variable in model.trainable_variables:
        variable.assign(0.5 * random.randn(*variable.shape))
    model.compile(OPTIMIZERS[optimizer](), "sparse_categorical_crossentropy")
    watch, epochs = Measure(), 1
    callbacks = [watch]
    if name == "switched":
        callbacks.append(e2e.callbacks.TrainingModeScheduler(SWITCHES))
        epochs = len(SWITCHES)
    x, y = data(model)
    y = [y] * len(model.outputs)
    options = {"batch_size": BATCH, "shuffle": False, "verbose": 0, "epochs": epochs}
    model.fit(x, y, callbacks=callbacks, **options)
    found = {f"weight {i}": w for i, w in enumerate(cases.weights(model))}
    for step, read in enumerate(watch.read):
        for quantity, values in read.items():
            for module, value in values.items():
                found[f"{quantity} of {module} at {step}"] = np.asarray(value)
    return found


def main(path, *names):
    found = {f"{name}: {k}": v for name in names or CASES for k, v in run(name).items()}
    np.savez(path, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A local objective of one's own, in 15 lines: slow features of neighboring frames.

Slow feature analysis (Wiskott & Sejnowski 2002) as a local loss: what a module says about
a frame should change little to the next frame, and still vary over the batch. Here the
"frames" are two shifts of one digit. The objective sees the module's activation and the
batch, returns a loss for each example, and is saved and loaded like any Keras layer. Takes
about ten seconds.

What to see: the loss of the first module falls although no label reaches it, a saved
model knows the objective again, and a classifier on the frozen code learns from it.
"""

import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from keras import ops

import keras_e2e as e2e
from keras_e2e.experiments.tasks import load_digits


@keras.saving.register_keras_serializable("example")
class Slow(e2e.objectives.LocalObjective):
    """Features that change little from frame to frame and vary over the batch."""

    def extra_inputs(self):
        # One more pass of the model, on inputs that are made here.
        return {"next frame": lambda batch: ops.roll(batch.x, 1, axis=2)}

    def loss(self, activation, batch):
        following = batch.extra_activations["next frame"]
        change = ops.mean(ops.square(activation - following), axis=-1)
        spread = ops.std(activation, axis=0)
        return change + ops.mean(ops.relu(1.0 - spread))


def main():
    """Trains, saves, loads, and trains the classifier."""
    keras.utils.set_random_seed(0)
    (x, y), (x_test, y_test) = load_digits()
    x, x_test = (images.reshape(-1, 8, 8, 1) for images in (x, x_test))
    base = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(32, name="code"),
            keras.layers.Dense(10, activation="softmax", name="digit"),
        ]
    )
    model = e2e.modularize(base, {"code": Slow()})
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])

    model.training_mode = "sequential:code"
    losses = model.fit(x, y, epochs=20, verbose=0).history["loss"]
    print(f"first module, no labels: loss {losses[0]:.3f} -> {losses[-1]:.3f}")

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "slow.keras")
        model.save(path)
        model = keras.models.load_model(path)
    print("loaded objective:", type(model.boundaries["code"].objective).__name__)

    model.training_mode = "sequential:digit"
    model.fit(x, y, epochs=20, verbose=0)
    accuracy = model.evaluate(x_test, y_test, verbose=0)[1]
    chance = np.bincount(y_test).max() / len(y_test)
    print(f"classifier on the frozen code: {accuracy:.3f} (most common class {chance:.3f})")


if __name__ == "__main__":
    main()

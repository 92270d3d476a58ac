"""The Forward-Forward algorithm (Hinton 2022) on a stock Keras MLP, by plain `model.fit`.

Each hidden layer learns by itself to be active for images with their true label written
over the first ten pixels and quiet for those with a wrong one; no gradient crosses a
boundary. An `RMSNormalization` after each boundary hides from the next layer what the
length of the activation says. Predictions are read off in two ways: by trying every label
and taking the one of the highest goodness, and in one pass by the last layer, which is
trained on the frozen features of images without a label. Takes about a minute.

What to see: both read-outs classify far above chance (0.1), and end-to-end training of the
same network with the same number of steps does better: on this small task
Forward-Forward is no match for backpropagation.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from absl import app, flags

import keras_e2e as e2e
from keras_e2e.experiments.tasks import load_digits
from keras_e2e.objectives import ForwardForward

FLAGS = flags.FLAGS
flags.DEFINE_integer("epochs", 60, "Epochs of each training.")
flags.DEFINE_integer("seeds", 3, "How many seeds.")
LAYERS = ("first", "second", "third")
BORDER = 10  # pixels for the label, one for each class


def network():
    """A stock model: three hidden layers, a normalization after each."""
    x = inputs = keras.Input((64 + BORDER,))
    for name in LAYERS:
        x = keras.layers.Dense(256, activation="relu", name=name)(x)
        x = keras.layers.RMSNormalization()(x)
    outputs = keras.layers.Dense(10, activation="softmax", name="digit")(x)
    return keras.Model(inputs, outputs)


def trained(seed, mode, x, y):
    """A model after training in a mode."""
    keras.utils.set_random_seed(seed)
    objectives = {name: ForwardForward(seed=seed) for name in LAYERS}
    model = e2e.modularize(network(), objectives, training_mode=mode)
    model.compile(
        keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    model.fit(x, y, batch_size=64, epochs=FLAGS.epochs, verbose=0)
    return model


def main(argv):
    """Trains with each seed and prints the mean accuracies."""
    del argv
    (x, y), (x_test, y_test) = load_digits()
    # Room for the label in front of the image; zeros are "no label".
    x, x_test = (np.pad(images, ((0, 0), (BORDER, 0))) for images in (x, x_test))
    found = {"highest goodness": [], "last layer": [], "end to end": []}
    for seed in range(FLAGS.seeds):
        model = trained(seed, "local", x, y)
        guesses = e2e.goodness_predict(model, x_test).argmax(axis=1)
        found["highest goodness"].append(float(np.mean(guesses == y_test)))
        found["last layer"].append(model.evaluate(x_test, y_test, verbose=0)[1])
        backprop = trained(seed, "end_to_end", x, y)
        found["end to end"].append(backprop.evaluate(x_test, y_test, verbose=0)[1])
    print(f"test accuracy on digits, {FLAGS.seeds} seeds, {FLAGS.epochs} epochs each:")
    for name, accuracies in found.items():
        numbers = " ".join(f"{a:.3f}" for a in accuracies)
        print(f"  {name:17} {np.mean(accuracies):.3f}  ({numbers})")


if __name__ == "__main__":
    app.run(main)

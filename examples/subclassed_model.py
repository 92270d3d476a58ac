"""A subclassed model, whose `call` is code: boundaries after sublayers by name.

The same three modes and the way back as in existing_model.py. As code has no graph to
read, keras_e2e finds the modules by running the model once on two examples. Takes about
twenty seconds on two CPU cores.

What to see: the modules that were found, accuracy rising in each of the modes on
scikit-learn's digits, and that `strip` gives back the very object we started from.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

import keras_e2e as e2e
from keras_e2e.experiments.tasks import load_digits

keras.utils.set_random_seed(0)


class Classifier(keras.Model):
    """Two blocks and a classifier, written as code."""

    def __init__(self):
        super().__init__()
        self.lower = keras.layers.Dense(64, activation="relu", name="lower")
        self.upper = keras.layers.Dense(64, activation="relu", name="upper")
        self.normalize = keras.layers.BatchNormalization(name="normalize")
        self.drop = keras.layers.Dropout(0.2)
        self.classify = keras.layers.Dense(10, activation="softmax", name="classify")

    def call(self, images, training=False):
        hidden = self.lower(images)
        hidden = self.normalize(self.upper(hidden), training=training)
        return self.classify(self.drop(hidden, training=training))


(images, labels), test = load_digits()
base = Classifier()
model = e2e.modularize(base, ["lower", "normalize"])
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
modes: tuple[e2e.TrainingMode | e2e.ModeName, ...] = (
    "end_to_end",
    "local",
    e2e.TrainingMode("sequential", module="normalize"),
)
for mode in modes:
    model.training_mode = mode
    print(f"\n{mode}:")
    model.fit(images, labels, epochs=3, verbose=2, validation_data=test)
print()
model.module_summary()

print(f"\nstripped gives back the model itself: {e2e.strip(model) is base}")

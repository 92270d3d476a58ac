"""A stock keras.applications network, split into modules without touching its code.

MobileNetV2 gets three boundaries at balanced places of its graph, is trained a few
steps in three modes by plain `model.fit`, and becomes a stock model again. Takes about
a minute on two CPU cores.

What to see: the table shows which layers each module holds, the runs show that one
model goes from mode to mode, and the last line that the stripped model predicts to the
bit what the modular one does. A few steps from random weights teach nothing about
accuracy; the demo (`keras-e2e demo`) does.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import keras_e2e as e2e
from keras_e2e.experiments.tasks import load_digits

keras.utils.set_random_seed(0)

# scikit-learn's 8x8 digits, enlarged to the smallest input that MobileNetV2 takes.
(images, labels), _ = load_digits()
images = images[:256].reshape(-1, 8, 8, 1).repeat(4, axis=1).repeat(4, axis=2)
images = images.repeat(3, axis=3) * 2 - 1
labels = labels[:256]

# weights="imagenet" works the same way where Keras can download them.
base = keras.applications.MobileNetV2((32, 32, 3), weights=None, classes=10)
model = e2e.modularize(base, boundaries=3)
model.module_summary()

model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
for mode in ("end_to_end", "local", "deep_supervision"):
    model.training_mode = mode
    print(f"\n{mode}:")
    model.fit(images, labels, batch_size=32, epochs=1, verbose=2)

plain = e2e.strip(model)
same = np.array_equal(
    plain.predict(images[:8], verbose=0), model.predict(images[:8], verbose=0)
)
print(f"\nstripped: {type(plain).__name__}, same predictions to the bit: {same}")

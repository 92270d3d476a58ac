"""Label-free pretraining, module by module, then fine-tuning on a few labels.

A small convolutional encoder of two modules learns from all images without a label, each
module by Barlow Twins on two shifts of an image (block-wise, Siddiqui et al. 2023), and
is then fine-tuned end to end on a few labeled images. Beside it: the same network,
trained end to end on the same labels only, with as many steps in all. Takes a minute and
a half.

What to see: how much the labels are worth with and without pretraining, over several
seeds. With many labels the difference vanishes. It does not always help: on tasks where
end-to-end training breaks down altogether, label-free pretraining did not repair it (see
docs/limits.md); there a few intermediate labels did.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from absl import app, flags

import keras_e2e as e2e
from keras_e2e.callbacks import TrainingModeScheduler
from keras_e2e.experiments.tasks import load_digits

FLAGS = flags.FLAGS
flags.DEFINE_integer("labels", 50, "How many labeled images.")
flags.DEFINE_integer("pretrain", 1000, "Steps without labels.")
flags.DEFINE_integer("finetune", 300, "Steps with labels.")
flags.DEFINE_integer("seeds", 5, "How many seeds.")
BATCH = 128


def network():
    """A stock model: two convolutional modules and a classifier."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, padding="same", activation="relu", name="early"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.Conv2D(64, 3, padding="same", activation="relu", name="late"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, activation="softmax", name="digit"),
        ]
    )


def batches(x, y, count, seed):
    """`count` batches drawn at random, the same for the same seed."""
    random = np.random.default_rng(seed)
    rows = random.integers(0, len(x), (count, BATCH))
    return x[rows.ravel()], y[rows.ravel()]


def run(seed, pretrained, data):
    """Test accuracy of one training."""
    (x, y), (x_test, y_test), (x_few, y_few) = data
    keras.utils.set_random_seed(seed)
    # One layer for both boundaries: they share the pass on the second view.
    shift = keras.layers.RandomTranslation(0.15, 0.15, fill_mode="constant", seed=seed)
    model = e2e.modularize(
        network(),
        {name: e2e.objectives.BarlowTwins(shift) for name in ("early", "late")},
    )
    model.compile(
        keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    fit = {"batch_size": BATCH, "shuffle": False, "verbose": 0}
    if pretrained:
        # The task loss of local mode would see labels: module by module it is left out.
        turns = {0: "sequential:early", FLAGS.pretrain // 2: "sequential:late"}
        schedule = TrainingModeScheduler(turns, unit="step")
        inputs, unused = batches(x, y, FLAGS.pretrain, seed)
        model.fit(inputs, np.zeros_like(unused), callbacks=[schedule], **fit)
        model.training_mode = "end_to_end"
        steps = FLAGS.finetune
    else:
        steps = FLAGS.pretrain + FLAGS.finetune
    model.fit(*batches(x_few, y_few, steps, seed + 1), **fit)
    return model.evaluate(x_test, y_test, verbose=0)[1]


def main(argv):
    """Compares both over the seeds."""
    del argv
    found = {"labels only": [], "pretrained without labels": []}
    for seed in range(FLAGS.seeds):
        (x, y), (x_test, y_test) = load_digits(seed)
        x, x_test = (images.reshape(-1, 8, 8, 1) for images in (x, x_test))
        few = np.random.default_rng(seed).permutation(len(x))[: FLAGS.labels]
        data = (x, y), (x_test, y_test), (x[few], y[few])
        found["labels only"].append(run(seed, False, data))
        found["pretrained without labels"].append(run(seed, True, data))
    print(
        f"test accuracy on digits with {FLAGS.labels} labels, {FLAGS.seeds} seeds, "
        f"{FLAGS.pretrain + FLAGS.finetune} steps each:"
    )
    for name, accuracies in found.items():
        numbers = " ".join(f"{a:.3f}" for a in accuracies)
        print(f"  {name:27} {np.mean(accuracies):.3f}  ({numbers})")


if __name__ == "__main__":
    app.run(main)

"""One model, two meanings: predictors that vote, or one system of several networks.

Five small networks learn to read digits. First each is trained by itself on a bag of its
own (a bootstrap sample), and their predictions are combined. Then, twice from the same
weights and on the same images, the ensemble is trained by one `fit`: each network on its
own loss ("local"), and all of them on the loss of their average ("end_to_end"). Takes half
a minute.

What to see: trained independently, each network reads digits nearly as well as their
average does. Trained jointly, they are a system: most of the single networks are far worse
and they disagree more, for each makes up for the others; what their average says is further
from how often it is right (ECE). See Webb et al. 2020, "To Ensemble or Not Ensemble: When
Does End-to-End Training Fail?", and Jeffares et al. 2023, "Joint Training of Deep Ensembles
Fails Due to Learner Collusion". Which of the averages has the least error, one seed and 360
images cannot tell; `benchmarks/ensembles.py` compares them at equal compute.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

from keras_e2e.experiments.tasks import load_digits
from keras_e2e.models.ensembles import bootstrap_indices, ensemble, evaluate_ensemble

MEMBERS, UNITS, EPOCHS = 5, 8, 30


def network():
    """One member: a stock model, as any other."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(UNITS, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ],
        name="network",
    )


def fit(model, x, y):
    """Compiles and trains a member or the ensemble."""
    model.compile(
        keras.optimizers.Adam(0.01),
        "sparse_categorical_crossentropy",
        steps_per_execution=5,  # for speed
    )
    model.fit(x, y, batch_size=32, epochs=EPOCHS, verbose=0)


def main():
    """Trains in three ways and prints what became of members and votes."""
    keras.utils.set_random_seed(0)
    (x, y), test = load_digits()

    members = [network() for _ in range(MEMBERS)]
    model = ensemble(members)
    start = model.get_weights()

    for member, rows in zip(members, bootstrap_indices(len(x), MEMBERS), strict=True):
        fit(member, x[rows], y[rows])
    print(f"Each by itself, on a bag of its own:\n{evaluate_ensemble(model, *test)}\n")

    for mode in ("local", "end_to_end"):
        model.set_weights(start)
        model.training_mode = mode
        fit(model, x, y)
        print(f"The ensemble, {mode}:\n{evaluate_ensemble(model, *test)}\n")


if __name__ == "__main__":
    main()

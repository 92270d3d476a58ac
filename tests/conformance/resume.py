"""Loads every saved case in a fresh process, trains on; run by test_everywhere.py."""

import sys

import keras
import numpy as np

from tests.conformance import cases, models


def main(folder):
    """Writes predictions and weights after further training beside each model."""
    for case in cases.DISTINCT:
        model = keras.models.load_model(f"{folder}/{case.name}.keras")
        assert str(model.training_mode) == "local", model.training_mode
        x, y = case.data(16)
        predicted = models.flat(model(x, training=False))
        cases.fit(model, x, y)
        np.savez(f"{folder}/{case.name}.npz", *predicted, *cases.values(model.weights))


if __name__ == "__main__":
    main(sys.argv[1])

"""Padding counts in no quantity that looks at activations."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e
from keras_e2e.diagnostics import DormantFraction, EffectiveRank, ProbeAccuracy

NORMAL = keras.initializers.RandomNormal(stddev=1.0, seed=0)
QUANTITIES = [DormantFraction(0.9), EffectiveRank(), ProbeAccuracy()]


def measurements(padding):
    """What two steps on sentences of five words read, padded with so many zeros."""
    rng = np.random.default_rng(0)
    words = rng.integers(1, 9, (24, 5))
    words[::2, 3:] = 0
    x = np.pad(words, ((0, 0), (0, padding)))
    y = rng.integers(0, 3, 24)
    keras.utils.set_random_seed(1)
    base = keras.Sequential(
        [
            keras.Input((None,)),
            # Of usual size: the rank of words that are nearly alike is mostly rounding.
            layers.Embedding(9, 6, NORMAL, mask_zero=True, name="embedding"),
            layers.Dense(6, activation="relu", bias_initializer="ones", name="words"),
            layers.GlobalAveragePooling1D(name="pool"),
            layers.Dense(3, activation="softmax", name="out"),
        ]
    )
    model = e2e.modularize(base, {"words": None})
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    recorder = model.instrument(QUANTITIES)
    found = []
    for _ in range(2):
        model.request_diagnostics([q.name for q in QUANTITIES])
        model.fit(x, y, batch_size=24, shuffle=False, verbose=0)
        found.append({q.name: recorder.read()[q.name]["words"] for q in QUANTITIES})
    return found


def test_more_padding_changes_no_measurement():
    few, many = measurements(1), measurements(40)
    for one, other in zip(few, many, strict=True):
        assert one == pytest.approx(other, rel=1e-4, nan_ok=True)
    assert 1.0 < few[1]["effective_rank"] < 6.0
    assert 0.0 < few[1]["probe_accuracy"] <= 1.0

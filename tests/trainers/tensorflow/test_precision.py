"""Steps applied while the forward pass goes on have the precision of the weights."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(16, 6)), RNG.normal(size=(16, 2))


class AtTheEnd(keras.optimizers.Adam):
    """Of a class that is not known to step variable by variable."""


def trained(policy, optimizer, mode, remat):
    keras.utils.set_random_seed(0)
    x = keras.Input((6,), dtype=policy.removeprefix("mixed_"))
    hidden = layers.Dense(8, activation="tanh", name="hidden", dtype=policy)(x)
    outputs = layers.Dense(2, name="out", dtype=policy)(hidden)
    base = keras.Model(x, outputs)
    model = e2e.modularize(base, ["hidden"], training_mode=mode, remat=remat)
    model.compile(optimizer, "mse")
    model.fit(X, Y, batch_size=8, epochs=3, shuffle=False, verbose=0)
    return [np.array(weight, "float64") for weight in model.get_weights()]


@pytest.mark.parametrize("policy", ["float64", "bfloat16", "mixed_bfloat16"])
@pytest.mark.parametrize("remat", [False, True])
def test_applied_apart_and_recomputed_is_what_stock_steps_are(policy, remat):
    mode = "end_to_end" if remat else "local"
    found = trained(policy, keras.optimizers.Adam(0.01), mode, remat)
    wanted = trained(policy, AtTheEnd(0.01), mode, False)
    for ours, plain in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(ours, plain)

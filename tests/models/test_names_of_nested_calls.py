"""A graph that is taken apart computes what the nested one does, to the last bit."""

import functools

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 32)).astype("float32")
Y = RNG.normal(size=(64, 3)).astype("float32")


def nested(depth):
    """What three layers use: two inside, and one outside that is named to come before."""
    keras.utils.set_random_seed(0)
    x = keras.Input((32,))
    first = layers.Dense(32, activation="relu", name="first")(x)
    used = layers.Dense(32, activation="tanh", name="used")(first)
    ends = [layers.Dense(32, name=name)(used) for name in ("y", "z")]
    model = keras.Model(x, [used, layers.Add(name="sum")(ends)], name="backbone")
    for _ in range(depth - 1):
        x = keras.Input((32,))
        model = keras.Model(x, model(x), name="a_" + model.name)
    x = keras.Input((32,))
    used, total = model(x)
    outside = layers.Dense(32, name="fpn")(used)
    return keras.Model(x, layers.Dense(3, name="out")(outside + total), name="net")


def called_twice():
    """An encoder that is called twice, and draws and keeps what depends on the order."""
    keras.utils.set_random_seed(0)
    x = keras.Input((32,))
    code = layers.Dense(8, name="code")(x)
    kept = layers.BatchNormalization(momentum=0.5)(layers.Dropout(0.5)(code))
    encoder = keras.Model(x, layers.Dense(8)(kept), name="encoder")
    x = keras.Input((32,))
    wide, deep = (layers.Dense(32, name=name)(x) for name in ("wide", "deep"))
    left, right = encoder(wide), encoder(layers.Dense(32)(deep) + wide)
    return keras.Model(x, layers.Dense(3)(left - right))


@pytest.mark.parametrize(
    ("make", "boundary"),
    [
        (functools.partial(nested, 1), "first"),
        (functools.partial(nested, 2), "first"),
        (called_twice, "code"),
        (called_twice, ("wide", "deep")),
    ],
)
def test_end_to_end_is_stock(make, boundary):
    found = []
    for modular in (False, True):
        base = make()
        model = e2e.modularize(base, [boundary]) if modular else base
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.fit(X, Y, batch_size=16, epochs=4, shuffle=False, verbose=0)
        found.append([variable.numpy() for variable in base.weights])
    for variable, stock, ours in zip(base.weights, *found, strict=True):
        np.testing.assert_array_equal(ours, stock, err_msg=variable.path)

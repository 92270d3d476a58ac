"""Context supply (Yu et al. 2023): an encoded input joins what a module is given.

It takes layers of Keras's alone: the encoder belongs to the module that it leads into.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_e2e as e2e

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 8, 8, 2)).astype("float32")
Y = np.arange(24) % 3
CUTS = ["a", "b"]


def encoder(filters, pool, name):
    return keras.Sequential(
        [
            layers.Conv2D(filters, 3, padding="same", activation="tanh"),
            layers.AveragePooling2D(pool),
        ],
        name=name,
    )


def network():
    keras.utils.set_random_seed(1)
    image = keras.Input((8, 8, 2))
    h = layers.Conv2D(4, 3, padding="same", activation="tanh", name="a")(image)
    h = layers.Add()([h, encoder(4, 1, "context_a")(image)])
    h = layers.Conv2D(6, 3, 2, padding="same", activation="tanh", name="b")(h)
    h = layers.Add()([h, encoder(6, 2, "context_b")(image)])
    h = layers.GlobalAveragePooling2D()(h)
    return keras.Model(image, layers.Dense(3, activation="softmax", name="out")(h))


def modular(mode, objective="prediction"):
    model = e2e.modularize(network(), CUTS, objective=objective, training_mode=mode)
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    return model


def weights(model):
    return {
        v.path.rpartition("context_")[2]: ops.convert_to_numpy(v).copy()
        for v in model.trainable_variables
        if "context_" in v.path
    }


def test_an_encoder_belongs_to_the_module_that_it_leads_into():
    first, second, last = modular("local").modules
    assert not [v for v in first.variables if "context" in v.path]
    assert {v.path.split("/")[0] for v in second.variables} == {"context_a", "b"}
    assert {v.path.split("/")[0] for v in last.variables} == {"context_b", "out"}


@pytest.mark.parametrize(
    ("mode", "moved"),
    [
        ("sequential:a", ""),
        ("sequential:b", "a"),
        ("sequential:out", "b"),
        ("local", "ab"),
        ("end_to_end", "ab"),
    ],
)
def test_it_is_trained_with_that_module(mode, moved):
    model = modular(mode)
    before = weights(model)
    model.fit(X, Y, batch_size=8, verbose=0)
    changed = {k[0] for k, v in weights(model).items() if not np.array_equal(v, before[k])}
    assert changed == set(moved)


def test_the_module_before_is_trained_as_without_it():
    def plain():
        model = network()
        rest = layers.Flatten()(model.get_layer("a").output)
        return keras.Model(model.input, layers.Dense(3, activation="softmax")(rest))

    found = []
    for base, names in ((network(), CUTS), (plain(), ["a"])):
        objective = e2e.objectives.SimilarityMatching()
        cuts = {name: None for name in names} | {"a": objective}
        model = e2e.modularize(base, cuts, training_mode="sequential:a")
        model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        for v in objective.variables:
            v.assign(np.full(v.shape, 0.1, "float32"))
        model.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
        found.append(ops.convert_to_numpy(model.get_layer("a").kernel))
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-7)


def test_a_module_is_given_the_sum():
    model = modular("local")
    a, b = (
        ops.convert_to_numpy(model.forward_record(X).activations(name)[0]) for name in CUTS
    )
    given = a + ops.convert_to_numpy(model.get_layer("context_a")(X))
    expected = ops.convert_to_numpy(model.get_layer("b")(given))
    np.testing.assert_allclose(b, expected, rtol=1e-4, atol=1e-5)


def test_it_is_part_of_the_stripped_and_of_the_saved_model(tmp_path):
    model = modular("local")
    model.fit(X, Y, batch_size=8, verbose=0)
    expected = model.predict(X, verbose=0)
    np.testing.assert_array_equal(e2e.strip(model).predict(X, verbose=0), expected)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(X, verbose=0), expected, rtol=1e-6)
    assert [m.name for m in loaded.modules] == ["a", "b", "out"]

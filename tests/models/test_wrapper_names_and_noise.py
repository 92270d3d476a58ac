"""Subclassed models: layers that Keras names, texts, layers that draw themselves."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e

X = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
Y = np.arange(16) % 3
LOSS = "sparse_categorical_crossentropy"


@keras.saving.register_keras_serializable("test_wrapper_names")
class Unnamed(keras.Model):
    """Leaves the names of its layers, all of one size, to Keras."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second, self.third = (layers.Dense(6, "tanh") for _ in range(3))

    def call(self, x):
        return self.third(self.second(self.first(x)))


@pytest.mark.parametrize("before", [0, 1])
def test_a_boundary_is_where_it_was_when_keras_counts_on(before, tmp_path):
    layers.Dense(1)
    base = Unnamed()
    name = base.second.name
    model = e2e.modularize(
        base, {name: "reconstruction"}, training_mode=f"sequential:{name}"
    )
    model.compile("sgd", LOSS)
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "model.keras")
    expected = model.predict(X, verbose=0)
    keras.backend.clear_session()
    for _ in range(before):  # the names shift by one, and all of them are taken
        layers.Dense(1)
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [module.name for module in loaded.modules] == [m.name for m in model.modules]
    assert loaded.base.second.name == name
    assert loaded.training_mode == model.training_mode
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), expected)
    now = loaded.base.get_weights()
    assert all(map(np.array_equal, model.base.get_weights(), now))
    loaded.fit(X, Y, verbose=0)
    pairs = zip(now, loaded.base.get_weights(), strict=True)
    moved = [not np.array_equal(old, new) for old, new in pairs]
    assert moved == [True] * 4 + [False] * 2  # of the first two layers, not of the third


@keras.saving.register_keras_serializable("test_wrapper_names")
class Texts(keras.Model):
    """Takes strings."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.split = layers.TextVectorization(
            vocabulary=["one", "two", "three"], output_mode="multi_hot"
        )
        self.code = layers.Dense(4, name="code")
        self.out = layers.Dense(3, activation="softmax", name="out")

    def call(self, x):
        return self.out(self.code(self.split(x)))


def test_a_model_of_texts_is_saved_and_loaded(tmp_path):
    x = np.array(["one two", "three", "two", "one"] * 4, object)
    model = e2e.modularize(Texts(), {"code": "prediction"}, training_mode="local")
    model.compile("sgd", LOSS)
    model.fit(x, Y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert list(loaded.boundaries) == ["code"]
    expected = model.predict(x, verbose=0)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)


class Drawing(layers.Layer):
    """Holds a layer, and draws in its own `call`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(6)
        self.seed = keras.random.SeedGenerator(0)

    def call(self, x, training=None):
        x = self.dense(x)
        return keras.random.dropout(x, 0.5, seed=self.seed) if training else x


class WithDrawing(keras.Model):
    def __init__(self):
        super().__init__()
        self.block = Drawing(name="block")
        self.code = layers.Dense(6, name="code")
        self.out = layers.Dense(3, activation="softmax", name="out")

    def call(self, x, training=None):
        return self.out(self.code(self.block(x, training=training)))


@pytest.mark.parametrize("trained, draws", [("code", True), ("outputs", False)])
def test_a_layer_that_draws_itself_is_still_in_frozen_modules(trained, draws):
    base = WithDrawing()
    base(X)
    model = e2e.modularize(
        base, {"code": "prediction"}, training_mode=f"sequential:{trained}"
    )
    model.compile("sgd", LOSS)
    before = base.block.seed.state.numpy()
    model.fit(X, Y, verbose=0)
    assert np.array_equal(before, base.block.seed.state.numpy()) != draws


class Failing(e2e.objectives.LocalObjective):
    def build_head(self, activation, model):
        raise TypeError("no head today")


def test_a_head_that_cannot_be_made_leaves_nothing_on_the_layers():
    base = WithDrawing()
    base(X)
    with pytest.raises(TypeError, match="no head today"):
        e2e.modularize(base, {"code": Failing()})
    assert not any("call" in layer.__dict__ for layer in base.layers)

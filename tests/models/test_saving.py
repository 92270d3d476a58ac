"""What goes in comes out: the structure of a model in its modular one."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 4)).astype("float32")
Y = np.array([0, 1, 2, 0] * 2)


@keras.saving.register_keras_serializable("test_saving")
class Doubled(layers.Layer):
    """Cannot be serialized by itself, only by the model that made it."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, x):
        return self.function(x)

    def get_config(self):
        raise NotImplementedError("only as a part of Backbone")


@keras.saving.register_keras_serializable("test_saving")
class Backbone(keras.Model):
    """A graph whose layers are named by Keras, and which is saved as its width."""

    def __init__(self, width, **kwargs):
        x = keras.Input((4,))
        hidden = layers.Dense(width, "relu")(Doubled(lambda v: 2 * v)(x))
        super().__init__(x, layers.Dense(width)(hidden), **kwargs)
        self.width = width

    def get_config(self):
        return {"name": self.name, "width": self.width}


def encoder(name):
    x = keras.Input((4,), name="x")
    return keras.Model(
        x, layers.Dense(5, name="b")(layers.Dense(4, name="a")(x)), name=name
    )


def two_deep(policy="float32"):
    x, inner = keras.Input((4,)), keras.Input((4,))
    hidden = layers.Dropout(0.2, seed=1)(encoder("inner")(inner))
    middle = keras.Model(inner, layers.Dense(4, name="c")(hidden), name="middle")
    out = layers.Dense(3, "softmax", name="out", dtype=policy)
    return keras.Model(x, out(middle(x)), name="net")


def in_half():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return two_deep("float32")
    finally:
        keras.config.set_dtype_policy("float32")


def sequential():
    held = [encoder("one"), layers.Dense(4, name="two"), layers.Dense(3, "softmax")]
    return keras.Sequential([keras.Input((4,)), *held], name="net")


def with_flags():
    used, unused = keras.Input((4,), name="used"), keras.Input((2,), optional=True)
    hidden = layers.Dense(4, name="a")(encoder("inner")(used))
    return keras.Model([unused, used], layers.Dense(3, "softmax")(hidden), name="net")


def saved_as_a_whole():
    x, twice = keras.Input((4,)), Backbone(4, name="twice")
    return keras.Model(x, layers.Dense(3, "softmax")(twice(twice(x))), name="net")


def ends_nested():
    x, y = keras.Input((4,)), keras.Input((5,))
    decoder = keras.Model(y, layers.Dense(3, "softmax")(layers.Dense(4, name="c")(y)))
    return keras.Model(x, decoder(encoder("encoder")(x)), name="net")


MODELS = {
    "two deep": (two_deep, ["middle/inner/a"]),
    "two deep, number": (two_deep, 2),
    "mixed precision": (in_half, ["middle/inner/a"]),
    "sequential": (sequential, ["one/a", "two"]),
    "flags": (with_flags, ["inner/a"]),
    "saved as a whole": (saved_as_a_whole, ["twice"]),
    "ends nested": (ends_nested, ["c", "encoder/a"]),
}


def make(kind, seed=0):
    """The model, its boundaries and inputs for it."""
    keras.utils.set_random_seed(seed)
    build, boundaries = MODELS[kind]
    return build(), boundaries, [X[:, :2], X] if kind == "flags" else X


def shape_of(model):
    """Classes and names of the layers, nested as they are."""
    return [
        (x.name, type(x), shape_of(x) if isinstance(x, keras.Model) else None)
        for x in model.layers
    ]


def compiled(model):
    model.compile(
        keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", run_eagerly=True
    )
    return model


def same(one, other):
    one, other = keras.tree.flatten(one), keras.tree.flatten(other)
    return all(map(np.array_equal, one, other))


@pytest.fixture(params=MODELS)
def kind(request):
    return request.param


def test_the_structure_is_that_of_the_model(kind):
    base, boundaries, x = make(kind)
    config = keras.saving.serialize_keras_object(base)
    model = e2e.modularize(base, boundaries)
    assert shape_of(model) == shape_of(base)
    assert model.layers[0] is base.layers[0] or kind != "sequential"
    assert len(model.boundaries) == (2 if boundaries == 2 else len(boundaries))
    assert model.output_names == getattr(base, "output_names", model.output_names)
    plain = e2e.strip(model)
    assert type(plain) is type(base)
    assert keras.saving.serialize_keras_object(plain) == config
    assert same(plain(x), base(x))
    assert same(model(x), base(x))


@pytest.mark.parametrize("kind", [k for k in MODELS if not k.startswith("two deep")])
def test_saved_it_goes_on_as_it_was(kind, tmp_path):
    base, boundaries, x = make(kind)
    model = compiled(e2e.modularize(base, boundaries, training_mode="local"))
    model.fit(x, Y, batch_size=4, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.training_mode == model.training_mode
    assert list(loaded.boundaries) == list(model.boundaries)
    assert type(loaded.optimizer) is type(model.optimizer)
    assert same(loaded.optimizer.variables, model.optimizer.variables)
    assert same(loaded.get_weights(), model.get_weights())
    assert same(loaded(x), model(x))
    assert [type(layer) for layer in loaded.layers] == [type(x) for x in base.layers]
    found = []
    for each in (model, loaded):
        keras.utils.set_random_seed(2)
        for layer in each._flatten_layers():
            for generator in layer._seed_generators:
                generator.state.assign([1, 0])  # saved by Keras with no model
        found.append(each.train_on_batch(x, Y))
    assert found[0] == found[1]
    assert same(loaded.get_weights(), model.get_weights())
    e2e.strip(loaded).save(tmp_path / "plain.keras")
    plain = keras.models.load_model(tmp_path / "plain.keras")
    assert same(plain(x), model(x))


def test_weights_go_from_and_to_stock_models(kind, tmp_path):
    base, boundaries, x = make(kind)
    stock, _, _ = make(kind, seed=1)
    model = e2e.modularize(base, boundaries)
    heads = [w for b in model.boundaries.values() for w in b.get_weights()]
    stock.save_weights(tmp_path / "stock.weights.h5")
    names = str(list(model.boundaries)).replace("[", r"\[").replace("]", r"\]")
    with pytest.warns(UserWarning, match=f"the heads of {names} stay as they are"):
        model.load_weights(tmp_path / "stock.weights.h5")
    assert same(model(x), stock(x))
    assert same(heads, [w for b in model.boundaries.values() for w in b.get_weights()])
    other, _, _ = make(kind, seed=2)
    model.save_weights(tmp_path / "ours.weights.h5")
    other.load_weights(tmp_path / "ours.weights.h5")
    assert same(other(x), stock(x))
    again = e2e.modularize(make(kind, seed=3)[0], boundaries)
    again.load_weights(tmp_path / "ours.weights.h5")
    assert same(again.get_weights(), model.get_weights())


@pytest.mark.parametrize("kind", ["two deep", "sequential", "ends nested"])
def test_a_clone_has_the_structure_and_the_mode(kind):
    base, boundaries, x = make(kind)
    model = compiled(e2e.modularize(base, boundaries, training_mode="local"))
    clone = keras.models.clone_model(model)
    assert shape_of(clone) == shape_of(keras.models.clone_model(base))
    assert clone.training_mode == model.training_mode
    clone.set_weights(model.get_weights())
    assert same(clone(x), model(x))
    assert list(clone.boundaries) == list(model.boundaries)


def test_more_boundaries_keep_the_structure():
    base, _, x = make("two deep")
    first = e2e.modularize(base, {"middle/inner/a": "predsim"})
    model = e2e.modularize(first, ["middle/inner"])
    assert list(model.boundaries) == ["a", "inner"]
    assert isinstance(model.boundaries["a"].objective, e2e.objectives.PredSim)
    assert shape_of(model) == shape_of(base)
    assert same(model(x), base(x))
    with pytest.raises(ValueError, match="'a' is followed by a boundary already"):
        e2e.modularize(first, ["a"])


def test_a_modular_model_in_a_model_keeps_its_place(tmp_path):
    x, inner = keras.Input((4,)), e2e.modularize(encoder("inner"), ["a"])
    whole = keras.Model(x, layers.Dense(3, "softmax")(inner(x)))
    model = e2e.modularize(whole)
    assert list(model.boundaries) == ["a"]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert list(loaded.boundaries) == ["a"]
    assert same(loaded(X), whole(X))
    plain = e2e.strip(model)
    assert [type(layer) for layer in plain.layers[1:]] == [type(plain), layers.Dense]
    assert same(plain(X), whole(X))


def test_weights_in_sharded_files_and_in_models(tmp_path):
    stock, _, _ = make("two deep", seed=1)
    stock.save_weights(tmp_path / "stock.weights.json", max_shard_size=0.001)
    stock.save(tmp_path / "stock.keras")
    for name in ("stock.weights.json", "stock.keras"):
        base, boundaries, x = make("two deep")
        model = e2e.modularize(base, boundaries)
        with pytest.warns(UserWarning, match="heads of"):
            model.load_weights(tmp_path / name)
        assert same(model(x), stock(x))


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_weights_of_other_boundaries_are_refused_with_what_works(tmp_path, suffix):
    """Heads of equal shapes would get those of others."""

    def plain():
        names = ("first", "second", "third")
        hidden = [layers.Dense(4, activation="relu", name=name) for name in names]
        return keras.Sequential([keras.Input((4,)), *hidden, layers.Dense(2)])

    path = tmp_path / f"model{suffix}"
    saved = e2e.modularize(plain(), ["second", "first"])
    (saved.save_weights if suffix == ".weights.h5" else saved.save)(path)
    model = e2e.modularize(plain(), ["first", "third"])
    before = [w.numpy() for w in model.weights]
    with pytest.raises(
        ValueError, match=r"'third'\].* at \['first', 'second'\]"
    ) as refused:
        model.load_weights(path)
    assert same(before, [w.numpy() for w in model.weights])
    assert "strip(model).load_weights(filepath)" in str(refused.value)
    e2e.strip(model).load_weights(path)
    np.testing.assert_array_equal(model.predict(X), saved.predict(X))
    model = e2e.modularize(e2e.strip(model), ["first", "second"])
    model.load_weights(path)
    assert same([w.numpy() for w in saved.weights], [w.numpy() for w in model.weights])


def test_weights_that_have_the_boundaries_among_the_layers(tmp_path):
    """As version 0.2 saved them, and as models save them whose graph has them."""
    model = e2e.modularize(make("two deep", seed=1)[0], ["middle/inner/a"])
    model._modular.graph.save_weights(tmp_path / "old.weights.h5")
    other = e2e.modularize(make("two deep")[0], ["middle/inner/a"])
    with pytest.warns(UserWarning, match="saved by an earlier version"):
        other.load_weights(tmp_path / "old.weights.h5")
    assert same(other.get_weights(), model.get_weights())


@keras.saving.register_keras_serializable("test_saving")
class Code(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.last = layers.Dense(4, name="a"), layers.Dense(3, name="out")

    def call(self, x):
        return self.last(self.first(x))


def test_weights_of_a_subclassed_model(tmp_path):
    stock, base = Code(), Code()
    stock(X), base(X)
    stock.save_weights(tmp_path / "stock.weights.h5")
    model = e2e.modularize(base, ["a"])
    with pytest.warns(UserWarning, match=r"heads of \['a'\]"):
        model.load_weights(tmp_path / "stock.weights.h5")
    assert same(model(X), stock(X))
    e2e.strip(model).save_weights(tmp_path / "plain.weights.h5")
    stock.load_weights(tmp_path / "plain.weights.h5")

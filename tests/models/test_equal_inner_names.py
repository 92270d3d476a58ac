"""Nested models whose layers have equal names, as where a factory is called twice."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e
from keras_e2e.objectives import IntermediateTarget

RNG = np.random.default_rng(0)
X = [RNG.normal(size=(8, 6)).astype("float32") for _ in range(2)]
Y = RNG.normal(size=(8, 2)).astype("float32")


def encoder(name):
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, "tanh", name="d0"),
            layers.Dropout(0.3, seed=1, name="drop"),
            layers.Dense(4, activity_regularizer="l2", name="d1"),
            layers.BatchNormalization(name="norm"),
        ],
        name=name,
    )


def twins():
    inputs = [keras.Input((6,), name=name) for name in ("one", "two")]
    pair = [encoder(name)(x) for name, x in zip(("left", "right"), inputs, strict=True)]
    x = layers.Dense(6, name="mix")(layers.Concatenate(name="pair")(pair))
    return keras.Model(inputs, layers.Dense(2, name="out")(x), name="net")


BOTH = ["left/d1", "right/d1"]


def test_boundaries_go_by_the_path():
    base = twins()
    model = e2e.modularize(base, BOTH)
    assert sorted(model.boundaries) == BOTH
    np.testing.assert_array_equal(model(X), base(X))
    owned = [[v.path for v in m.variables] for m in model.modules]
    assert [len(each) for each in owned] == [4, 4, 12]
    assert base.get_layer("left").get_layer("d1").name == "d1"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_number_of_boundaries_is_set(count):
    base = twins()
    model = e2e.modularize(base, count)
    assert len(model.boundaries) == count
    np.testing.assert_array_equal(model(X), base(X))


def test_one_of_them_may_be_cut_and_the_other_left():
    base = twins()
    model = e2e.modularize(base, ["left/d0"])
    assert list(model.boundaries) == ["left/d0"]
    np.testing.assert_array_equal(model(X), base(X))
    with pytest.raises(ValueError, match=r"'d1' is ambiguous .*'left/d1', 'right/d1'"):
        e2e.modularize(base, ["d1"])


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_end_to_end_they_train_as_stock_keras(optimizer, jit):
    found = []
    for modular in (False, True):
        keras.utils.set_random_seed(0)
        model = base = twins()
        if modular:
            model = e2e.modularize(base, BOTH)
        model.compile(optimizer, "mse", jit_compile=jit)
        keras.utils.set_random_seed(1)
        history = model.fit(X, Y, epochs=2, batch_size=4, verbose=0).history
        found.append((history["loss"], base.get_weights()))
    assert found[0][0] == found[1][0]
    for one, other in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("mode", ["local", "sequential:right/d1", "deep_supervision"])
def test_all_modes_train_and_labels_go_by_the_path(mode, tmp_path):
    objectives = {"left/d1": "predsim", "right/d1": IntermediateTarget(loss="mse")}
    model = e2e.modularize(twins(), objectives, training_mode=mode)
    model.compile("adam", "mse")
    y = {"out": Y, "right/d1": np.ones((8, 4), "float32")}
    history = model.fit(X, y, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert set(model.evaluate_modules(X, y)) == {*BOTH, "out"}
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert sorted(again.boundaries) == BOTH
    np.testing.assert_array_equal(again(X), model(X))
    plain = e2e.strip(again)
    plain.save(tmp_path / "plain.keras")
    stock = keras.models.load_model(tmp_path / "plain.keras")
    np.testing.assert_array_equal(stock(X), model(X))


def test_parts_and_figures_of_the_model_are_there():
    model = e2e.modularize(twins(), BOTH)
    model.compile("sgd", "mse")
    assert np.shape(model.early_exit_model("left/d1")(X)) == (8, 2)
    model.downstream_model("right/d1")
    model.module_summary(print_fn=lambda text: None)
    assert "left/d1" in str(e2e.estimate_memory(model, batch_size=4))


def test_more_boundaries_can_be_set():
    base = twins()
    model = e2e.modularize(e2e.modularize(base, BOTH), ["mix"])
    assert sorted(model.boundaries) == ["left/d1", "mix", "right/d1"]
    np.testing.assert_array_equal(model(X), base(X))


def test_a_mask_passes_through():
    def reader(name):
        x = inputs = keras.Input((5,), dtype="int32")
        x = layers.Embedding(7, 4, mask_zero=True, name="words")(x)
        x = layers.LSTM(4, return_sequences=True, name="deep")(x)
        return keras.Model(inputs, layers.LSTM(3, name="last")(x), name=name)

    inputs = [keras.Input((5,), dtype="int32", name=name) for name in ("one", "two")]
    pair = [reader(name)(x) for name, x in zip(("left", "right"), inputs, strict=True)]
    base = keras.Model(inputs, layers.Dense(2)(layers.Concatenate()(pair)))
    x = [RNG.integers(0, 3, (6, 5)) for _ in range(2)]
    model = e2e.modularize(base, ["left/deep", "right/words"], training_mode="local")
    np.testing.assert_array_equal(model(x), base(x))
    model.compile("sgd", "mse")
    model.fit(x, np.ones((6, 2)), verbose=0)
    np.testing.assert_array_equal(model(x), base(x))


def test_boundaries_of_equal_names_are_refused():
    def marked(name):
        parts = [layers.Dense(4, name="d"), e2e.ModuleBoundary(name="mark")]
        return keras.Sequential([keras.Input((6,)), *parts], name=name)

    inputs = keras.Input((6,))
    x = layers.Add()([marked("left")(inputs), marked("right")(inputs)])
    base = keras.Model(inputs, layers.Dense(2)(x))
    with pytest.raises(ValueError, match="Two boundaries go by the name 'mark'"):
        e2e.modularize(base)

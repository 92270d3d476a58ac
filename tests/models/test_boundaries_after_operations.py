"""Boundaries after operations, such as the sum of a residual block by `+`."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_e2e as e2e
from keras_e2e.objectives import IntermediateTarget

X = np.random.default_rng(0).normal(size=(12, 6)).astype("float32")
Y = np.random.default_rng(1).normal(size=(12, 2)).astype("float32")


def residual(blocks=3):
    """Pre-norm blocks; their sums are `add`, `add_1` and so on."""
    keras.backend.clear_session()
    inputs = keras.Input((6,))
    x = layers.Dense(6, name="stem")(inputs)
    for n in range(blocks):
        h = layers.Dense(6, "tanh", name=f"d{n}")(
            layers.LayerNormalization(name=f"ln{n}")(x)
        )
        x = x + layers.Dropout(0.2, seed=n, name=f"drop{n}")(h)
    return keras.Model(inputs, layers.Dense(2, name="out")(x), name="net")


def members(model):
    return {module.name: [x.name for x in module.layers] for module in model.modules}


def test_a_boundary_goes_by_the_operation_that_it_follows():
    base = residual()
    model = e2e.modularize(base, ["add_1", "add"])
    assert members(model) == {
        "add": ["stem", "ln0", "d0", "drop0"],
        "add_1": ["ln1", "d1", "drop1"],
        "out": ["ln2", "d2", "drop2", "out"],
    }
    assert list(model.boundaries) == ["add", "add_1"]
    np.testing.assert_array_equal(model(X), base(X))
    for modular in (e2e.modularize(base, {"add": "predsim", "add_2": None}), model):
        assert [o.name for o in e2e.strip(modular).operations[1:]] == [
            o.name for o in base.operations[1:]
        ]


def nested():
    keras.backend.clear_session()
    inner = keras.Input((6,))
    inside = layers.Dense(6, name="i0")(inner)
    block = keras.Model(inner, inside + layers.Dense(6, name="i1")(inside), name="block")
    inputs = keras.Input((6,))
    x = block(layers.Dense(6, name="stem")(inputs))
    return keras.Model(inputs, layers.Dense(2, name="out")(x), name="net")


@pytest.mark.parametrize("name", ["add", "block/add"])
def test_an_operation_in_a_nested_model_is_found(name):
    base = nested()
    model = e2e.modularize(base, [name])
    assert members(model) == {"add": ["stem", "i0", "i1"], "out": ["out"]}
    np.testing.assert_array_equal(model(X), base(X))


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_end_to_end_it_trains_as_stock_keras(optimizer, precision):
    keras.config.set_dtype_policy(precision)
    found = []
    for modular in (False, True):
        keras.utils.set_random_seed(0)
        model = residual()
        if modular:
            model = e2e.modularize(model, ["add", "add_1"])
        model.compile(optimizer, "mse")
        keras.utils.set_random_seed(1)
        history = model.fit(X, Y, epochs=2, batch_size=4, verbose=0).history
        stock = e2e.strip(model) if modular else model
        found.append((history["loss"], stock.get_weights()))
    assert found[0][0] == found[1][0]
    for one, other in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("mode", ["local", "deep_supervision", "sequential:add_1"])
@pytest.mark.parametrize("remat", [False, True])
def test_every_mode_trains_and_so_does_one_with_recomputation(mode, remat):
    found = []
    for recomputed in {False, remat}:
        keras.utils.set_random_seed(0)
        model = e2e.modularize(
            residual(), ["add", "add_1"], training_mode=mode, remat=recomputed
        )
        model.compile("adam", "mse")
        before = model.get_weights()
        model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
        found.append(model.get_weights())
        moved = [not np.array_equal(a, b) for a, b in zip(before, found[-1], strict=True)]
        assert any(moved)
    for one, other in zip(found[0], found[-1], strict=True):
        np.testing.assert_array_equal(one, other)


def test_labels_go_by_the_operation():
    model = e2e.modularize(
        residual(), {"add_1": IntermediateTarget(loss="mse")}, training_mode="local"
    )
    model.compile("sgd", "mse")
    labels = np.ones((12, 6), "float32")
    history = model.fit(X, {"out": Y, "add_1": labels}, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert set(model.evaluate_modules(X, {"out": Y, "add_1": labels})) == {"add_1", "out"}
    with pytest.raises((ValueError, KeyError), match="add_1"):
        model.fit(X, Y, verbose=0)


def test_it_is_saved_loaded_cloned_and_stripped(tmp_path):
    model = e2e.modularize(residual(), ["add", "add_1"], training_mode="local")
    model.compile("sgd", "mse")
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert list(again.boundaries) == ["add", "add_1"]
    assert members(again) == members(model)
    np.testing.assert_array_equal(again(X), model(X))
    assert list(keras.models.clone_model(model).boundaries) == ["add", "add_1"]
    assert list(e2e.modularize(e2e.strip(again), ["add_1"]).boundaries) == ["add_1"]
    e2e.strip(model).save(tmp_path / "stock.keras")
    stock = keras.models.load_model(tmp_path / "stock.keras")
    np.testing.assert_array_equal(stock(X), model(X))


def test_the_parts_of_the_model_end_there():
    base = residual()
    model = e2e.modularize(base, ["add", "add_1"])
    model.compile("sgd", "mse")
    early = model.early_exit_model("add_1")
    assert np.shape(early(X)) == (12, 2)
    hidden = np.asarray(model.forward_record(X).activations("add_1")[0])
    found = model.downstream_model("add_1")([X, hidden])
    np.testing.assert_allclose(found, base(X), rtol=1e-5, atol=1e-6)
    assert [row.name for row in model.modules] == ["add", "add_1", "out"]


def test_memory_and_diagnosis_go_by_the_operation():
    base = residual()
    base.compile("sgd", "mse")
    found = e2e.diagnose(base, X, Y, boundaries=["add", "add_1"], steps=60)
    assert all(name in str(found) for name in ("add", "add_1", "out"))
    named = e2e.modularize(base, ["add", "add_1"])
    named.compile("sgd", "mse")
    split = e2e.estimate_memory(named, batch_size=4)
    assert "add_1" in str(split)


def test_where_a_layer_is_bypassed_the_error_names_the_sum_that_would_do():
    base = residual()
    for name, does in (("ln1", "add_1"), ("d0", "add"), ("drop2", "add_2")):
        with pytest.raises(
            ValueError, match=rf"'{name}' is bypassed: .*have joined, at '{does}', or cut"
        ):
            e2e.modularize(base, [name])
        assert list(e2e.modularize(base, [does]).boundaries) == [does]


def test_where_a_way_around_can_be_cut_as_well_the_error_says_where():
    keras.backend.clear_session()
    x = inputs = keras.Input((6,))
    skips = []
    for n in range(2):
        x = layers.Dense(6, name=f"down{n}")(x)
        skips.append(x)
        x = layers.ReLU(name=f"pool{n}")(x)
    x = layers.Dense(6, name="middle")(x)
    for n in range(2):
        x = layers.Dense(6, name=f"up{n}")(layers.Concatenate()([x, skips.pop()]))
    base = keras.Model(inputs, layers.Dense(2, name="out")(x))
    with pytest.raises(ValueError, match=r"boundaries at \['down0', 'down1'\], or"):
        e2e.modularize(base, ["middle"])
    model = e2e.modularize(base, ["down0", "down1", "middle"], training_mode="local")
    model.compile("sgd", "mse")
    model.fit(X, Y, verbose=0)
    np.testing.assert_array_equal(model(X), base(X))


def test_a_name_that_is_not_there_is_refused_with_the_operations():
    with pytest.raises(
        ValueError, match=r"no layer 'add_7'\. Did you mean .* operations: \['add', 'add_1'"
    ):
        e2e.modularize(residual(), ["add_7"])


def test_an_operation_at_the_end_is_refused():
    keras.backend.clear_session()
    inputs = keras.Input((6,))
    outputs = ops.tanh(layers.Dense(2, name="out")(inputs * 2.0))
    base = keras.Model(inputs, outputs)
    with pytest.raises(ValueError, match="'tanh' stands on the model's output"):
        e2e.modularize(base, ["tanh"])

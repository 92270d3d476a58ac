"""Modular training of subclassed models, whose `call` is code."""

import keras
import numpy as np
import pytest
from keras import layers, ops, tree

import keras_e2e as e2e
from keras_e2e import ModularWrapper, ModuleBoundary, TrainingMode
from keras_e2e.modules.gate import Gate
from keras_e2e.modules.step_context import step_context
from keras_e2e.objectives import IntermediateTarget, Prediction, Reconstruction
from keras_e2e.utils import compat

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 6)).astype("float32")
Y = RNG.integers(0, 3, size=8)
LOSS = "sparse_categorical_crossentropy"


@keras.saving.register_keras_serializable("test_wrapper")
class Net(keras.Model):
    """A plain subclassed model, with layers that behave otherwise in training."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.a = layers.Dense(5, activation="relu", name="a")
        self.norm = layers.BatchNormalization(name="norm")
        self.drop = layers.Dropout(0.5, name="drop")
        self.b = layers.Dense(4, activation="softmax", name="b")
        self.out = layers.Dense(3, activation="softmax", name="out")

    def call(self, x, training=None):
        x = self.norm(self.a(x), training=training)
        return self.out(self.b(self.drop(x, training=training)))


@keras.saving.register_keras_serializable("test_wrapper")
class Marked(keras.Model):
    """A subclassed model that applies its boundaries itself."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.a = layers.Dense(5, name="a")
        self.code = ModuleBoundary(Reconstruction(), name="code")
        self.b = layers.Dense(4, name="b")
        self.mark = ModuleBoundary(name="mark", module="mix")
        self.out = layers.Dense(3, activation="softmax", name="out")

    def call(self, x):
        x = self.code(ops.tanh(self.a(x)))
        return self.out(self.mark(self.b(x)))


@keras.saving.register_keras_serializable("test_wrapper")
class Named(keras.Model):
    """Takes and puts out dicts."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.left = layers.Dense(5, name="left")
        self.right = layers.Dense(5, name="right")
        self.mix = layers.Dense(4, name="mix")
        self.p = layers.Dense(3, activation="softmax", name="p")
        self.q = layers.Dense(2, name="q")

    def call(self, inputs):
        x = self.mix(self.left(inputs["one"]) + self.right(inputs["two"]))
        return {"p": self.p(x), "q": self.q(x)}


def built(make=Net, x=X):
    model = make()
    model(x)
    return model


def wrapped(boundaries=("norm", "b"), base=None, **options):
    return e2e.modularize(base or built(), boundaries, **options)


def compiled(model, **options):
    model.compile("adam", LOSS, **options)
    return model


def members(model):
    return {module.name: [x.name for x in module.layers] for module in model.modules}


def tapped(base):
    return [layer.name for layer in compat.all_layers(base) if "call" in vars(layer)]


def values(variables):
    return [v.numpy().copy() for v in variables]


def moved(before, variables):
    return [
        v.path
        for old, v in zip(before, variables, strict=True)
        if not np.array_equal(old, v.numpy())
    ]


def assert_equal(one, other):
    tree.assert_same_structure(one, other)
    for a, b in zip(tree.flatten(one), tree.flatten(other), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


# Finding the modules


def test_a_built_model_is_examined_at_once():
    model = wrapped()
    assert isinstance(model, ModularWrapper)
    assert members(model) == {
        "norm": ["a", "norm"],
        "b": ["b"],
        "outputs": ["out"],
    }
    assert [module.inputs for module in model.modules] == [(), ("norm",), ("b",)]
    assert list(model.boundaries) == ["norm", "b"]


def test_the_modules_come_in_the_order_in_which_they_run():
    assert list(wrapped(["b", "norm"]).boundaries) == ["norm", "b"]


def test_a_model_that_is_not_built_is_examined_by_its_first_data():
    model = compiled(wrapped(base=Net(name="late")))
    assert model.modules == []
    model.fit(X, Y, verbose=0)
    assert list(members(model)) == ["norm", "b", "outputs"]


@pytest.mark.parametrize("way", ["examine", "train_on_batch", "dataset", "pydataset"])
def test_it_can_be_examined_by_other_ways_to_data(way):
    import tensorflow as tf

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return X[:4], Y[:4]

    model = compiled(wrapped(base=Net()), run_eagerly=True)
    if way == "examine":
        model.examine(X[:2])
    elif way == "train_on_batch":
        model.train_on_batch(X, Y)
    else:
        data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
        model.fit(Batches() if way == "pydataset" else data, verbose=0)
    assert list(members(model)) == ["norm", "b", "outputs"]


def test_to_examine_changes_no_variable():
    base = built()
    before = values(base.variables)
    model = wrapped(base=base)
    model.examine(X)
    assert not moved(before, base.variables)


def test_each_variable_belongs_to_one_module_and_heads_to_none():
    base = built()
    model = wrapped(base=base)
    owned = [id(v) for module in model.modules for v in module.variables]
    seeds = {id(v) for v in base.variables} - {id(v) for v in base.weights}
    assert len(owned) == len(set(owned))
    assert set(owned) - seeds == {id(v) for v in base.weights}
    trainable = [id(v) for m in model.modules for v in m.trainable_variables]
    assert sorted(trainable) == sorted(id(v) for v in base.trainable_variables)
    heads = {id(v) for module in model.modules for v in module.head_variables}
    assert heads
    assert {id(v) for v in model.trainable_variables} == heads | set(trainable)


def test_boundaries_in_call_need_no_names():
    model = e2e.modularize(built(Marked))
    assert members(model) == {"code": ["a"], "mix": ["b"], "outputs": ["out"]}
    kinds = [type(module.objective) for module in model.modules]
    assert kinds == [Reconstruction, Prediction, type(None)]


def test_boundaries_in_call_and_by_name_go_together():
    model = e2e.modularize(built(Marked), {"a": None})
    assert list(model.boundaries) == ["a", "code", "mix"]


def test_layers_in_nested_layers_can_be_named():
    class Block(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inner = layers.Dense(5, name="inner")
            self.last = layers.Dense(5, name="last")

        def call(self, x):
            return self.last(self.inner(x))

    class Outer(keras.Model):
        def __init__(self):
            super().__init__()
            self.blocks = [Block(name="first"), Block(name="second")]
            self.blocks[1].inner.name = "other"
            self.out = layers.Dense(3, name="out")

        def call(self, x):
            for block in self.blocks:
                x = block(x)
            return self.out(x)

    model = e2e.modularize(built(Outer), ["first", "other"])
    assert set(members(model)["first"]) == {"inner", "last"}
    assert members(model)["other"] == ["other"]
    assert set(members(model)["outputs"]) == {"last", "out"}
    assert [module.parameters for module in model.modules] == [35 + 30, 30, 30 + 18]


@pytest.mark.filterwarnings(
    "ignore:`build\\(\\)` was called on layer 'reusing':UserWarning"
)
def test_a_raw_input_and_a_boundarys_output_may_be_used_again():
    class Reusing(Net):
        def call(self, x, training=None):
            code = self.a(x)
            return self.out(ops.concatenate([self.b(code), code, x], -1))

    base = built(Reusing)
    model = wrapped(["a", "b"], base=base)
    assert members(model) == {"a": ["a"], "b": ["b"], "outputs": ["out"]}


# Outputs and training


@pytest.mark.parametrize("make", [Net, Marked])
def test_the_outputs_are_those_of_the_base_to_the_bit(make):
    base = built(make)
    expected = base.predict(X, verbose=0)
    model = e2e.modularize(base, [] if make is Marked else ["norm", "b"])
    assert_equal(model.predict(X, verbose=0), expected)
    assert_equal(base.predict(X, verbose=0), expected)
    for mode in ("local", "sequential", "deep_supervision"):
        model.training_mode = mode
        assert_equal(model(X, training=False), base(X, training=False))


def test_it_trains_the_variables_of_the_base():
    base = built()
    model = compiled(wrapped(base=base, training_mode="local"))
    before = values(base.trainable_variables)
    model.fit(X, Y, epochs=2, verbose=0)  # linear heads begin at zero
    assert len(moved(before, base.trainable_variables)) == len(before)
    assert_equal(model.predict(X, verbose=0), base.predict(X, verbose=0))


@pytest.mark.slow
def test_end_to_end_it_trains_as_the_base_does_to_the_bit():
    def trained(modular):
        keras.utils.set_random_seed(1)
        base = built()
        model = compiled(wrapped(base=base) if modular else base, metrics=["accuracy"])
        data = {"x": X, "y": Y, "validation_data": (X, Y), "batch_size": 4}
        history = model.fit(**data, epochs=2, shuffle=False, verbose=0).history
        return history, values(base.variables)

    stock, weights = trained(modular=False)
    ours, others = trained(modular=True)
    assert ours == stock
    assert_equal(others, weights)


@pytest.mark.parametrize(
    ("mode", "moves"),
    [
        ("sequential:norm", {"a/", "norm/"}),
        ("sequential:b", {"/b/"}),
        ("sequential:outputs", {"/out/"}),
    ],
)
def test_in_sequential_mode_one_module_moves(mode, moves):
    base = built()
    model = compiled(wrapped(base=base, training_mode=mode))
    before = values(base.weights)
    model.fit(X, Y, epochs=2, verbose=0)
    paths = moved(before, base.weights)
    assert paths
    assert all(any(name in path for name in moves) for path in paths), paths
    assert all(any(name in path for path in paths) for name in moves), paths


def test_in_sequential_mode_statistics_of_frozen_modules_stand_still():
    base = built()
    model = compiled(wrapped(base=base, training_mode="sequential:b"))
    before = values(base.norm.weights)
    seeds = values(base.drop.variables)
    model.fit(X, Y, verbose=0)
    assert not moved(before, base.norm.weights)
    # The dropout after the boundary belongs to the active module.
    assert moved(seeds, base.drop.variables)
    model.training_mode = "sequential:norm"
    model.fit(X, Y, verbose=0)
    assert moved(before, base.norm.weights)


def test_labels_come_under_the_names_of_sublayers():
    model = compiled(
        wrapped({"norm": "pred", "b": IntermediateTarget()}, training_mode="local")
    )
    symbols = RNG.integers(0, 4, size=8)
    before = values(model.trainable_variables)
    model.fit(X, {"outputs": Y, "b": symbols}, epochs=2, verbose=0)
    assert len(moved(before, model.trainable_variables)) == len(before)


def test_an_autoencoder_needs_no_labels_for_its_local_objective():
    model = compiled(
        wrapped({"b": Reconstruction()}, training_mode="sequential:b"),
    )
    before = values(model.base.b.weights)
    model.fit(X, verbose=0)
    assert moved(before, model.base.b.weights)


def test_local_losses_are_those_of_the_activations():
    base = built(Marked)
    model = compiled(e2e.modularize(base, training_mode="local"))
    outputs = model(X, training=True)
    total = float(model.compute_loss(x=X, y=Y, y_pred=outputs, training=True))
    code = np.tanh(np.asarray(base.a(X)))
    decoded = np.asarray(base.code.objective.network(code))
    mix = np.asarray(base.b(code))
    (head,) = base.mark.objective.networks
    predicted = np.asarray(ops.softmax(head(mix)))
    rows = np.arange(len(Y))
    expected = (
        np.mean((decoded - X) ** 2)
        - np.mean(np.log(predicted[rows, Y]))
        - np.mean(np.log(np.asarray(outputs)[rows, Y]))
    )
    np.testing.assert_allclose(total, expected, rtol=1e-5)


def test_dicts_go_in_and_out():
    x = {"one": X, "two": X[:, :4]}
    y = {"p": Y, "q": np.ones((8, 2), "float32")}
    base = built(Named, x)
    model = e2e.modularize(base, {"mix": "pred"}, training_mode="local")
    model.compile("adam", {"p": LOSS, "q": "mse"}, metrics={"p": ["accuracy"]})
    history = model.fit(x, y, verbose=0).history
    assert members(model) == {"mix": ["left", "right", "mix"], "outputs": ["p", "q"]}
    assert [n.output_shape for n in model.boundaries["mix"].objective.networks] == [
        (None, 3),
        (None, 2),
    ]
    assert "p_accuracy" in history
    assert_equal(model.predict(x, verbose=0), base.predict(x, verbose=0))


def test_a_mask_and_a_training_flag_reach_the_base():
    class Asking(keras.Model):
        def __init__(self):
            super().__init__()
            self.embed = layers.Embedding(9, 4, mask_zero=True, name="embed")
            self.lstm = layers.LSTM(3, name="lstm")
            self.out = layers.Dense(2, name="out")
            self.asked = []

        def call(self, x, training=None):
            self.asked.append(training)
            return self.out(self.lstm(self.embed(x)))

    x = np.array([[1, 2, 0, 0], [3, 4, 5, 6]])
    base = built(Asking, x)
    expected = np.asarray(base(x))
    model = e2e.modularize(base, ["embed"])
    model.examine(x)
    assert_equal(model(x, training=True), expected)
    assert base.asked[-1] is True
    assert_equal(model(x, training=False), expected)
    assert base.asked[-1] is False
    unmasked = np.where(x == 0, 8, x)
    assert (np.asarray(model(unmasked))[0] != expected[0]).any()


# Taps on layers


def test_unwrap_leaves_nothing_on_the_layers():
    base = built()
    before = {layer.name: layer.call for layer in base.layers}
    model = wrapped(base=base)
    assert set(tapped(base)) >= {"norm", "b"}
    assert model.unwrap() is base
    assert tapped(base) == []
    assert {layer.name: layer.call for layer in base.layers} == before
    model.unwrap()  # nothing is left to undo


def test_strip_is_unwrap():
    base = built()
    expected = base.predict(X, verbose=0)
    assert e2e.strip(wrapped(base=base)) is base
    assert tapped(base) == []
    assert_equal(base.predict(X, verbose=0), expected)
    compiled(base).fit(X, Y, verbose=0)


@pytest.mark.parametrize("first", [0, 1])
def test_two_wrappers_over_one_base_do_not_disturb_each_other(first):
    base = built()
    models = [
        wrapped(["norm"], base, training_mode="local"),
        wrapped(["b"], base, training_mode="sequential:b"),
    ]
    assert [list(m.boundaries) for m in models] == [["norm"], ["b"]]
    for model in models:
        compiled(model, run_eagerly=True)
    heads = [values(m.modules[0].head_variables) for m in models]
    one, other = models[first], models[1 - first]
    one.fit(X, Y, verbose=0)
    assert moved(heads[first], one.modules[0].head_variables)
    assert not moved(heads[1 - first], other.modules[0].head_variables)
    other.fit(X, Y, verbose=0)
    assert_equal(one.predict(X, verbose=0), other.predict(X, verbose=0))


@pytest.mark.parametrize("first", [0, 1])
def test_two_wrappers_can_be_taken_off_in_any_order(first):
    base = built()
    models = [wrapped(["norm"], base), wrapped(["b"], base)]
    for model in models:
        compiled(model, run_eagerly=True)
    models[first].unwrap()
    left = models[1 - first]
    left.training_mode = "local"
    before = values(left.modules[0].head_variables)
    left.fit(X, Y, verbose=0)
    assert moved(before, left.modules[0].head_variables), "its tap is gone"
    left.unwrap()
    assert tapped(base) == []


def test_a_layer_whose_call_was_replaced_keeps_the_replacement():
    base = built()
    plain = base.b.call
    base.b.call = replacement = lambda x: plain(x)
    model = wrapped(["b"], base)
    assert base.b.call is not replacement
    model.unwrap()
    assert base.b.call is replacement


def test_taps_are_quiet_outside_of_a_training_step_of_their_own_model():
    base = built()
    model = wrapped(["b"], base, training_mode="local")
    foreign = Gate(boundary_ids=set())
    with step_context(model._modular, gate=foreign):
        base(X)
    assert foreign.record.crossings == []
    assert_equal(base(X), model(X))


# Saved and loaded


@pytest.mark.parametrize("make", [Net, Marked])
def test_a_wrapper_is_saved_and_loaded(make, tmp_path):
    boundaries = {} if make is Marked else {"norm": Prediction("mlp"), "b": None}
    mode = TrainingMode("mixed", stop=["code" if make is Marked else "norm"])
    model = compiled(e2e.modularize(built(make), boundaries, training_mode=mode))
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(again, ModularWrapper)
    assert again.training_mode == mode
    assert members(again) == members(model)
    assert_equal(again.predict(X, verbose=0), model.predict(X, verbose=0))
    for one, other in zip(model.modules, again.modules, strict=True):
        assert type(one.objective) is type(other.objective)
        assert_equal(values(one.head_variables), values(other.head_variables))
    again.fit(X, Y, verbose=0)


@pytest.mark.slow
def test_a_wrapper_of_dicts_is_saved_and_loaded(tmp_path):
    x = {"one": X, "two": X[:, :4]}
    base = built(Named, x)
    model = e2e.modularize(base, ["mix"])
    model.examine(x)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert members(again) == members(model)
    assert_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))


def test_a_wrapper_that_has_seen_no_data_is_copied_by_its_config():
    model = wrapped({"norm": Reconstruction(), "b": "pred"}, Net(), training_mode="local")
    again = ModularWrapper.from_config(model.get_config())
    assert again.training_mode == TrainingMode("local")
    compiled(again).fit(X, Y, verbose=0)
    kinds = [type(module.objective) for module in again.modules]
    assert kinds == [Reconstruction, Prediction, type(None)]


def test_weights_of_the_base_are_saved_without_the_wrapper(tmp_path):
    base = built()
    model = compiled(wrapped(base=base))
    model.fit(X, Y, verbose=0)
    e2e.strip(model).save_weights(tmp_path / "base.weights.h5")
    other = built()
    other.load_weights(tmp_path / "base.weights.h5")
    assert_equal(other.predict(X, verbose=0), base.predict(X, verbose=0))


def test_a_model_that_was_stripped_before_its_modules_are_known_is_trained_all_the_same():
    model = e2e.modularize(Net(), ["a"], training_mode="local")
    e2e.strip(model)
    model.compile("sgd", LOSS, run_eagerly=True)
    model.fit(X, Y, verbose=0)
    assert [module.name for module in model.modules] == ["a", "outputs"]

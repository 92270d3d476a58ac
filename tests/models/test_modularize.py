"""`modularize` changes no output, and `strip` is the way back."""

import keras
import numpy as np
import pytest
from keras import layers, ops, tree

import keras_e2e as e2e
from keras_e2e import ModuleBoundary, TrainingMode
from keras_e2e.objectives import IntermediateTarget, Prediction, Reconstruction

RNG = np.random.default_rng(0)
# Keras says so of the model in `dicts`, and of what is made of it.
pytestmark = pytest.mark.filterwarnings(
    "ignore:When providing `inputs` as a dict, all keys in the dict must match:UserWarning"
)


def dense_chain():
    x = inputs = keras.Input((6,))
    x = layers.Dense(5, activation="relu", name="a")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Dropout(0.3, name="drop")(x)
    x = layers.Dense(4, activation="tanh", name="b")(x)
    return keras.Model(inputs, layers.Dense(3, name="out")(x), name="net")


def sequential():
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, name="a"),
            layers.Dense(4, name="b"),
            layers.Dense(3, name="out"),
        ],
        name="net",
    )


def built_sequential():
    model = keras.Sequential(
        [layers.Dense(5, name="a"), layers.Dense(4, name="b"), layers.Dense(3)],
        name="net",
    )
    model.build((None, 6))
    return model


def nested():
    deep = keras.Sequential(
        [keras.Input((5,)), layers.Dense(5, name="d0"), layers.Dense(4, name="d1")],
        name="deep",
    )
    inside = keras.Input((6,))
    x = layers.Dense(5, name="m0")(inside)
    middle = keras.Model(inside, layers.Dense(4, name="m1")(deep(x)), name="middle")
    x = inputs = keras.Input((6,))
    x = layers.Dense(6, name="a")(x)
    return keras.Model(inputs, layers.Dense(3, name="out")(middle(x)), name="net")


def many():
    """Two inputs and two outputs, in lists."""
    one, two = keras.Input((6,), name="one"), keras.Input((4,), name="two")
    pair = layers.Concatenate()([layers.Dense(5, name="a")(one), two])
    x = layers.Dense(5, name="b")(pair)
    outputs = [layers.Dense(3, name="p")(x), layers.Dense(2, name="q")(x)]
    return keras.Model([one, two], outputs, name="net")


def dicts():
    """Inputs and outputs in dicts, whose keys are not the names of layers."""
    model = many()
    inputs = dict(zip(("left", "right"), model.inputs, strict=True))
    # Not in the order of the alphabet, in which `keras.tree` goes through a dict.
    outputs = dict(zip(("second", "first"), model.outputs, strict=True))
    return keras.Model(inputs, outputs, name="net")


def twice():
    one, two = keras.Input((6,), name="one"), keras.Input((6,), name="two")
    encoder = layers.Dense(4, name="a")
    x = layers.Dense(5, name="b")(layers.Concatenate()([encoder(one), encoder(two)]))
    return keras.Model([one, two], layers.Dense(3, name="out")(x), name="net")


def nested_many():
    """A nested model with two inputs and two outputs, called by name."""
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    mixed = layers.Dense(4, name="mix")(layers.Add()([left, right]))
    ends = {"total": mixed, "gap": layers.Dense(3, name="gap")(mixed)}
    inner = keras.Model({"left": left, "right": right}, ends, name="inner")
    inputs = keras.Input((6,))
    given = {name: layers.Dense(4, name=name + "_in")(inputs) for name in ("left", "right")}
    found = inner(given)
    x = layers.Concatenate()([found["total"], found["gap"]])
    return keras.Model(inputs, layers.Dense(3, name="out")(x), name="net")


def convolutional():
    x = inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(4, 3, activation="relu", name="a")(x)
    x = layers.MaxPooling2D(name="pool")(x)
    x = layers.Flatten(name="flatten")(x)
    return keras.Model(inputs, layers.Dense(3, name="out")(x), name="net")


def recurrent():
    x = inputs = keras.Input((7,), dtype="int32")
    x = layers.Embedding(11, 5, mask_zero=True, name="embed")(x)
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True), name="both")(x)
    x = layers.LSTM(4, name="last")(x)
    return keras.Model(inputs, layers.Dense(3, name="out")(x), name="net")


def with_operations():
    x = inputs = keras.Input((6,))
    x = ops.tanh(layers.Dense(5, name="a")(x) * 2.0)
    x = layers.Dense(4, name="b")(ops.concatenate([x, 1.0 - x], axis=-1))
    return keras.Model(inputs, ops.softmax(layers.Dense(3, name="out")(x)), name="net")


CASES = {
    "functional": (dense_chain, ["a", "norm", "b"]),
    "functional, any order": (dense_chain, ["b", "a"]),
    "functional, tuple": (dense_chain, ("drop",)),
    "functional, set": (dense_chain, {"a", "b"}),
    "functional, number": (dense_chain, 2),
    "sequential": (sequential, ["a", "b"]),
    "sequential, number": (sequential, 1),
    "sequential, built later": (built_sequential, ["a", "b"]),
    "nested, whole": (nested, ["middle"]),
    "nested": (nested, ["m0"]),
    "nested twice": (nested, ["a", "d0", "deep", "middle"]),
    "nested, by path": (nested, ["middle/deep/d0", "middle/m0"]),
    "nested, number": (nested, 3),
    "many": (many, ["a", "b"]),
    "dicts": (dicts, ["a", "b"]),
    "twice": (twice, ["a", "b"]),
    "nested many": (nested_many, ["mix"]),
    "convolutional": (convolutional, ["a", "pool"]),
    "recurrent": (recurrent, ["embed", "both", "last"]),
    "operations": (with_operations, ["a", "b"]),
}


def ends_of(model):
    """Inputs and outputs as the model's user sees them."""
    if isinstance(model, keras.Sequential):  # it does not know `input`
        return model.inputs[0], model.outputs[0]
    return model.input, model.output


def batch_for(model, size=5):
    def some(spec):
        if "int" in spec.dtype:
            return RNG.integers(0, 9, size=(size, *spec.shape[1:]))
        return RNG.normal(size=(size, *spec.shape[1:])).astype("float32")

    return tree.map_structure(some, ends_of(model)[0])


def assert_same(one, other):
    tree.assert_same_structure(one, other)
    for a, b in zip(tree.flatten(one), tree.flatten(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def unsettle(model):
    """Moves the weights off their symmetric initial values."""
    model.set_weights([w + 0.1 + RNG.uniform(0, 0.2, w.shape) for w in model.get_weights()])


@pytest.fixture(params=CASES)
def case(request):
    make, boundaries = CASES[request.param]
    base = make()
    unsettle(base)
    return base, e2e.modularize(base, boundaries)


@pytest.mark.slow
def test_the_outputs_are_the_same_to_the_bit(case):
    base, model = case
    x = batch_for(base)
    assert_same(base(x), model(x))
    assert_same(base.predict(x, verbose=0), model.predict(x, verbose=0))


def test_training_passes_are_the_same_to_the_bit(case):
    base, model = case
    x = batch_for(base)
    before = [v.numpy() for v in base.variables]
    expected = base(x, training=True)
    moved = [v.numpy() for v in base.variables]
    for variable, value in zip(base.variables, before, strict=True):
        variable.assign(value)
    # Boundaries draw no random numbers, and batch statistics move as they did.
    assert_same(expected, model(x, training=True))
    assert_same(moved, [v.numpy() for v in base.variables])


def test_layers_and_weights_are_shared_and_inputs_and_outputs_look_the_same(case):
    base, model = case
    ours = {id(v) for module in model.modules for v in module.variables}
    assert ours == {id(v) for v in base.weights}
    specs = [tree.map_structure(spec_of, ends_of(m)) for m in (base, model)]
    assert specs[0] == specs[1]
    assert model.name == base.name
    if not isinstance(base, keras.Sequential):
        assert model.output_names == base.output_names
        assert [t.name for t in model.inputs] == [t.name for t in base.inputs]


def spec_of(tensor):
    return (tuple(tensor.shape), tensor.dtype)


def test_strip_gives_back_a_stock_model_with_the_same_outputs(case):
    base, model = case
    x = batch_for(base)
    stripped = e2e.strip(model)
    assert not isinstance(stripped, e2e.ModularModel)
    assert type(stripped).__module__.startswith("keras.")
    assert not any(type(x).__module__.startswith("keras_e2e") for x in stripped.layers)
    assert not any(isinstance(x, ModuleBoundary) for x in stripped._flatten_layers())
    assert_same(stripped(x), base(x))
    assert {id(v) for v in stripped.weights} == {id(v) for v in base.weights}
    assert stripped.count_params() == base.count_params()


def test_it_trains_with_its_gradients_stopped(case):
    base, model = case
    x = batch_for(base, size=8)
    y = tree.map_structure(lambda t: np.ones(t.shape, "float32"), model(x))
    model.compile("sgd", "mse", run_eagerly=True)
    last = model.modules[-1].name
    for mode in ("local", f"sequential:{last}"):
        model.training_mode = mode
        before = [w.copy() for w in model.get_weights()]
        model.fit(x, y, verbose=0)
        assert any(
            not np.array_equal(a, b)
            for a, b in zip(before, model.get_weights(), strict=True)
        )
    assert_same(base(x), model(x))


def test_the_original_model_is_unchanged_and_still_trains_and_saves(tmp_path):
    base = nested()
    base.compile("adam", "mse", metrics=["mae"])
    before = base.get_config()
    names = [layer.name for layer in base.layers]
    e2e.modularize(base, ["d0", "middle"])
    assert base.get_config() == before
    assert [layer.name for layer in base.layers] == names
    x = batch_for(base)
    base.fit(x, np.ones((5, 3)), verbose=0)
    base.save(tmp_path / "base.keras")
    again = keras.models.load_model(tmp_path / "base.keras")
    assert_same(again(x), base(x))
    assert "keras_e2e" not in base.to_json()


def test_training_the_modular_model_trains_the_original():
    base = dense_chain()
    model = e2e.modularize(base, ["a"], training_mode="local")
    model.compile("sgd", "mse")
    x = batch_for(base)
    before = base.predict(x, verbose=0)
    model.fit(x, np.ones((5, 3)), verbose=0)
    after = base.predict(x, verbose=0)
    assert not np.array_equal(before, after)
    assert_same(after, model.predict(x, verbose=0))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_the_outputs_are_the_same_under_any_precision(policy):
    keras.config.set_dtype_policy(policy)
    for make, boundaries in ((dense_chain, ["a", "b"]), (convolutional, ["a", "pool"])):
        base = make()
        unsettle(base)
        model = e2e.modularize(base, boundaries)
        x = batch_for(base)
        assert_same(base(x), model(x))
        dtype = "bfloat16" if policy == "mixed_bfloat16" else "float16"
        assert model.output.dtype == dtype
        for boundary in model.boundaries.values():
            assert boundary.input.dtype == boundary.output.dtype == dtype
        stripped = e2e.strip(model)
        assert_same(stripped(x), base(x))


def test_an_activation_of_another_dtype_passes_a_boundary_as_it_is():
    keras.config.set_dtype_policy("mixed_float16")
    x = inputs = keras.Input((6,))
    x = layers.Dense(5, dtype="float32", name="a")(x)
    base = keras.Model(inputs, layers.Dense(3, name="out")(x))
    unsettle(base)
    model = e2e.modularize(base, ["a"])
    x = batch_for(base)
    assert model.boundaries["a"].output.dtype == "float32"
    assert_same(base(x), model(x))


def test_a_mask_passes_through_boundaries():
    base = recurrent()
    unsettle(base)
    model = e2e.modularize(base, ["embed", "both"])
    x = np.array([[1, 2, 3, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6, 7]])
    assert_same(base(x), model(x))
    unmasked = x.copy()
    unmasked[0, 3:] = 8
    different = np.asarray(model(unmasked))[0] != np.asarray(model(x))[0]
    assert different.any(), "the mask shows in the outputs"
    for mode in ("end_to_end", "local"):
        model.training_mode = mode
        assert_same(base(x), model(x, training=True))


@pytest.mark.parametrize("training", [True, False, None])
@pytest.mark.parametrize("called", [True, False, None])
def test_a_nested_model_runs_in_the_mode_it_runs_in_without_boundaries(called, training):
    inner = keras.Sequential(
        [keras.Input((6,)), layers.BatchNormalization(name="norm"), layers.Dense(5)],
        name="inner",
    )
    inputs = keras.Input((6,))
    x = inner(inputs) if called is None else inner(inputs, training=called)
    base = keras.Model(inputs, layers.Dense(3)(x))
    model = e2e.modularize(base, ["norm"])
    x = batch_for(base)
    mean = inner.get_layer("norm").moving_mean
    expected, moved = base(x, training=training), mean.numpy()
    mean.assign(ops.zeros_like(mean))
    assert_same(expected, model(x, training=training))
    assert_same(moved, mean.numpy())


# What `boundaries` may be


def test_a_boundary_goes_by_the_layer_it_follows():
    model = e2e.modularize(nested(), ["middle/deep/d0", "a"])
    assert list(model.boundaries) == ["a", "d0"]
    assert [m.name for m in model.modules] == ["a", "d0", "out"]
    assert all(key == b.module for key, b in model.boundaries.items())


def test_a_dict_gives_each_boundary_its_objective():
    objective = IntermediateTarget()
    model = e2e.modularize(dense_chain(), {"a": "pred", "norm": None, "b": objective})
    kinds = [type(module.objective) for module in model.modules]
    assert kinds == [Prediction, type(None), IntermediateTarget, type(None)]
    assert model.boundaries["b"].objective is objective
    assert model.boundaries["norm"].objective is None


def test_the_default_objectives_are_not_shared():
    model = e2e.modularize(dense_chain(), ["a", "b"])
    one, other = (boundary.objective for boundary in model.boundaries.values())
    assert one is not other
    assert not {id(v) for v in one.weights} & {id(v) for v in other.weights}


@pytest.mark.parametrize(("depth", "count"), [(8, 3), (3, 2), (2, 1)])
def test_without_boundaries_up_to_three_are_chosen(depth, count):
    stack = [layers.Dense(6, name=f"d{n}") for n in range(depth)]
    model = e2e.modularize(keras.Sequential([keras.Input((6,)), *stack]))
    assert len(model.boundaries) == count
    sizes = [len(module.layers) for module in model.modules]
    assert max(sizes) - min(sizes) <= depth % (count + 1)


class Code(keras.Model):
    """A subclassed model; the boundary is there if it is asked for."""

    def __init__(self, *boundary):
        super().__init__(name="code")
        self.a = layers.Dense(4, name="a")
        self.boundary = list(boundary)
        self.out = layers.Dense(3, name="out")

    def call(self, x):
        x = self.a(x)
        for boundary in self.boundary:
            x = boundary(x)
        return self.out(x)


@pytest.mark.parametrize("built", [True, False])
def test_a_subclassed_model_needs_boundaries_or_names(built):
    bare, marked = Code(), Code(ModuleBoundary(name="mark"))
    if built:
        bare(np.ones((2, 6))), marked(np.ones((2, 6)))
    with pytest.raises(ValueError, match=r"'code' is a subclassed .* Name the layers.*'a'"):
        e2e.modularize(bare)
    model = e2e.modularize(marked)
    model.examine(np.ones((2, 6)))
    assert list(model.boundaries) == ["mark"]


@pytest.mark.parametrize("count", [np.int64(2), np.int32(2), np.uint8(2)])
def test_a_number_may_be_one_of_numpy(count):
    assert len(e2e.modularize(dense_chain(), count).boundaries) == 2


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_number_sets_so_many_boundaries(count):
    base = keras.Sequential(
        [keras.Input((6,)), *(layers.Dense(6, name=f"d{n}") for n in range(8))]
    )
    model = e2e.modularize(base, count)
    assert len(model.modules) == count + 1
    sizes = [len(module.layers) for module in model.modules]
    assert max(sizes) - min(sizes) <= 8 % (count + 1)


def test_boundaries_applied_by_hand_need_no_names():
    x = inputs = keras.Input((6,))
    x = ModuleBoundary(Reconstruction(), name="mark")(layers.Dense(5, name="a")(x))
    base = keras.Model(inputs, layers.Dense(3)(layers.Dense(4, name="b")(x)))
    model = e2e.modularize(base)
    assert list(model.boundaries) == ["mark"]
    more = e2e.modularize(base, ["b"])
    assert list(more.boundaries) == ["mark", "b"]
    x = batch_for(base)
    assert_same(base(x), more(x))


def test_labels_and_targets_under_one_key_are_refused():
    def outputs(hidden, name="a"):
        return {name: layers.Dense(2, name="out")(hidden)}

    inputs = keras.Input((6,))
    hidden = layers.Dense(5, name="a")(inputs)
    base = keras.Model(inputs, outputs(hidden))
    with pytest.raises(ValueError, match=r"'a' has the name of an output.*'a_labels'"):
        e2e.modularize(base, {"a": IntermediateTarget()})
    e2e.modularize(base, ["a"])  # needs no labels
    # The ways out that the error names.
    e2e.modularize(keras.Model(inputs, outputs(hidden, "b")), {"a": IntermediateTarget()})
    marked = ModuleBoundary(IntermediateTarget(), name="a_labels")(hidden)
    model = e2e.modularize(keras.Model(inputs, outputs(marked)), training_mode="local")
    model.compile("sgd", "mse")
    y = {"a": np.ones((5, 2)), "a_labels": np.arange(5)}
    assert np.isfinite(model.fit(np.ones((5, 6)), y, verbose=0).history["loss"]).all()


def test_the_mode_to_start_in_can_be_given():
    model = e2e.modularize(dense_chain(), ["a"], training_mode="sequential:a")
    assert model.training_mode == TrainingMode("sequential:a")


def test_two_modular_models_over_one_base_do_not_disturb_each_other():
    base = dense_chain()
    one = e2e.modularize(base, ["a"], training_mode="local")
    two = e2e.modularize(base, ["b"], training_mode="end_to_end")
    x, y = batch_for(base), np.ones((5, 3))
    for model in (one, two):
        model.compile("sgd", "mse")
    heads = [two.boundaries["b"].objective.networks[0].get_weights()]
    one.fit(x, y, verbose=0)
    assert two.training_mode == TrainingMode("end_to_end")
    assert_same(one(x), two(x))
    two.fit(x, y, verbose=0)
    assert_same(one(x), base(x))
    after = two.boundaries["b"].objective.networks[0].get_weights()
    assert_same(heads[0], after)


def test_a_modular_model_can_get_more_boundaries():
    base = dense_chain()
    model = e2e.modularize(e2e.modularize(base, ["a"]), ["b"])
    assert list(model.boundaries) == ["a", "b"]
    x = batch_for(base)
    assert_same(base(x), model(x))
    assert [x.name for x in e2e.strip(model).layers[1:]] == [
        x.name for x in base.layers[1:]
    ]


# Saved and loaded


@pytest.mark.slow
def test_a_modular_model_is_saved_and_loaded_with_its_heads_and_mode(tmp_path):
    base = nested()
    mode = TrainingMode("mixed", stop=["d0"], weights={"d0": 0.5, "a": 0.25})
    objectives = {
        "a": Prediction("mlp", loss="mse"),
        "d0": Reconstruction("model_input"),
        "middle": None,
    }
    model = e2e.modularize(base, objectives, training_mode=mode)
    model.compile("adam", "mse")
    x, y = batch_for(base), np.ones((5, 3))
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(again, e2e.ModularModel)
    assert again.training_mode == mode
    assert_same(again(x), model(x))
    assert [m.name for m in again.modules] == [m.name for m in model.modules]
    for one, other in zip(model.modules, again.modules, strict=True):
        assert type(one.objective) is type(other.objective)
        for a, b in zip(one.head_variables, other.head_variables, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
    keras.utils.set_random_seed(1)
    expected = model.fit(x, y, verbose=0).history
    keras.utils.set_random_seed(1)
    assert again.fit(x, y, verbose=0).history == expected


def test_weights_go_from_one_modular_model_to_another(tmp_path):
    one = e2e.modularize(dense_chain(), ["a", "b"])
    two = e2e.modularize(dense_chain(), ["a", "b"])
    unsettle(one)
    one.save_weights(tmp_path / "m.weights.h5")
    two.load_weights(tmp_path / "m.weights.h5")
    assert_same(one.get_weights(), two.get_weights())


def test_a_stripped_model_is_not_compiled_and_trains_as_a_stock_model():
    model = e2e.modularize(dense_chain(), ["a"])
    model.compile("sgd", "mse")
    stripped = e2e.strip(model)
    assert not stripped.compiled
    stripped.compile("sgd", "mse")
    x = batch_for(stripped)
    stripped.fit(x, np.ones((5, 3)), verbose=0)
    assert_same(stripped.predict(x, verbose=0), model.predict(x, verbose=0))


# A network of the size people have


def test_mobilenet_is_cut_into_four_modules():
    base = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), classes=5)
    model = e2e.modularize(base, 3)
    assert len(model.modules) == 4
    x = RNG.normal(size=(2, 32, 32, 3)).astype("float32")
    assert_same(base(x), model(x))
    owned = [v for module in model.modules for v in module.variables]
    assert len(owned) == len(base.weights) == len({id(v) for v in owned})
    stripped = e2e.strip(model)
    assert_same(stripped(x), base(x))


@pytest.mark.parametrize("nothing", [[], {}, ()])
def test_no_boundary_at_all_is_refused(nothing):
    base = keras.Sequential([keras.Input((2,)), layers.Dense(3, name="a"), layers.Dense(1)])
    with pytest.raises(
        ValueError, match=r"boundaries=.*: .* at least one layer, or leave it out"
    ):
        e2e.modularize(base, nothing)
    marked = e2e.modularize(base, ["a"])
    assert list(e2e.modularize(marked, []).boundaries) == ["a"]

"""Layers and variables that several modules use, and who owns them."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_e2e as e2e
from keras_e2e import TrainingMode
from keras_e2e.objectives import DirectFeedbackAlignment, FeedbackAlignment

WIDTH = 4
NAMES = ("a", "b", "out")
on_tensorflow = pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="a backward pass for each loss"
)


def chain(**options):
    """Three modules, each of the layer `twice` and one of its own."""
    twice = layers.Dense(WIDTH, name="twice", **options)
    x = inputs = keras.Input((WIDTH,))
    for name in NAMES:
        x = layers.Dense(WIDTH, name=name)(twice(x))
    return keras.Model(inputs, x)


@keras.saving.register_keras_serializable("test_ownership")
class Transposed(layers.Layer):
    """Weight tying: uses the kernel of another layer."""

    def __init__(self, source, **kwargs):
        super().__init__(**kwargs)
        self.kernel = source.kernel

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.kernel))


def tied():
    inputs = keras.Input((WIDTH,))
    first = layers.Dense(WIDTH, use_bias=False, name="twice")
    x = layers.Dense(WIDTH, name="b")(layers.Dense(WIDTH, name="a")(first(inputs)))
    return keras.Model(inputs, Transposed(first, name="tied")(x))


class Code(keras.Model):
    """Three modules of a subclassed model, each of the layer `twice` and another one."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.twice = layers.Dense(WIDTH, activation="tanh", name="twice")
        self.a = layers.Dense(WIDTH, activation="tanh", name="a")
        self.b = layers.Dense(WIDTH, activation="tanh", name="b")
        self.out = layers.Dense(WIDTH, name="out")

    def call(self, x):
        for layer in (self.a, self.b, self.out):
            x = layer(self.twice(x))
        return x

    def get_config(self):
        return {"name": self.name}


keras.saving.register_keras_serializable("test_ownership")(Code)


def code():
    base = Code(name="code")
    base(np.ones((2, WIDTH), "float32"))
    return base


KINDS = {"chain": chain, "code": code}
each_kind = pytest.mark.parametrize("kind", KINDS)


def members(model):
    return {m.name: [layer.name for layer in m.layers] for m in model.modules}


@each_kind
@pytest.mark.parametrize(
    ("owner", "name"), [("first", 0), ("last", 2), ("a", 0), ("b", 1), ("out", 2)]
)
def test_it_belongs_to_its_owner_alone(kind, owner, name):
    base = KINDS[kind]()
    if kind == "code" and owner == "out":
        owner = "outputs"
    model = e2e.modularize(base, ["a", "b"], shared={"twice": owner})
    names = [m.name for m in model.modules]
    for place, found in enumerate(members(model).values()):
        assert ("twice" in found) == (place == name)
    assert model.shared == {"twice": names[name]}
    twice = next(layer for layer in base.layers if layer.name == "twice")
    for place, module in enumerate(model.modules):
        ids = {id(v) for v in (module.variables if place == name else module.borrowed)}
        assert {id(v) for v in twice.weights} <= ids
    everything = [id(v) for m in model.modules for v in m.variables]
    assert sorted(everything) == sorted(id(v) for v in base.weights)


@pytest.mark.parametrize("key", ["twice", "tied"])
@pytest.mark.parametrize(("owner", "name"), [("first", "a"), ("last", "tied")])
def test_a_tied_variable_belongs_to_its_owner_alone(key, owner, name):
    base = tied()
    model = e2e.modularize(base, ["a", "b"], shared={key: owner})
    kernel = base.get_layer("twice").kernel
    for module in model.modules:
        owned = any(v is kernel for v in module.variables)
        assert owned == (module.name == name)
    assert [m.name for m in model.modules if m.borrowed] == [{"a": "tied"}.get(name, "a")]


def test_the_name_of_a_module_comes_first():
    x = inputs = keras.Input((WIDTH,))
    twice = layers.Dense(WIDTH, name="twice")
    for name in ("zero", "first", "end"):
        x = layers.Dense(WIDTH, name=name)(twice(x))
    base = keras.Model(inputs, x)
    model = e2e.modularize(base, ["zero", "first"], shared={"twice": "first"})
    assert model.shared == {"twice": "first"}


REFUSED = [
    ({"twise": "first"}, ValueError, r"shared names 'twise'.*Did you mean 'twice'"),
    ({"a": "first"}, ValueError, r"shared names 'a'.*Those are \['twice'\]"),
    ({"twice": "c"}, ValueError, r"'c' is not a module that uses .*twice/"),
    (["twice"], TypeError, r"shared=\['twice'\]; expected a dict"),
    ({"twice": 1}, TypeError, r"expected a dict"),
    ("twice", TypeError, r"expected a dict"),
    ({}, ValueError, r"'twice', with its variable .*shared={'twice': 'first'}"),
    (None, ValueError, r"'twice', with its variable .*shared={'twice': 'first'}"),
]


@each_kind
@pytest.mark.parametrize(("shared", "error", "said"), REFUSED)
def test_what_does_not_fit_is_refused_by_name(kind, shared, error, said):
    with pytest.raises(error, match=said):
        e2e.modularize(KINDS[kind](), ["a", "b"], shared=shared)


def test_nothing_to_own_is_refused():
    base = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, name="a"), layers.Dense(2, name="b")]
    )
    with pytest.raises(ValueError, match=r"shared names 'b'.*There is none: leave it out"):
        e2e.modularize(base, ["a"], shared={"b": "first"})


def test_two_owners_of_one_variable_are_refused():
    with pytest.raises(ValueError, match=r"gives 'twice/kernel' to two modules"):
        e2e.modularize(tied(), ["a", "b"], shared={"twice": "first", "tied": "last"})


def test_a_module_that_does_not_use_it_is_refused():
    with pytest.raises(ValueError, match=r"'b' is not a module that uses.*\['a', 'tied'\]"):
        e2e.modularize(tied(), ["a", "b"], shared={"twice": "b"})


@each_kind
def test_the_summary_says_who_trains_it(kind):
    model = e2e.modularize(KINDS[kind](), ["a", "b"], shared={"twice": "b"})
    lines = []
    model.module_summary(print_fn=lines.append)
    last = model.modules[-1].name
    assert f"Shared: twice is trained by b, and used by a, {last}" in lines[0]


@on_tensorflow
@each_kind
def test_a_saved_model_loads_with_its_owners(kind, tmp_path):
    model = e2e.modularize(
        KINDS[kind](), ["a", "b"], shared={"twice": "b"}, training_mode="local"
    )
    model.compile("sgd", "mse")
    x = np.random.RandomState(0).randn(8, WIDTH).astype("float32")
    model.train_on_batch(x, x)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.shared == {"twice": "b"}
    assert members(loaded) == members(model)
    for each in (model, loaded):
        each.train_on_batch(x, x)
    for old, new in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_clone_has_its_owners(compiled):
    model = e2e.modularize(chain(), ["a", "b"], shared={"twice": "b"})
    if compiled:
        model.compile("sgd", "mse")
    clone = keras.models.clone_model(model)
    assert clone.shared == {"twice": "b"}
    assert members(clone) == members(model)


def test_new_cuts_keep_the_owners_that_fit_and_stripping_drops_them():
    model = e2e.modularize(chain(), ["a", "b"], shared={"twice": "b"})
    assert e2e.modularize(model).shared == {"twice": "b"}
    assert e2e.modularize(model, shared={"twice": "a"}).shared == {"twice": "a"}
    plain = e2e.strip(model)
    with pytest.raises(ValueError, match="is shared by two modules"):
        e2e.modularize(plain, ["a"])


def test_a_number_of_boundaries_may_cut_between_the_uses():
    with pytest.raises(ValueError, match="cut point"):
        e2e.modularize(chain(), 2)
    model = e2e.modularize(chain(), 2, shared={"twice": "first"})
    assert len(model.modules) == 3
    assert model.shared == {"twice": model.modules[0].name}


# Modes in which the owner's losses cannot be told apart


@on_tensorflow
@pytest.mark.parametrize(
    ("objectives", "owner"),
    [
        ({"a": FeedbackAlignment(), "b": "pred"}, "a"),
        ({"a": DirectFeedbackAlignment(), "b": "pred"}, "a"),
        ({"a": "pred", "b": FeedbackAlignment()}, "b"),
        ({"a": "pred", "b": FeedbackAlignment()}, "out"),
        ({"a": "synthetic_gradient", "b": "pred"}, "a"),
    ],
)
def test_a_signal_from_a_module_that_uses_it_is_refused(objectives, owner):
    model = e2e.modularize(chain(), objectives, shared={"twice": owner})
    with pytest.raises(ValueError, match=r"mode 'local'.*take their signal"):
        model.training_mode = "local"
    assert model.training_mode.name == "end_to_end"


@on_tensorflow
def test_a_loss_that_would_reach_it_beyond_its_window_is_refused():
    model = e2e.modularize(chain(), ["a", "b"], shared={"twice": "last"})
    with pytest.raises(ValueError, match=r"'out' reaches \['b', 'out'\], and 'a', beyond"):
        model.training_mode = TrainingMode("local", reach=2)
    model.training_mode = TrainingMode("local", reach="all")


@on_tensorflow
def test_statistics_of_a_frozen_owner_are_not_updated_by_others():
    twice = layers.BatchNormalization(name="twice")
    x = inputs = keras.Input((WIDTH,))
    for name in NAMES:
        x = layers.Dense(WIDTH, name=name)(twice(x))
    model = e2e.modularize(keras.Model(inputs, x), ["a", "b"], shared={"twice": "b"})
    with pytest.raises(ValueError, match=r"'twice' is used by 'a' and owned by 'b'"):
        model.training_mode = "sequential:a"
    model.training_mode = "sequential:b"
    twice.trainable = False
    model.training_mode = "sequential:a"


@pytest.mark.skipif(keras.config.backend() != "jax", reason="jax has one backward pass")
@each_kind
def test_on_jax_modes_that_stop_gradients_are_refused(kind):
    model = e2e.modularize(KINDS[kind](), ["a", "b"], shared={"twice": "b"})
    for mode in ("local", "sequential:a", TrainingMode("mixed", stop=["a"])):
        with pytest.raises(NotImplementedError, match=r"twice/.*is shared by two modules"):
            model.training_mode = mode
    assert model.training_mode.name == "end_to_end"
    for mode in ("end_to_end", "deep_supervision"):
        model.training_mode = mode
        model.compile("sgd", "mse")
        x = np.ones((8, WIDTH), "float32")
        model.fit(x, x, verbose=0)

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
# Which of the modules that use it owns what is shared, if nobody says.
DEFAULT, WORD = -1, "last"


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


def summary(model):
    lines = []
    model.module_summary(print_fn=lines.append)
    return " ".join(lines[0].split()) + " "


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
    last = model.modules[-1].name
    assert f"Shared: twice is trained by module b, and used by a, {last} " in summary(model)


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
    model = e2e.modularize(e2e.strip(model), ["a", "b"])
    assert model.shared == {"twice": model.modules[DEFAULT].name}


@pytest.mark.parametrize("shared", [None, {"twice": "first"}, {"twice": "last"}])
def test_a_number_of_boundaries_may_cut_between_the_uses(shared):
    model = e2e.modularize(chain(), 2, shared=shared)
    assert list(model.boundaries) == ["a", "b"]
    owner = {None: DEFAULT, "first": 0, "last": -1}[(shared or {}).get("twice")]
    assert model.shared == {"twice": model.modules[owner].name}


# Where nobody says it


@each_kind
def test_by_default_it_belongs_to_one_of_them_and_the_summary_says_so(kind):
    model = e2e.modularize(KINDS[kind](), ["a", "b"])
    names = [m.name for m in model.modules]
    owner = names.pop(DEFAULT)
    assert model.shared == {"twice": owner}
    assert [n for n, found in members(model).items() if "twice" in found] == [owner]
    said = f"Shared: twice is trained by module {owner} (the {WORD} by default; "
    assert f"{said}shared={{'twice': ...}} says otherwise), and used by " in summary(model)
    other = {0: "last", -1: "first"}[DEFAULT]
    told = e2e.modularize(KINDS[kind](), ["a", "b"], shared={"twice": other})
    assert "default" not in summary(told)


def test_a_tied_variable_goes_by_the_layer_that_made_it():
    model = e2e.modularize(tied(), ["a", "b"])
    assert model.shared == {"twice": {0: "a", -1: "tied"}[DEFAULT]}
    assert e2e.modularize(tied(), ["a", "b"], shared={"tied": "a"}).shared == {"tied": "a"}


@each_kind
@pytest.mark.parametrize("how", ["saved", "cloned"])
def test_a_copy_has_the_same_owners_and_knows_that_nobody_said_so(kind, how, tmp_path):
    if (kind, how) == ("code", "cloned"):
        pytest.skip("Keras does not clone subclassed models")
    model = e2e.modularize(KINDS[kind](), ["a", "b"])
    if how == "saved":
        model.save(tmp_path / "model.keras")
        copy = keras.saving.load_model(tmp_path / "model.keras")
    else:
        copy = keras.models.clone_model(model)
    assert copy.shared == model.shared
    assert members(copy) == members(model)
    assert "by default" in summary(copy)


class Embedded(keras.Model):
    """A language model in code, with a matrix for both ends or for each."""

    def __init__(self, tie):
        super().__init__(name="embedded")
        self.embed = layers.ReversibleEmbedding(7, WIDTH, tie, name="embed")
        self.a = layers.Dense(WIDTH, activation="tanh", name="a")
        self.b = layers.Dense(WIDTH, activation="tanh", name="b")

    def call(self, x):
        return self.embed(self.b(self.a(self.embed(x))), reverse=True)


TOKENS = np.arange(20).reshape(4, 5) % 7


def embedded(kind, tie):
    """It, subclassed or as a graph."""
    keras.utils.set_random_seed(0)
    base = Embedded(tie)
    if kind == "code":
        base(TOKENS)
        return base
    inputs = keras.Input((5,), dtype="int32")
    return keras.Model(inputs, base.call(inputs))


@each_kind
def test_a_layer_with_a_variable_for_each_end_is_not_shared(kind):
    base = embedded(kind, tie=False)
    model = e2e.modularize(base, ["a"])
    first, last = ([v.path.split("/")[-1] for v in m.variables] for m in model.modules)
    assert first == ["embeddings", "kernel", "bias"]
    assert sorted(last) == ["bias", "kernel", "reverse_embeddings"]
    assert model.shared == {} and "Shared" not in summary(model)
    assert not any(m.borrowed for m in model.modules)
    # It was to be told once, and models were saved so.
    assert e2e.modularize(base, ["a"], shared={"embed": "first"}).shared == {}
    with e2e.regimes.frozen_modules(model, [model.modules[0].name]):
        trained = [v.path.split("/")[-1] for v in model.modules[1].trainable_variables]
    assert sorted(trained) == sorted(last)


@each_kind
@pytest.mark.parametrize("tie", [True, False])
def test_local_steps_of_a_language_model_train_all_of_it(kind, tie):
    base = embedded(kind, tie)
    model = e2e.modularize(base, ["a"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, run_eagerly=True)
    if keras.config.backend() == "tensorflow" or not tie:
        model.training_mode = "local"
    before = [v.numpy() for v in base.trainable_variables]
    model.train_on_batch(TOKENS, TOKENS)
    for _ in range(2):  # heads begin at zero
        model.train_on_batch(TOKENS, TOKENS)
    for old, v in zip(before, base.trainable_variables, strict=True):
        assert not np.array_equal(old, v.numpy()), v.path


def test_what_no_call_reads_belongs_to_the_first_module_alone():
    class Spare(layers.Layer):
        def build(self, shape):
            self.used = self.add_weight(shape=(WIDTH,), name="used")
            self.unused = self.add_weight(shape=(WIDTH,), name="unused")

        def call(self, x):
            return x * self.used

    spare = Spare(name="spare")
    x = inputs = keras.Input((WIDTH,))
    for name in NAMES:
        x = layers.Dense(WIDTH, name=name)(spare(x))
    model = e2e.modularize(keras.Model(inputs, x), ["a", "b"])
    everything = [v.name for m in model.modules for v in m.variables]
    assert (everything.count("used"), everything.count("unused")) == (1, 1)
    assert {v.name for m in model.modules for v in m.borrowed} == {"used"}


def test_code_that_cannot_be_run_for_its_shapes_is_taken_to_use_all():
    class Concrete(layers.ReversibleEmbedding):
        def call(self, x, reverse=False):
            if not hasattr(x, "numpy") and not isinstance(x, np.ndarray):
                raise RuntimeError("needs values")
            return super().call(x, reverse=reverse)

    embed = Concrete(7, WIDTH, tie_weights=False, name="embed")
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Dense(WIDTH, name="b")(layers.Dense(WIDTH, name="a")(embed(inputs)))
    model = e2e.modularize(keras.Model(inputs, embed(x, reverse=True)), ["a"])
    assert list(model.shared) == ["embed"]


def encoder():
    x = inputs = keras.Input((WIDTH,))
    for name in ("one", "two"):
        x = layers.Dense(WIDTH, activation="tanh", name=name)(x)
    return keras.Model(inputs, x)


@pytest.mark.parametrize("siamese", [True, False])
def test_towers_are_cut_inside(siamese):
    """Of one encoder, which is called twice, or of two from the same factory."""
    left = encoder()
    right = left if siamese else encoder()
    inputs = [keras.Input((WIDTH,)) for _ in range(2)]
    joined = layers.Concatenate()([left(inputs[0]), right(inputs[1])])
    base = keras.Model(inputs, layers.Dense(1, name="out")(joined))
    x = [np.random.RandomState(n).randn(8, WIDTH).astype("float32") for n in range(2)]
    expected = base.predict(x, verbose=0)
    names = ["one"] if siamese else [f"{tower.name}/one" for tower in (left, right)]
    for boundaries in (names, 1):
        model = e2e.modularize(base, boundaries, training_mode="local")
        np.testing.assert_array_equal(model.predict(x, verbose=0), expected)
        assert model.shared == {}
    model.compile("sgd", "mse", run_eagerly=True)
    model.train_on_batch(x, np.ones((8, 1)))


# Modes in which the owner's losses cannot be told apart


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


def test_a_loss_that_would_reach_it_beyond_its_window_is_refused():
    model = e2e.modularize(chain(), ["a", "b"])
    said = r"'out' reaches \['b', 'out'\], and 'a', beyond.*shared=\{'twice': 'a'\}\."
    with pytest.raises(ValueError, match=said):
        model.training_mode = TrainingMode("local", reach=2)
    model.training_mode = TrainingMode("local", reach="all")
    model = e2e.modularize(chain(), ["a", "b"], shared={"twice": "a"})
    model.training_mode = TrainingMode("local", reach=2)


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

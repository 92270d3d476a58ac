"""Boundaries behind layers that the call of another layer runs."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 4, 6)).astype("float32")
Y = RNG.integers(0, 3, size=8)


@keras.saving.register_keras_serializable("test_inside")
class Block(layers.Layer):
    """A residual block."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.LayerNormalization(name="norm")
        self.up = layers.Dense(6, activation="gelu", name="up")

    def build(self, shape):
        self.norm.build(shape)
        self.up.build(shape)

    def call(self, x):
        return x + self.up(self.norm(x))


@keras.saving.register_keras_serializable("test_inside")
class Encoder(layers.Layer):
    """Blocks in a row, with a boundary of its own if that is asked for."""

    def __init__(self, marked=False, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [Block(name=f"block_{i}") for i in range(3)]
        self.drop = layers.Dropout(0.2, seed=1, name="drop")
        self.mark = e2e.ModuleBoundary("prediction", name="mark") if marked else None

    def build(self, shape):
        for block in self.blocks:
            block.build(shape)

    def call(self, x, training=None):
        x = self.blocks[0](self.drop(x, training=training))
        x = x if self.mark is None else self.mark(x)
        return self.blocks[2](self.blocks[1](x))


@keras.saving.register_keras_serializable("test_inside")
class Task(keras.Model):
    """A graph with a method of its own."""

    def fit(self, *args, **kwargs):
        return super().fit(*args, **kwargs)


def graph(cls=keras.Model, marked=False):
    keras.utils.set_random_seed(0)
    x = keras.Input((4, 6), name="x")
    y = Encoder(marked, name="encoder")(layers.Dense(6, name="embed")(x))
    y = layers.GlobalAveragePooling1D(name="pool")(y)
    return cls(x, layers.Dense(3, activation="softmax", name="out")(y), name="net")


def fitted(model, **compiled):
    keras.utils.set_random_seed(1)
    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.Adam(0.1), loss, **compiled)
    model.fit(X, Y, batch_size=4, epochs=2, verbose=0, shuffle=False)
    return model


def weights(model):
    return {v.path: v.numpy() for v in model.trainable_variables}


def test_end_to_end_is_stock():
    stock, modular = graph(), e2e.modularize(graph(), ["embed", "encoder/block_1"])
    assert [m.name for m in modular.modules] == ["embed", "block_1", "outputs"]
    np.testing.assert_array_equal(modular.predict(X), stock.predict(X))
    wanted, found = weights(fitted(stock)), weights(fitted(modular).base)
    assert wanted.keys() == found.keys()
    for path, value in wanted.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_local_step_trains_by_the_own_loss_alone(jit_compile):
    """What comes later has other weights, and changes nothing."""
    found = []
    for scale in (1.0, -3.0):
        base = graph()
        out = base.get_layer("out")
        out.kernel.assign(scale * out.kernel)
        modular = e2e.modularize(base, ["block_0", "block_1"], training_mode="local")
        found.append(weights(fitted(modular, jit_compile=jit_compile).base))
    upstream = [p for p in found[0] if not p.startswith("out") and "block_2" not in p]
    assert len(upstream) == 10
    for path in upstream:
        np.testing.assert_array_equal(found[0][path], found[1][path], err_msg=path)
    assert np.any(
        found[0]["encoder/block_2/up/kernel"] != found[1]["encoder/block_2/up/kernel"]
    )


def test_saved_loaded_and_stripped(tmp_path):
    modular = fitted(e2e.modularize(graph(), ["block_1"], training_mode="local"))
    modular.save(tmp_path / "modular.keras")
    loaded = keras.saving.load_model(tmp_path / "modular.keras")
    assert [*loaded.boundaries] == ["block_1"] and loaded.training_mode.name == "local"
    np.testing.assert_array_equal(loaded.predict(X), modular.predict(X))
    stripped = e2e.strip(modular)
    assert type(stripped) is type(graph())
    np.testing.assert_array_equal(stripped.predict(X), loaded.predict(X))


def test_in_a_sequential_model():
    base = keras.Sequential([keras.Input((4, 6)), Encoder(name="encoder"), layers.Dense(3)])
    modular = e2e.modularize(base, ["block_1"])
    assert [m.name for m in modular.modules] == ["block_1", "outputs"]
    np.testing.assert_array_equal(modular.predict(X), base.predict(X))
    assert e2e.strip(modular) is base


def test_a_boundary_that_the_layer_applies_itself():
    modular = e2e.modularize(graph(marked=True), ["block_1"])
    assert [*modular.boundaries] == ["mark", "block_1"]
    assert [*e2e.modularize(graph(marked=True)).boundaries] == ["mark"]


def test_a_bypass_inside_a_layer_is_refused():
    with pytest.raises(ValueError, match="'encoder/block_1/up' is bypassed"):
        e2e.modularize(graph(), ["encoder/block_1/up"])


def test_paths_in_a_subclassed_model():
    base = keras.Sequential([Encoder(name="left"), Encoder(name="right")], name="two")

    class Code(keras.Model):
        def __init__(self):
            super().__init__()
            self.two, self.out = base, layers.Dense(3, name="out")

        def call(self, x):
            return self.out(self.two(x))

    with pytest.raises(
        ValueError, match=r"'block_1' is ambiguous.*Give the path"
    ) as raised:
        e2e.modularize(Code(), ["block_1"])
    assert "'two/left/block_1', 'two/right/block_1'" in str(raised.value)
    modular = e2e.modularize(Code(), ["two/left/block_1", "two/right/block_1"])
    modular.examine(X)
    assert [*modular.boundaries] == ["two/left/block_1", "two/right/block_1"]


def test_named_twice():
    with pytest.raises(
        ValueError, match="'block_1' is named twice: by 'encoder/block_1' too"
    ):
        e2e.modularize(graph(), ["block_1", "encoder/block_1"])


def test_what_is_said_of_names_inside():
    for bad, message in [
        (["encoder.block_1"], r"no layer 'encoder.block_1'.* mean 'encoder/block_1'"),
        ([("encoder/block_0", "block_1")], r"'net' is cut inside of a layer.* without a"),
    ]:
        with pytest.raises(ValueError, match=message):
            e2e.modularize(graph(), bad)
    alone = keras.Sequential([keras.Input((4, 6)), Encoder(name="encoder")])
    with pytest.raises(ValueError, match=r"Name layers inside of it: \['encoder/block_0',"):
        e2e.modularize(alone, 1)


def test_a_class_of_its_own_is_refused_and_the_advice_works():
    base = graph(Task)
    with pytest.raises(
        ValueError, match=r"'block_1' is inside 'encoder' \(Encoder\), which"
    ):
        e2e.modularize(base, ["block_1"])
    assert [*e2e.modularize(base, ["encoder"]).boundaries] == ["encoder"]
    plain = keras.Model(base.input, base.output)
    assert [*e2e.modularize(plain, ["block_1"]).boundaries] == ["block_1"]
    # Also where the layer stands in a graph inside of the graph.
    backbone = graph()
    outer = Task(backbone.input, layers.Identity()(backbone(backbone.input)))
    with pytest.raises(ValueError, match=r"'block_1' is inside 'encoder' \(Encoder\)"):
        e2e.modularize(outer, ["block_1"])


def test_more_boundaries_are_refused_and_the_advice_works():
    modular = e2e.modularize(graph(), ["embed"])
    with pytest.raises(ValueError, match=r"'net' is modular already.*strip\(model\)"):
        e2e.modularize(modular, ["block_1"])
    again = e2e.modularize(e2e.strip(modular), ["embed", "block_1"])
    assert [*again.boundaries] == ["embed", "block_1"]


def test_remat_is_refused():
    with pytest.raises(ValueError, match=r"is to be cut inside of a layer.*call of that"):
        e2e.modularize(graph(), ["block_1"], remat=True)


def test_diagnosed():
    model = graph()
    model.compile("adam", "sparse_categorical_crossentropy")
    before = weights(model)
    found = e2e.diagnose(
        model, X, Y, boundaries=["encoder/block_1"], steps=10, update_freq=1, verbose=0
    )
    assert list(found.verdicts) == ["block_1", "outputs"]
    for path, value in weights(model).items():
        np.testing.assert_array_equal(before[path], value)


class Scored(layers.Layer):
    """Returns None beside its output, as attention does that gives no scores."""

    def build(self, shape):
        self.dense = layers.Dense(6, name="dense")
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x), None


class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.scored, self.last = Scored(name="scored"), layers.Dense(3, name="last")

    def call(self, x):
        return self.last(self.scored(x)[0])


def test_a_layer_may_return_none_beside_its_tensor():
    base = Net()
    x, y = X[:, 0], RNG.normal(size=(8, 3))
    expected = base(x)
    model = e2e.modularize(base, ["scored"], training_mode="local")
    np.testing.assert_array_equal(model(x), expected)
    before = base.scored.dense.get_weights()
    model.compile("sgd", "mse", run_eagerly=True)
    model.fit(x, y, epochs=2, verbose=0)
    for old, new in zip(before, base.scored.dense.get_weights(), strict=True):
        assert np.any(old != new)

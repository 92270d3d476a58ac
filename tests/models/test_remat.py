"""Recomputed modules train as they would without: to the bit, with the same masks."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e
from keras_e2e import TrainingMode

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 12)).astype("float32")
WORDS = RNG.integers(0, 9, (48, 7))
LABELS = RNG.integers(0, 4, 48)


def dense(depth=6):
    """Penalties, statistics, seeds and a residual sum in every part."""
    x = inputs = keras.Input((12,), name="in")
    for i in range(depth):
        y = layers.Dense(12, kernel_regularizer="l2", name=f"dense{i}")(x)
        y = layers.BatchNormalization(name=f"norm{i}")(y)
        penalty = keras.regularizers.L2(1e-3)
        y = layers.Activation("tanh", activity_regularizer=penalty, name=f"act{i}")(y)
        y = layers.Dropout(0.3, seed=i, name=f"drop{i}")(y)
        x = layers.Add(name=f"add{i}")([x, y])
    outputs = layers.Dense(4, activation="softmax", name="out")(x)
    return keras.Model(inputs, outputs, name="dense"), ["add2"], X


def attention():
    """Many uses of one tensor, whose gradients TensorFlow sums in the order of names."""
    x = layers.Dense(16, name="embed")(
        layers.Reshape((6, 2), name="shape")(inputs := _in())
    )
    for i in range(4):
        y = layers.LayerNormalization(name=f"z_norm{i}")(x)
        y = layers.MultiHeadAttention(2, 8, dropout=0.1, seed=i, name=f"a_mha{i}")(y, y)
        x = layers.Add(name=f"m_add{i}")([x, y])
        y = layers.Dense(32, activation="gelu", name=f"b_up{i}")(x)
        x = layers.Add(name=f"sum{i}")([x, layers.Dense(16, name=f"c_down{i}")(y)])
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    outputs = layers.Dense(4, activation="softmax", name="out")(x)
    return keras.Model(inputs, outputs, name="attention"), ["sum1"], X


def recurrent():
    """Masks, integers and loops."""
    inputs = keras.Input((7,), dtype="int32", name="in")
    x = layers.Embedding(9, 8, mask_zero=True, name="embed")(inputs)
    for i in range(3):
        x = layers.LSTM(8, return_sequences=True, dropout=0.2, seed=i, name=f"lstm{i}")(x)
        x = layers.LayerNormalization(name=f"norm{i}")(x)
    x = layers.GRU(8, name="gru")(x)
    outputs = layers.Dense(4, activation="softmax", name="out")(x)
    return keras.Model(inputs, outputs, name="recurrent"), ["norm1"], WORDS


def nested():
    """A model in a model, which is computed as one layer."""
    inside = keras.Input((12,), name="inside")
    x = layers.BatchNormalization(name="n")(layers.Dense(12, name="d")(inside))
    block = keras.Model(inside, layers.Dropout(0.2, seed=1, name="p")(x), name="block")
    x = layers.Dense(12, activation="tanh", name="first")(inputs := _in())
    x = layers.Dense(8, activation="tanh", name="second")(block(x))
    outputs = layers.Dense(4, activation="softmax", name="out")(x)
    return keras.Model(inputs, outputs, name="nested"), ["second"], X


def _in():
    return keras.Input((12,), name="in")


def train(make, remat, mode="local", optimizer="adam", callbacks=(), **compiled):
    """The variables by path, and the history, after a few steps."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    base, cuts, x = make()
    model = e2e.modularize(base, cuts, training_mode=mode, remat=remat)
    loss = "sparse_categorical_crossentropy"
    model.compile(
        optimizer, loss, metrics=["accuracy"], **{"jit_compile": False} | compiled
    )
    keras.utils.set_random_seed(1)
    fit = model.fit(x, LABELS, batch_size=16, epochs=2, verbose=0, callbacks=[*callbacks])
    assert bool(model.remat) == bool(remat)
    values = [(v.path, keras.ops.convert_to_numpy(v)) for v in model.variables]
    return values, fit.history


def assert_same(make, remat=True, **how):
    (ours, logs), (theirs, plain) = train(make, remat, **how), train(make, False, **how)
    np.testing.assert_equal(logs, plain)  # in which NaN equals NaN
    for (path, value), (_, expected) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(value, expected, path)


@pytest.mark.sampled(2)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "mode"),
    [
        (dense, "local"),
        (dense, "sequential:out"),
        (nested, "end_to_end"),
        (nested, "deep_supervision"),
        (nested, "local"),
        (attention, "end_to_end"),
        (attention, "local"),
        (recurrent, "sequential:CUT"),
    ],
)
def test_weights_statistics_seeds_and_logs_are_the_same_to_the_bit(make, mode):
    mode = mode.replace("CUT", make()[1][0])
    assert_same(make, mode=mode)


@pytest.mark.slow
@pytest.mark.parametrize("make", [dense, attention])
def test_mixed_precision(make):
    keras.mixed_precision.set_global_policy("mixed_float16")
    assert_same(make, optimizer="sgd")


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"run_eagerly": True}, {"steps_per_execution": 2}])
def test_other_ways_to_run(how):
    assert_same(dense, **how)


@pytest.mark.slow
def test_reach_that_ends_in_the_middle_of_the_model():
    def make():
        return dense()[0], ["add0", "add2", "add4"], X

    mode = TrainingMode("mixed", stop=["add2"])
    assert_same(make, mode=mode)
    assert_same(make, mode=TrainingMode("local", reach=2))


@pytest.mark.slow
def test_under_xla_it_differs_by_rounding_alone():
    # XLA fuses the second run as it sees fit.
    how = {"jit_compile": True, "optimizer": "sgd"}
    ours, theirs = (train(dense, remat, **how)[0] for remat in (True, False))
    for (path, value), (_, expected) in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(value, expected, 1e-4, 1e-5, err_msg=path)


@pytest.mark.slow
def test_diagnostics_change_nothing():
    used = [e2e.callbacks.ModuleDiagnostics(update_freq=1)]
    for mode in ("local", "end_to_end"):
        with_, _ = train(dense, True, mode=mode, callbacks=used)
        without, _ = train(dense, True, mode=mode)
        for (path, value), (_, expected) in zip(with_, without, strict=True):
            np.testing.assert_array_equal(value, expected, path)


def test_some_modules_only():
    base, _, _ = dense()
    model = e2e.modularize(base, ["add1", "add3"], remat=["add3"])
    assert model.remat == ["add3"]
    assert {stretch.module for stretch in model._recomputation.stretches} == {"add3"}


def test_the_summary_says_which():
    base, _, _ = dense()
    lines = []
    model = e2e.modularize(base, ["add1", "add3"], remat=["add3"])
    model.module_summary(print_fn=lines.append)
    assert "(remat): add3" in lines[0]


def test_the_structure_stays():
    base, cuts, x = dense()
    model = e2e.modularize(base, cuts, remat=True)
    plain = e2e.modularize(base, cuts)
    assert [x.name for x in model.layers] == [x.name for x in plain.layers]
    assert [v.shape for v in model.weights] == [v.shape for v in plain.weights]
    stripped = e2e.strip(model)
    np.testing.assert_array_equal(
        stripped.predict(x, verbose=0), base.predict(x, verbose=0)
    )


def test_saved_loaded_and_cloned(tmp_path):
    base, cuts, x = dense()
    model = e2e.modularize(base, cuts, remat=["add2"])
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.remat == ["add2"]
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    assert keras.models.clone_model(model).remat == ["add2"]
    assert "remat" not in e2e.modularize(base, cuts).get_config()


# What is refused


@pytest.mark.parametrize("remat", ["add2", 3, None])
def test_something_else_than_names(remat):
    base, cuts, _ = dense()
    with pytest.raises(TypeError, match="expected True, False or a list of names"):
        e2e.modularize(base, cuts, remat=remat)


def test_a_name_that_is_no_module():
    base, cuts, _ = dense()
    with pytest.raises(
        ValueError, match=r"'ad2', which is not a module. Did you mean 'add2'"
    ):
        e2e.modularize(base, cuts, remat=["ad2"])


def test_a_subclassed_model():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.code, self.score = layers.Dense(4, name="code"), layers.Dense(1)

        def call(self, x):
            return self.score(self.code(x))

    with pytest.raises(ValueError, match=r"remat=True: Net .* is a subclassed model"):
        e2e.modularize(Net(), ["code"], remat=True)


def test_another_backend(monkeypatch):
    base, cuts, _ = dense()
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(NotImplementedError, match="needs the tensorflow backend"):
        e2e.modularize(base, cuts, remat=True)


class Unseeded(layers.Layer):
    """Draws from Keras's global generator."""

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x))


class Raw(layers.Layer):
    """Draws from TensorFlow's own generator."""

    def call(self, x):
        import tensorflow as tf

        return x + tf.random.normal(tf.shape(x))


class Counting(layers.Layer):
    """Assigns a variable that Keras does not know to be the layer's."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.held = {"count": [keras.Variable(0.0, trainable=False)]}.items()

    def call(self, x):
        for _, (count,) in self.held:
            count.assign_add(1.0)
        return x


@pytest.mark.parametrize("odd", [Unseeded, Raw, Counting])
def test_a_layer_that_would_not_do_the_same_again(odd):
    hidden = layers.Dense(6, name="hidden")(inputs := keras.Input((12,)))
    x = layers.Dense(6, name="cut")(odd(name="odd")(hidden))
    base = keras.Model(inputs, layers.Dense(3, name="out")(x))
    with pytest.raises(
        ValueError, match="module 'cut' cannot be computed twice: layer 'odd'"
    ):
        e2e.modularize(base, ["cut"], remat=True)
    assert e2e.modularize(base, ["cut"], remat=["out"]).remat == ["out"]


class Seeded(layers.Layer):
    """Draws from a generator of its own, and keeps what it drew."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.generator = keras.random.SeedGenerator(3)

    def build(self, shape):
        self.total = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        noise = keras.random.normal(keras.ops.shape(x), seed=self.generator)
        self.total.assign_add(keras.ops.sum(noise))
        return x + noise


@pytest.mark.slow
def test_a_layer_with_state_of_its_own_is_run_once():
    def make():
        x = inputs = _in()
        for i in range(3):
            x = layers.Dense(12, activation="tanh", name=f"dense{i}")(x)
            x = Seeded(name=f"seeded{i}")(x)
        outputs = layers.Dense(4, activation="softmax", name="out")(x)
        return keras.Model(inputs, outputs), ["seeded1"], X

    assert_same(make)

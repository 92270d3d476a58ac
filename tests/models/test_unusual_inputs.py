"""Models whose inputs, sizes or weights are unusual train as in Keras, or are refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_e2e as e2e

# Keras says so of its own InputLayer.
pytestmark = pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 8)).astype("float32")
Y = RNG.integers(0, 3, 32)
TOKENS = RNG.integers(0, 10, (32, 6)).astype("int32")
RAGGED = tf.ragged.constant(
    [RNG.integers(1, 10, RNG.integers(1, 6)).tolist() for _ in range(32)], dtype="int32"
)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
NAMES = ("h1", "h2")


@keras.saving.register_keras_serializable("tests_unusual_inputs")
class AddIfThere(layers.Layer):
    """Adds an input that may be left out."""

    def call(self, x, other=None):
        return x if other is None else x + other


@keras.saving.register_keras_serializable("tests_unusual_inputs")
class Padded(layers.Layer):
    """A ragged tensor with zeros at the ends."""

    def call(self, x):
        return x.to_tensor(shape=(None, 5))

    def compute_output_spec(self, x):
        return keras.KerasTensor((None, 5), "int32")


def ended(inputs, x):
    for name in NAMES:
        x = layers.Dense(16, "relu", name=name)(x)
    return keras.Model(inputs, layers.Dense(3, name="out")(x))


def dense(**kwargs):
    x = keras.Input((8,), name="x", **kwargs)
    return ended(x, x)


def optional():
    x = keras.Input((8,), name="x")
    other = keras.Input((8,), name="other", optional=True)
    return ended([x, other], AddIfThere(name="sum")(x, other))


def ragged():
    x = keras.Input((None,), name="x", dtype="int32", ragged=True)
    h = layers.Embedding(10, 8, name="embedding")(Padded(name="padded")(x))
    return ended(x, layers.GlobalAveragePooling1D(name="pool")(h))


def masked():
    x = keras.Input((6,), name="x", dtype="int32")
    h = layers.Embedding(10, 8, mask_zero=True, name="embedding")(x)
    return ended(x, layers.LSTM(8, name="lstm")(h))


def with_lora():
    model = dense()
    for name in NAMES:
        model.get_layer(name).enable_lora(2)
    return model


def quantized(mode):
    model = dense()
    model.quantize(mode)
    return model


def batches(x):
    return tf.data.Dataset.from_tensor_slices((x, Y)).batch(8)


def sparse_batches():
    return batches(tf.sparse.from_dense(np.where(X > 0, X, 0)))


CASES = {
    "optional": (optional, lambda: ([X, X], Y)),
    "left out": (optional, lambda: ([X, None], Y)),
    "sparse": (lambda: dense(sparse=True), lambda: (sparse_batches(), None)),
    "ragged": (ragged, lambda: (batches(RAGGED), None)),
    "masked": (masked, lambda: (TOKENS, Y)),
    "lora": (with_lora, lambda: (X, Y)),
    "int8": (lambda: quantized("int8"), lambda: (X, Y)),
    "int4": (lambda: quantized("int4"), lambda: (X, Y)),
    "float8": (lambda: quantized("float8"), lambda: (X, Y)),
}


def compiled(model):
    model.compile(keras.optimizers.Adam(0.01, clipnorm=0.5), LOSS)
    return model


def fit(model, data, epochs=2):
    x, y = data()
    keras.utils.set_random_seed(1)
    more = {} if y is None else {"batch_size": 8}
    return model.fit(x, y, epochs=epochs, verbose=0, **more).history["loss"]


def predict(model, data):
    return model.predict(data()[0], verbose=0)


def same_flags(one, other):
    return [
        (a.sparse, getattr(a, "ragged", False), s.optional)
        == (b.sparse, b.ragged, t.optional)
        for a, b, s, t in zip(
            one.inputs,
            other.inputs,
            *(keras.tree.flatten(model.input_spec) for model in (one, other)),
            strict=True,
        )
    ]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", CASES)
def test_they_train_as_in_keras_and_locally_and_come_back(case, tmp_path):
    make, data = CASES[case]
    keras.utils.set_random_seed(0)
    stock = compiled(make())
    expected = fit(stock, data)
    keras.utils.set_random_seed(0)
    base = make()
    model = compiled(e2e.modularize(base, ["h1"]))
    assert fit(model, data) == expected
    assert all(map(np.array_equal, stock.get_weights(), base.get_weights()))
    np.testing.assert_array_equal(predict(model, data), predict(stock, data))
    model.training_mode = "local"
    losses = fit(model, data, epochs=10)
    assert losses[-1] < losses[0]
    predicted = predict(model, data)
    plain = e2e.strip(model)
    assert all(same_flags(base, plain))
    model.save(tmp_path / "modular.keras")
    plain.save(tmp_path / "plain.keras")
    for name in ("modular", "plain"):
        loaded = keras.saving.load_model(tmp_path / f"{name}.keras")
        np.testing.assert_array_equal(predict(loaded, data), predicted)
        assert all(same_flags(base, loaded))
        if name == "modular":
            fit(loaded, data, epochs=1)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("on", ["modular", "base"])
@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_quantized_afterwards(mode, on, tmp_path):
    keras.utils.set_random_seed(0)
    stock = dense()
    stock.quantize(mode)
    keras.utils.set_random_seed(0)
    base = dense()
    model = e2e.modularize(base, ["h1"])
    (model if on == "modular" else base).quantize(mode)
    data = lambda: (X, Y)  # noqa: E731
    assert fit(compiled(model), data) == fit(compiled(stock), data)
    assert {v.dtype for v in model.modules[0].head_variables} == {"float32"}
    model.training_mode = "local"
    fit(model, data)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(predict(loaded, data), predict(model, data))
    np.testing.assert_array_equal(predict(e2e.strip(model), data), predict(model, data))


def test_what_is_quantized_can_be_chosen():
    model = e2e.modularize(dense(), ["h1"])
    model.quantize("int8", filters="h2")
    modes = {name: model.get_layer(name).quantization_mode for name in (*NAMES, "out")}
    assert modes == {"h1": None, "h2": "int8", "out": None}


def test_float8_scales_move_in_local_steps():
    base = quantized("float8")
    model = compiled(e2e.modularize(base, ["h1"], training_mode="local"))
    layer = base.get_layer("h1")
    names = ("inputs_scale", "kernel_scale", "outputs_grad_scale")
    before = [getattr(layer, name).numpy() for name in names]
    fit(model, lambda: (X, Y))
    after = [getattr(layer, name).numpy() for name in names]
    assert all(a != b for a, b in zip(before, after, strict=True))


def test_lora_afterwards():
    data = lambda: (X, Y)  # noqa: E731
    keras.utils.set_random_seed(0)
    stock = compiled(dense())
    expected = fit(stock, data)
    for name in NAMES:
        stock.get_layer(name).enable_lora(2)
    expected += fit(compiled(stock), data)
    keras.utils.set_random_seed(0)
    base = dense()
    model = compiled(e2e.modularize(base, ["h1"]))
    found = fit(model, data)
    for name in NAMES:
        base.get_layer(name).enable_lora(2)
    assert found + fit(compiled(model), data) == expected
    layer = base.get_layer("h1")
    frozen, before = layer._kernel.numpy(), layer.lora_kernel_b.numpy()
    model.training_mode = "local"
    fit(model, data)
    np.testing.assert_array_equal(layer._kernel.numpy(), frozen)
    assert np.all(layer.lora_kernel_b.numpy() != before)


# Sizes that are open.

IMAGES = RNG.normal(size=(8, 16, 24, 3)).astype("float32")
MAPS = RNG.integers(0, 2, (8, 16, 24))


def down_and_up(shape=(None, None, 3)):
    x = keras.Input(shape, name="x")
    h = layers.Conv2D(8, 3, padding="same", activation="relu", name="fine")(x)
    h = layers.MaxPooling2D(name="pool")(h)
    h = layers.Conv2D(8, 3, padding="same", activation="relu", name="coarse")(h)
    h = layers.UpSampling2D(name="up")(h)
    return keras.Model(x, layers.Conv2D(2, 1, name="out")(h))


def trained(model):
    model.compile("adam", LOSS)
    return model.fit(IMAGES, MAPS, verbose=0).history["loss"]


@pytest.mark.parametrize("name", ["fine", "up"])
@pytest.mark.parametrize("objective", ["prediction", "reconstruction"])
def test_a_head_may_stand_where_it_has_the_positions(name, objective):
    if objective == "reconstruction" and name == "up":
        base = down_and_up((16, 24, 3))  # its input is half as large
    else:
        base = down_and_up()
    model = e2e.modularize(base, {name: objective}, training_mode="local")
    assert np.isfinite(trained(model)).all()


@pytest.mark.parametrize("name", ["pool", "coarse"])
def test_a_head_of_other_positions_is_refused_by_name(name):
    base = down_and_up()
    said = rf"boundary '{name}' returns one value for each.*the output 'out' has others"
    with pytest.raises(ValueError, match=said) as caught:
        e2e.modularize(base, [name])
    assert "(None, 96, 128, 2), and expected is (None, 192, 256, 2)" in str(caught.value)
    assert "UpSampling2D((2, 2)), keras.layers.Conv2D(2, 1)" in str(caught.value)
    own = keras.Sequential([layers.UpSampling2D((2, 2)), layers.Conv2D(2, 1)])
    objective = e2e.objectives.Prediction(own)
    model = e2e.modularize(base, {name: objective}, training_mode="local")
    assert np.isfinite(trained(model)).all()
    model = e2e.modularize(down_and_up((16, 24, 3)), [name], training_mode="local")
    assert np.isfinite(trained(model)).all()
    e2e.modularize(base, {name: None})


@pytest.mark.parametrize("objective", ["reconstruction", "mixture"])
def test_so_is_a_decoder(objective):
    given = "reconstruction"
    if objective == "mixture":
        given = {"barlow_twins": 1.0, e2e.objectives.Reconstruction("model_input"): 0.5}
    where = "pool" if objective == "reconstruction" else "coarse"
    with pytest.raises(ValueError, match=rf"boundary '{where}'.*what is reconstructed"):
        e2e.modularize(down_and_up(), {where: given})


def test_tokens_of_any_number_have_a_label_each():
    x = keras.Input((None,), dtype="int32", name="x")
    h = layers.Embedding(10, 8, name="embedding")(x)
    h = layers.MultiHeadAttention(2, 4, name="attention")(h, h)
    base = keras.Model(x, layers.Dense(3, name="out")(h))
    model = e2e.modularize(base, ["embedding"], training_mode="local")
    model.compile("adam", LOSS)
    logs = model.fit(TOKENS, TOKENS % 3, verbose=0).history
    assert np.isfinite([logs["embedding_loss"], logs["loss"]]).all()


def test_a_model_of_sparse_inputs_is_diagnosed():
    make, data = CASES["sparse"]
    found = e2e.diagnose(compiled(make()), data()[0], steps=40, update_freq=2)
    assert np.isfinite([*found.history["loss"].values()]).any()

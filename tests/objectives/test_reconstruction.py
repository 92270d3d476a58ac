"""`Reconstruction`: the mean squared error between a decoding and its source."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e
from keras_e2e.objectives import Batch, ModelSpec, Reconstruction

RNG = np.random.default_rng(0)


def built(objective, activation, module_input, *inputs, dtype="float32"):
    spec = ModelSpec(
        keras.KerasTensor(module_input, dtype=dtype),
        [keras.KerasTensor(shape, dtype=dtype) for shape in inputs or (module_input,)],
        (),
    )
    objective.build_for(keras.KerasTensor(activation), spec)
    for v in objective.trainable_variables:  # a head from zero would hide what it is given
        v.assign(some(*v.shape))
    return objective


def some(*shape):
    return RNG.normal(size=shape).astype("float32")


def batch(module_input=None, x=None, sample_weight=None):
    return Batch(x, (), None, sample_weight, module_input)


def squares(source, decoded):
    return ((source - decoded) ** 2).mean(-1)


@pytest.mark.parametrize("head", [None, "linear", "mlp"])
def test_it_is_the_squared_error_of_the_decoding(head):
    objective = built(Reconstruction(head=head), (None, 4), (None, 5))
    h, source, weight = some(6, 4), some(6, 5), RNG.uniform(size=6)
    decoded = np.asarray(objective.network(h))
    assert decoded.shape == source.shape
    values = squares(source, decoded)
    total = objective.compute_loss(h, batch(source))
    np.testing.assert_allclose(float(total), values.mean(), rtol=1e-5)
    total = objective.compute_loss(h, batch(source, sample_weight=weight))
    np.testing.assert_allclose(float(total), (values * weight).sum() / 6, rtol=1e-5)


def test_the_models_input_is_its_first():
    objective = built(
        Reconstruction("model_input"), (None, 4), (None, 9), (None, 5), (None, 7)
    )
    h, x = some(6, 4), [some(6, 5), some(6, 7)]
    expected = squares(x[0], np.asarray(objective.network(h))).mean()
    total = objective.compute_loss(h, batch(some(6, 9), x))
    np.testing.assert_allclose(float(total), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("activation", "source", "kinds"),
    [
        ((None, 4), (None, 5), ["Dense"]),
        ((None, 4), (None, 2, 3), ["Dense", "Reshape"]),
        (
            (None, 4, 4, 6),
            (None, 8, 8, 2),
            ["Resizing", "Conv2D", "BatchNormalization", "ReLU", "Conv2D"],
        ),
        (
            (None, 8, 8, 6),
            (None, 8, 8, 2),
            ["Conv2D", "BatchNormalization", "ReLU", "Conv2D"],
        ),
        ((None, 4), (None, 8, 8, 2), ["Dense", "Reshape"]),
        ((None, 7, 4), (None, 7, 2), ["Dense"]),
    ],
    ids=str,
)
def test_the_default_decoder_follows_the_shapes(activation, source, kinds):
    objective = built(Reconstruction(), activation, source)
    found = [type(layer).__name__ for layer in objective.network.layers]
    assert found == kinds
    h = some(3, *activation[1:])
    values = objective.loss(h, batch(some(3, *source[1:])))
    assert values.shape[0] == 3


def test_the_source_is_no_way_for_a_gradient():
    import tensorflow as tf

    objective = built(Reconstruction(), (None, 4), (None, 5))
    h, source = tf.constant(some(6, 4)), tf.constant(some(6, 5))
    with tf.GradientTape() as tape:
        tape.watch([h, source])
        total = objective.compute_loss(h, batch(source))
    to_h, to_source = tape.gradient(total, [h, source])
    assert to_source is None
    assert np.abs(to_h).max() > 0


def test_integers_can_be_reconstructed():
    objective = built(Reconstruction(), (None, 4), (None, 5), dtype="int32")
    h, source = some(6, 4), RNG.integers(0, 9, size=(6, 5))
    expected = squares(source, np.asarray(objective.network(h))).mean()
    total = objective.compute_loss(h, batch(source))
    np.testing.assert_allclose(float(total), expected, rtol=1e-5)


def test_each_module_reconstructs_what_it_was_given():
    x = inputs = keras.Input((6,))
    x = layers.Dense(5, activation="tanh", name="a")(x)
    x = layers.Dense(4, activation="tanh", name="b")(x)
    base = keras.Model(inputs, layers.Dense(1, name="out")(x))
    objectives = {"a": Reconstruction(), "b": Reconstruction()}
    model = e2e.modularize(base, objectives, training_mode="local")
    model.compile("sgd", "mse")
    source, y = some(8, 6), some(8, 1)
    outputs = model(source, training=True)
    total = model.compute_loss(x=source, y=y, y_pred=outputs, training=True)
    given = {"a": source}
    given["b"] = np.asarray(base.get_layer("a")(source))
    ends = {"a": given["b"], "b": np.asarray(base.get_layer("b")(given["b"]))}
    expected = ((np.asarray(outputs) - y) ** 2).mean()
    for name in "ab":
        network = model.boundaries[name].objective.network
        expected += squares(given[name], np.asarray(network(ends[name]))).mean()
    np.testing.assert_allclose(float(total), expected, rtol=1e-5)


def test_training_lowers_it():
    inputs = keras.Input((6,))
    code = layers.Dense(3, name="code")(inputs)
    base = keras.Model(inputs, layers.Dense(1, name="out")(code))
    model = e2e.modularize(
        base, {"code": Reconstruction()}, training_mode="sequential:code"
    )
    model.compile(keras.optimizers.Adam(0.05), "mse")
    history = model.fit(some(64, 6), epochs=8, verbose=0).history["loss"]
    assert history[-1] < 0.8 * history[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"of": "input"}, ["'input'", "module_input", "model_input"]),
        ({"head": "deep"}, ["'deep'", "'linear'", "'decoder'"]),
    ],
    ids=str,
)
def test_a_reconstruction_that_cannot_be_is_refused(arguments, said):
    with pytest.raises(ValueError) as caught:
        Reconstruction(**arguments)
    for phrase in said:
        assert phrase in str(caught.value)


def test_a_source_of_unknown_size_is_refused():
    with pytest.raises(ValueError, match="fixed sizes"):
        built(Reconstruction(), (None, 4), (None, None, 3))


# Of what kind the source is


def binary(source, raw):
    """-source log p - (1 - source) log(1 - p) of p = sigmoid(raw)."""
    values = source * np.logaddexp(0, -raw) + (1 - source) * np.logaddexp(0, raw)
    return values.mean(-1)


@pytest.mark.parametrize(
    ("activation", "source"),
    [((4,), (5,)), ((4, 4, 6), (8, 8, 2)), ((7, 4), (7, 2))],
    ids=str,
)
@pytest.mark.parametrize("loss", ["mse", "binary_crossentropy"])
def test_each_loss_of_an_example_is_a_mean(loss, activation, source):
    objective = built(Reconstruction(loss=loss), (None, *activation), (None, *source))
    h, weight = some(6, *activation), RNG.uniform(size=6)
    given = RNG.uniform(size=(6, *source)).astype("float32")
    raw = np.asarray(objective.network(h, training=True), "float64")
    values = (squares if loss == "mse" else binary)(given, raw).reshape(6, -1).mean(1)
    total = objective.compute_loss(h, batch(given))
    np.testing.assert_allclose(float(total), values.mean(), rtol=1e-4)
    total = objective.compute_loss(h, batch(given, sample_weight=weight))
    np.testing.assert_allclose(float(total), (values * weight).sum() / 6, rtol=1e-4)


@pytest.mark.parametrize("loss", ["mse", "binary_crossentropy"])
@pytest.mark.parametrize("std", [2.0, [2.0, 0.5]], ids=str)
@pytest.mark.parametrize("mean", [0.25, [0.25, 0.25]], ids=str)
def test_a_normalization_is_undone(loss, std, mean):
    objective = Reconstruction("model_input", loss=loss, mean=mean, std=std)
    built(objective, (None, 4, 4, 6), (None, 5), (None, 8, 8, 2))
    h, image = some(6, 4, 4, 6), RNG.uniform(size=(6, 8, 8, 2)).astype("float32")
    raw = np.asarray(objective.network(h, training=True), "float64")
    expected = (squares if loss == "mse" else binary)(image, raw).mean()
    x = (image - 0.25) / np.asarray(std, "float32")
    total = objective.compute_loss(h, batch(x=x))
    np.testing.assert_allclose(float(total), expected, rtol=1e-4)


def test_cross_entropies_of_large_values_are_finite():
    import tensorflow as tf

    objective = built(Reconstruction(loss="binary_crossentropy"), (None, 4), (None, 5))
    objective.network.layers[-1].kernel.assign(1e4 * some(4, 5))
    h = tf.constant(some(6, 4))
    with tf.GradientTape() as tape:
        tape.watch(h)
        total = objective.compute_loss(h, batch(np.ones((6, 5), "float32")))
    assert np.isfinite(total)
    assert np.isfinite(tape.gradient(total, h)).all()


# Of a spoilt activation


@keras.saving.register_keras_serializable("test_reconstruction")
class Spoil(layers.Layer):
    """Sets the first value to zero, in training."""

    def call(self, x, training=False):
        keep = np.float32([0.0] + [1.0] * (x.shape[-1] - 1))
        return x * keep if training else x


@pytest.mark.parametrize("of", ["module_input", "model_input"])
def test_the_spoilt_pass_must_tell_the_clean_source(of):
    x = inputs = keras.Input((6,))
    x = layers.Dense(5, activation="tanh", name="a")(x)
    x = layers.Dense(4, activation="tanh", name="b")(x)
    base = keras.Model(inputs, layers.Dense(1, name="out")(x))
    objectives = {n: Reconstruction(of, head="mlp", corrupt=Spoil()) for n in "ab"}
    model = e2e.modularize(base, objectives, training_mode="local")
    model.compile("sgd", "mse")
    source, y = some(8, 6), some(8, 1)
    outputs = model(source, training=True)
    total = model.compute_loss(x=source, y=y, y_pred=outputs, training=True)
    expected = ((np.asarray(outputs) - y) ** 2).mean()  # the task, on the clean input
    clean, spoilt = source, source * np.float32([0, 1, 1, 1, 1, 1])
    for name in "ab":
        given = source if of == "model_input" else clean
        clean, spoilt = (np.asarray(base.get_layer(name)(v)) for v in (clean, spoilt))
        network = model.boundaries[name].objective.network
        expected += squares(given, np.asarray(network(spoilt))).mean()
    np.testing.assert_allclose(float(total), expected, rtol=1e-5)
    assert np.isfinite(model.train_on_batch(source, y))


def test_in_evaluation_nothing_is_spoilt():
    inputs = keras.Input((6,))
    code = layers.Dense(3, name="code")(inputs)
    base = keras.Model(inputs, layers.Dense(1, name="out")(code))
    objective = Reconstruction(corrupt=Spoil())
    model = e2e.modularize(base, {"code": objective}, training_mode="local")
    model.compile("sgd", "mse")
    x, y = some(8, 6), some(8, 1)
    expected = ((np.asarray(base(x)) - y) ** 2).mean()
    np.testing.assert_allclose(model.evaluate(x, y, verbose=0), expected, rtol=1e-5)


def test_a_corruption_that_is_no_layer_is_refused():
    with pytest.raises(TypeError) as caught:
        Reconstruction(corrupt=0.5)
    for phrase in ["corrupt=0.5", "keras.layers.Dropout(0.5)"]:
        assert phrase in str(caught.value)


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match=r"loss='bce'.*'mse'.*'binary_crossentropy'"):
        Reconstruction(loss="bce")

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
        ((None, 4, 4, 6), (None, 8, 8, 2), ["Resizing", "Conv2D", "Conv2D"]),
        ((None, 8, 8, 6), (None, 8, 8, 2), ["Conv2D", "Conv2D"]),
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
        ({"head": "deep"}, ["'deep'", "'linear'", "'conv'"]),
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

"""Every model made of another one's graph takes the same inputs, in the same precision."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import keras_e2e as e2e
from keras_e2e.utils import compat

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 4)).astype("float32")
Y = RNG.normal(size=(8, 2)).astype("float32")


class Either(layers.Layer):
    """The sum of two inputs, of which the second may be None."""

    def call(self, one, other=None):
        return one if other is None else one + other

    def compute_output_spec(self, one, other=None):
        return keras.KerasTensor(one.shape, dtype=one.dtype)


def optional():
    one = keras.Input((4,), name="one")
    other = keras.Input((4,), name="other", optional=True)
    x = layers.Dense(3, activation="tanh", name="a")(Either()(one, other))
    x = layers.Dense(3, name="b")(x)
    return keras.Model({"one": one, "other": other}, layers.Dense(2, name="out")(x))


def dense(**flags):
    inputs = keras.Input((4,), name="one", **flags)
    x = layers.Dense(3, activation="tanh", name="a")(inputs)
    x = layers.Dense(3, name="b")(x)
    return keras.Model(inputs, layers.Dense(2, name="out")(x))


def is_optional(tensor):
    return compat.producing_call(tensor).operation.optional


def made_of(model):
    """Each model that keras_e2e makes of a modular one on inputs like its own."""
    return {
        "strip": e2e.strip(model),
        "early_exit_model": model.early_exit_model("a"),
        "downstream_model": model.downstream_model("a"),
    }


def test_an_input_that_may_be_left_out_may_be_left_out_everywhere():
    base = optional()
    model = e2e.modularize(base, ["a", "b"])
    x = {"one": X, "other": None}
    np.testing.assert_array_equal(model.predict(x, verbose=0), base.predict(x, verbose=0))
    model.compile("sgd", "mse")
    for mode in ("end_to_end", "local", "sequential:b"):
        model.training_mode = mode
        assert np.isfinite(model.fit(x, Y, verbose=0).history["loss"]).all()
    for name, made in made_of(model).items():
        assert is_optional(made.inputs[1]), name
    np.testing.assert_array_equal(e2e.strip(model)(x), base(x))


def test_sparse_inputs_stay_sparse():
    base = dense(sparse=True)
    model = e2e.modularize(base, ["a", "b"])
    assert model.inputs[0].sparse
    assert all(made.inputs[0].sparse for made in made_of(model).values())
    x = tf.sparse.from_dense(X * (X > 0))
    np.testing.assert_array_equal(model(x), base(x))
    model.compile("sgd", "mse")
    for mode in ("local", "sequential:b"):
        model.training_mode = mode
        assert np.isfinite(model.train_on_batch(x, Y)).all()


def test_ragged_inputs_stay_ragged():
    inputs = keras.Input((None,), dtype="int32", ragged=True, name="words")
    x = layers.Embedding(5, 3, name="embed")(inputs)
    x = layers.Lambda(lambda t: t if not hasattr(t, "to_tensor") else t.to_tensor())(x)
    x = layers.Dense(3, name="a")(ops.mean(x, axis=1))
    base = keras.Model(inputs, layers.Dense(2, name="out")(x))
    model = e2e.modularize(base, ["a"])
    assert model.inputs[0].ragged
    assert all(made.inputs[0].ragged for made in made_of(model).values())
    words = tf.ragged.constant([[1, 2], [3]], dtype="int32")
    np.testing.assert_array_equal(model(words), base(words))


def test_members_of_an_ensemble_pass_their_flags_on():
    model = e2e.ensemble([dense(sparse=True), dense(sparse=True)])
    assert model.inputs[0].sparse
    model = e2e.ensemble([optional(), optional()])
    assert is_optional(model.inputs[1])


class Code(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.a = layers.Dense(3, name="a")
        self.out = layers.Dense(2, name="out")

    def call(self, x):
        return self.out(self.a(x))


def test_the_precision_of_the_base_is_that_of_the_modular_model():
    keras.config.set_dtype_policy("mixed_float16")
    graph, chain = dense(), keras.Sequential(dense().layers)
    keras.config.set_dtype_policy("float32")
    chain.dtype_policy = "mixed_float16"
    for base in (graph, chain, Code(dtype="mixed_float16")):
        model = e2e.modularize(base, ["a"])
        assert model.dtype_policy.name == "mixed_float16"
        model.compile("sgd", "mse")
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        plain = e2e.strip(model)
        assert plain.dtype_policy.name == "mixed_float16"
        plain.compile("sgd", "mse")
        assert isinstance(plain.optimizer, keras.optimizers.LossScaleOptimizer)


def test_every_model_made_of_a_modular_one_has_its_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = e2e.modularize(dense(), ["a", "b"])
    pair = [dense(), dense()]
    keras.config.set_dtype_policy("float32")
    for name, made in made_of(model).items():
        assert made.dtype_policy.name == "mixed_bfloat16", name
    assert e2e.ensemble(pair).dtype_policy.name == "mixed_bfloat16"


@pytest.mark.filterwarnings("ignore:Layer InputLayer", "ignore:__array__")
def test_a_quantized_model_is_not_quantized_again():
    base = dense()
    base.quantize("int8")
    model = e2e.modularize(base, ["a"])
    np.testing.assert_array_equal(e2e.strip(model)(X), base(X))


@pytest.mark.parametrize("mode", ["local", "sequential:b"])
def test_a_clone_starts_in_the_mode_of_the_compiled_model(mode):
    model = e2e.modularize(dense(), ["a", "b"], training_mode=mode)
    model.compile("sgd", "mse")
    copy = keras.models.clone_model(model)
    assert copy.training_mode == model.training_mode
    assert list(copy.boundaries) == list(model.boundaries)
    assert np.isfinite(copy.fit(X, Y, verbose=0).history["loss"]).all()


def test_a_wrapper_goes_on_after_its_model_was_stripped():
    models = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        base = Code()
        model = e2e.modularize(base, ["a"], training_mode="local")
        model.compile("sgd", "mse", run_eagerly=True)
        model.fit(X, Y, verbose=0)
        models.append(model)
    plain = e2e.strip(models[0])
    assert plain is models[0].base
    assert not any("call" in vars(layer) for layer in compat.all_layers(plain))
    np.testing.assert_array_equal(plain(X), models[1](X))
    for model in models:
        model.fit(X, Y, shuffle=False, verbose=0)
    for one, other in zip(models[0].weights, models[1].weights, strict=True):
        np.testing.assert_array_equal(one, other)
    plain = e2e.strip(models[0])
    assert not any("call" in vars(layer) for layer in compat.all_layers(plain))

"""What was made outside of the scope of a model's strategy is refused by name."""

import keras
import numpy as np
import pytest

import keras_e2e as e2e

pytestmark = pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="strategies are TensorFlow's"
)
X = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
Y = np.zeros((8, 1), "float32")


def one_device():
    import tensorflow as tf

    return tf.distribute.OneDeviceStrategy("cpu:0")


def scope():
    return one_device().scope()


def base_model():
    layers = [keras.layers.Dense(3, name="a"), keras.layers.Dense(1, name="out")]
    return keras.Sequential([keras.Input((4,)), *layers], name="net")


def modular(base, optimizer="adam", objective="prediction"):
    model = e2e.modularize(base, {"a": objective}, training_mode="local")
    model.compile(optimizer, "mse")
    return model


def fit(model):
    return model.fit(X, Y, 4, verbose=0)


class Code(keras.Model):
    """A subclassed model."""

    def __init__(self):
        super().__init__(name="net")
        self.a = keras.layers.Dense(3, name="a")
        self.out = keras.layers.Dense(1, name="out")

    def call(self, x):
        return self.out(self.a(x))


def test_a_strategy_made_after_the_model_is_refused_and_the_fix_works():
    base = base_model()
    with scope():
        with pytest.raises(
            ValueError, match=r"'net' trains under OneDeviceS.*net/a/kernel"
        ):
            modular(base)
        found = keras.models.clone_model(base)
        found.set_weights(base.get_weights())
        model = modular(found)
    np.testing.assert_array_equal(model.predict(X, verbose=0), base.predict(X, verbose=0))
    fit(model)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_model_of_no_strategy_is_refused_in_a_scope(optimizer):
    model = modular(base_model(), optimizer)
    before = model.get_weights()
    with scope(), pytest.raises(ValueError, match=r"'net/a/kernel' was made outside"):
        fit(model)
    for weights, found in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(weights, found)
    fit(model)


def test_an_optimizer_made_outside_is_refused_and_the_fix_works():
    strategy = one_device()
    with strategy.scope():
        base = base_model()
    model = modular(base)  # the heads are made in the scope of the base
    with pytest.raises(ValueError, match=r"'adam/iteration' was made outside"):
        fit(model)
    assert not model.optimizer.built
    with strategy.scope():
        model.compile("adam", "mse")
    fit(model)


def test_a_parameter_server_is_refused():
    kind = type("ParameterServerStrategyV2", (type(one_device()),), {})
    with kind("cpu:0").scope():
        base = base_model()
        with pytest.raises(ValueError, match=r"ParameterServer.*MultiWorkerMirrored"):
            modular(base)


def test_an_objective_made_outside_is_refused():
    decay = keras.optimizers.schedules.ExponentialDecay(1.0, 10, 0.9)
    objective = e2e.objectives.Prediction(weight=decay)
    with scope(), pytest.raises(ValueError, match="weight_steps' was made outside"):
        modular(base_model(), objective=objective)


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_a_subclassed_model_may_be_examined_anywhere(dtype):
    keras.config.set_dtype_policy(dtype)
    try:
        with scope():
            model = modular(Code())
        model.examine(X[:2])
        fit(model)
    finally:
        keras.config.set_dtype_policy("float32")

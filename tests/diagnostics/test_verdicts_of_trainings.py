"""Verdicts on whole trainings that the benchmark does not have."""

import keras
import numpy as np
import pytest

import keras_e2e as e2e
from keras_e2e.experiments import tasks
from tests.diagnostics.on_backends import slow_on_jax

layers = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(256, 6)).astype("float32")
CLASSES = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)


def model_of_three(objective=None):
    base = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(16, "tanh", name="a"),
            layers.Dense(16, "tanh", name="b"),
            layers.Dense(3, "softmax", name="out"),
        ]
    )
    return e2e.modularize(base, {"a": objective, "b": objective})


@pytest.mark.parametrize("signal", ["feedback_alignment", "synthetic_gradient"])
def test_a_module_that_a_signal_trains_is_judged_by_the_loss_of_the_task(signal):
    model = model_of_three(signal)
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.training_mode = "local"
    watch = e2e.callbacks.ModuleDiagnostics(update_freq=4)
    model.fit(X, CLASSES, epochs=20, verbose=0, callbacks=[watch])
    assert np.isnan(watch.history["loss"]["a"]).all(), "a signal has no loss"
    found = watch.verdicts()
    assert {name: verdict.state for name, verdict in found.items()} == dict.fromkeys(
        ("a", "b", "out"), "healthy"
    )


def test_where_weights_turn_nan_the_first_module_is_the_cause_not_the_last_gain():
    base = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(16, "relu", name="a"),
            layers.Dense(16, "relu", name="b"),
            layers.Dense(3, "softmax", name="out"),
        ]
    )
    model = e2e.modularize(base, ["a", "b"])
    model.compile("sgd", "sparse_categorical_crossentropy")

    class Spoil(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 3:
                for name in ("a", "b"):
                    kernel = self.model.get_layer(name).kernel
                    kernel.assign(kernel * np.nan)

    watch = e2e.callbacks.ModuleDiagnostics(update_freq=1)
    model.fit(X, CLASSES, epochs=4, batch_size=16, verbose=0, callbacks=[Spoil(), watch])
    found = watch.verdicts()
    assert found["a"].state == found["b"].state == "exploding"
    assert found["b"].cause == "a" and found["b"].numbers.get("signal_gain", 0.0) < 100.0
    assert [name for name, verdict in found.items() if verdict.alarm] == ["a"]


def test_a_training_with_batches_of_one_example_is_healthy():
    model = model_of_three()
    model.compile(keras.optimizers.SGD(0.05), "sparse_categorical_crossentropy")
    watch = e2e.callbacks.ModuleDiagnostics()
    model.fit(X, CLASSES, 1, epochs=6, verbose=0, callbacks=[watch])
    assert [verdict.state for verdict in watch.verdicts().values()] == ["healthy"] * 3


@slow_on_jax
@pytest.mark.parametrize(
    "factor, says",
    [
        # By the loss at the start; on JAX, where that is cut off, by a gradient of 0.
        (1e4, "scale inputs and targets first"),
        (1e6, "scale inputs and targets first"),
        (1e-4, "do not depend on the inputs: check first that these are not scaled down"),
    ],
)
def test_inputs_of_a_wrong_scale_are_named_and_the_advice_repairs_it(factor, says):
    images, classes = tasks.load_digits(0)[0]
    images = images.reshape(len(images), -1)

    def diagnosed(x):
        keras.utils.set_random_seed(0)
        hidden = [layers.Dense(64, "relu", name=name) for name in "abcd"]
        model = keras.Sequential(
            [keras.Input((64,)), *hidden, layers.Dense(10, "softmax", name="out")]
        )
        model.compile("adam", "sparse_categorical_crossentropy")
        return e2e.diagnose(model, x, classes, boundaries=list("abcd"), verbose=0)

    found = diagnosed(factor * images).verdicts
    assert says in found["a"].message
    alarms = [name for name, verdict in found.items() if verdict.alarm]
    assert alarms == ([] if found["a"].state == "unclear" else ["a"])
    scaled = factor * images / np.std(factor * images)
    assert not any(v.alarm for v in diagnosed(scaled).verdicts.values())

"""The extra passes of a step are of its loss: penalties and added losses included."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import keras_e2e as e2e
from keras_e2e.diagnostics import Quantity
from keras_e2e.diagnostics.entries import sum_of_squares

X = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
Y = np.arange(16) % 3
LOSS = "sparse_categorical_crossentropy"


class Norms(Quantity):
    """Norms of the gradients of the step and of all extra passes."""

    name, formula = "step", "norm(g)"
    extra_outputs = ("later", "first", "second")
    extra_passes = ("later", "halves")

    def compute(self, module, state):
        found = [module.gradients, module.later_gradients, *module.halves]
        return tuple(ops.sqrt(sum_of_squares(gradients)) for gradients in found), state


@keras.saving.register_keras_serializable("extra_passes")
class Reconstructed(layers.Layer):
    """Adds the loss of a reconstruction, and passes its input on."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(6)

    def build(self, shapes):
        self.dense.build(shapes[0])

    def call(self, inputs):
        code, x = inputs
        # Keras does not add up losses of two precisions.
        apart = ops.cast(self.dense(code), "float32") - ops.cast(x, "float32")
        self.add_loss(ops.mean(ops.square(apart)))
        return code


def with_activity():
    l2, single = keras.regularizers.L2, {"dtype": "float32"}
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, "relu", activity_regularizer=l2(10.0), name="a", **single),
            layers.Dense(3, "softmax", kernel_regularizer=l2(0.1), name="out", **single),
        ]
    )


def with_added(outputs=True):
    inputs = keras.Input((6,))
    x = layers.Dense(4, "tanh", name="a")(inputs)
    x = Reconstructed(name="added")([x, inputs])
    return keras.Model(inputs, layers.Dense(3, "softmax")(x) if outputs else x)


CASES = {
    "activity": (with_activity, LOSS),
    "added": (with_added, LOSS),
    "added only": (lambda: with_added(outputs=False), None),
}


def by_hand(model, x, y):
    with tf.GradientTape() as tape:
        y_pred = model(x, training=True)
        loss = model.compute_loss(x, y, y_pred, None, training=True)
    gradients = tape.gradient(loss, model.trainable_variables)
    return np.sqrt(sum(np.sum(np.asarray(g) ** 2) for g in gradients if g is not None))


def total(recorder, column):
    return np.sqrt(sum(value**2 for value in recorder.read()[column].values()))


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize("case", CASES)
def test_gradients_of_extra_passes_are_those_of_the_loss(case, policy):
    keras.config.set_dtype_policy(policy)
    make, loss = CASES[case]
    y = Y if loss else None
    base = make()
    base.compile(keras.optimizers.SGD(0.1), loss)
    model = e2e.modularize(base, ["a"])
    optimizer = keras.optimizers.SGD(0.01)
    if policy == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, 64.0, 1)  # grows at once
    model.compile(optimizer, loss)
    recorder = model.instrument([Norms()])
    expected = {
        "step": by_hand(base, X, y),
        "first": by_hand(base, X[:8], None if y is None else y[:8]),
        "second": by_hand(base, X[8:], None if y is None else y[8:]),
    }
    model.request_diagnostics()
    model.fit(X, y, batch_size=16, shuffle=False, verbose=0)
    expected["later"] = by_hand(base, X, y)
    rtol = 1e-4 if policy == "float32" else 0.02
    for column, value in expected.items():
        np.testing.assert_allclose(
            total(recorder, column), value, rtol=rtol, err_msg=column
        )


def test_a_model_whose_losses_are_all_added_has_the_full_set_of_quantities():
    model = e2e.modularize(with_added(outputs=False), ["a"])
    model.compile("adam")
    watch = e2e.callbacks.ModuleDiagnostics(1, "full")
    model.fit(X, batch_size=4, verbose=0, callbacks=[watch])
    assert np.isfinite(watch.history["loss_credit"]["a"][0])


@pytest.mark.filterwarnings("error")
def test_taking_losses_apart_warns_of_nothing(caplog):
    """Where each loss has a backward pass of its own, the tape is a persistent one."""
    base = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, "relu", name="a"),
            layers.Dense(8, "relu", name="b"),
            layers.Dense(3, "softmax", name="out"),
        ]
    )
    mode = e2e.TrainingMode("local", reach=2)
    model = e2e.modularize(base, ["a", "b"], training_mode=mode)
    model.compile("sgd", LOSS)
    watch = e2e.callbacks.ModuleDiagnostics(1, "full")
    with caplog.at_level("WARNING"):
        model.fit(X, Y, batch_size=8, verbose=0, callbacks=[watch])
    assert "persistent" not in caplog.text
    assert np.isfinite(watch.history["loss_credit"]["a"][0])

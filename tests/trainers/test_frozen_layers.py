"""What is frozen or thawed is trained as in stock Keras, with diagnostics or without."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e
from tests.conformance import models

X = np.random.default_rng(0).normal(size=(24, 6)).astype("float32")
Y = np.arange(24) % 3
LOSS = "sparse_categorical_crossentropy"
on_tensorflow = keras.config.backend() == "tensorflow"


def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, "relu", name="h1"),
            layers.Dense(8, "relu", name="h2"),
            layers.Dense(3, "softmax", name="out"),
        ]
    )


def fit(model, quantities_every=None):
    callbacks = []
    if quantities_every is not None:
        callbacks = [e2e.callbacks.ModuleDiagnostics(quantities_every)]
    model.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)


def after_a_change(before, make, quantities_every=None, again=False):
    """The weights when a layer was frozen or thawed between two fits."""
    base = network()
    base.get_layer("h1").trainable = before
    model = make(base)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), LOSS)
    fit(model)
    base.get_layer("h1").trainable = not before
    if again:
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), LOSS)
    fit(model, quantities_every)
    return base.get_weights()


@pytest.mark.parametrize("again", [False, True], ids=["as it is", "compiled again"])
@pytest.mark.parametrize("before", [True, False], ids=["frozen", "thawed"])
@pytest.mark.parametrize("quantities_every", [None, 1, 3])
def test_a_layer_frozen_or_thawed_between_fits_is_trained_as_in_keras(
    before, quantities_every, again
):
    if quantities_every and not on_tensorflow:
        pytest.skip("no diagnostics on this backend")
    if not (on_tensorflow or again):
        pytest.skip("Keras on JAX reads off the layers at each fit what is trained")
    stock = after_a_change(before, lambda base: base, again=again)
    ours = after_a_change(
        before, lambda base: e2e.modularize(base, ["h1", "h2"]), quantities_every, again
    )
    assert models.same(stock, ours)


@keras.saving.register_keras_serializable("frozen_layers")
class Composite(layers.Layer):
    """Two Dense layers, each of which may be frozen."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(8, name="first")
        self.second = layers.Dense(8, name="second")

    def build(self, shape):
        self.first.build(shape)
        self.second.build((None, 8))

    def call(self, x):
        return self.second(self.first(x))


def partly_frozen():
    """A frozen layer with a sublayer that is trained, as LoRA makes them."""
    keras.utils.set_random_seed(0)
    base = keras.Sequential(
        [keras.Input((6,)), Composite(name="code"), layers.Dense(3, "softmax", name="out")]
    )
    base.get_layer("code").trainable = False
    base.get_layer("code").second.trainable = True
    return base


def test_a_trained_sublayer_of_a_frozen_layer_belongs_to_its_module():
    base = partly_frozen()
    model = e2e.modularize(base, ["code"])
    sublayer = base.get_layer("code").second
    found = model.modules[0].trainable_variables
    assert [id(v) for v in found] == [id(v) for v in sublayer.weights]
    stock = partly_frozen()
    optimizers = e2e.ModuleOptimizers(
        keras.optimizers.SGD(0.1), {"code": keras.optimizers.SGD(0.5)}
    )
    stock.compile(keras.optimizers.SGD(0.1), LOSS)
    model.compile(optimizers, LOSS)
    layer, other = base.get_layer("code"), stock.get_layer("code")
    first, second = layer.first.get_weights(), layer.second.get_weights()
    for each in (model, stock):
        each.train_on_batch(X, Y)
    assert models.same(first, layer.first.get_weights())
    ours = layer.second.get_weights()[0] - second[0]
    plain = other.second.get_weights()[0] - second[0]
    np.testing.assert_allclose(ours, 5 * plain, rtol=1e-3, atol=1e-6)


@pytest.mark.skipif(not on_tensorflow, reason="no diagnostics on this backend")
def test_a_trained_sublayer_of_a_frozen_layer_is_measured():
    model = e2e.modularize(partly_frozen(), ["code"])
    model.compile(keras.optimizers.SGD(0.1), LOSS)
    diagnostics = e2e.callbacks.ModuleDiagnostics(1)
    model.fit(X, Y, batch_size=4, epochs=3, verbose=0, callbacks=[diagnostics])
    assert np.isfinite(diagnostics.history["grad_rms"]["code"]).all()
    assert diagnostics.verdicts()["code"].state != "frozen"


def penalized():
    head = keras.Sequential(
        [layers.Dense(3, kernel_regularizer=keras.regularizers.L2(10.0))]
    )
    return e2e.modularize(network(), {"h1": e2e.objectives.Prediction(head=head)})


def test_the_penalty_of_a_head_counts_where_its_objective_counts():
    stock, model = network(), penalized()
    for each in (stock, model):
        each.compile(keras.optimizers.SGD(0.01), LOSS)
    data = {"validation_data": (X, Y), "shuffle": False, "verbose": 0}
    expected, found = (m.fit(X, Y, **data).history for m in (stock, model))
    assert found == expected
    model.training_mode = "local"
    logs = model.fit(X, Y, **data).history
    assert logs["loss"][0] > 10 > logs["val_loss"][0]
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(logs["val_loss"][0], rel=1e-6)

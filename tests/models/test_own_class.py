"""Models of a class of their own: what it overrides is honored, or refused by name."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e

X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
Y = np.arange(32) % 3
STEP = [
    "train_step",
    "test_step",
    "predict_step",
    "compute_loss",
    "compute_metrics",
    "make_train_function",
    "make_test_function",
    "make_predict_function",
]
CALLED = [
    "fit",
    "evaluate",
    "predict",
    "train_on_batch",
    "test_on_batch",
    "predict_on_batch",
    "compile",
]


def own(cls, method):
    """A class that overrides a method."""

    def overridden(self, *args, **kwargs):
        return getattr(super(made, self), method)(*args, **kwargs)

    made = type("Own", (cls,), {method: overridden})
    return made


class Code(keras.Model):
    """A model whose call is code."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.a = layers.Dense(8, "relu", name="a")
        self.out = layers.Dense(3, name="out")

    def call(self, x):
        return self.out(self.a(x))


class Doubled(keras.Model):
    """A graph of layers, and more than its graph."""

    def call(self, inputs, training=None, mask=None):
        return 2 * super().call(inputs, training=training, mask=mask)


def graph(cls=keras.Model, **kwargs):
    x = keras.Input((6,), name="x")
    hidden = layers.Dense(8, "relu", name="a")(x)
    return cls(x, layers.Dense(3, name="out")(hidden), **kwargs)


@pytest.mark.parametrize("method", STEP + CALLED)
def test_code_that_overrides_what_a_wrapper_would_not_run_is_refused(method):
    model = own(Code, method)(name="net")
    model(X)
    with pytest.raises(ValueError, match=rf"Own .* overrides {method}"):
        e2e.modularize(model, ["a"])
    assert not hasattr(model.a, "_undo")
    if method in CALLED:  # as the error says

        class Plain(type(model)):
            locals()[method] = getattr(keras.Model, method)

        plain = Plain()
        plain(X)
        modular = e2e.modularize(plain, ["a"])
        np.testing.assert_array_equal(modular.predict(X, verbose=0), plain(X))


@pytest.mark.filterwarnings("ignore:The structure of `inputs` doesn't match:UserWarning")
def test_a_nested_graph_with_a_call_of_its_own_stays_whole():
    inner = graph(Doubled, name="inner")
    x = keras.Input((6,), name="x")
    base = keras.Model(x, layers.Dense(2, name="last")(inner(x)))
    with pytest.raises(ValueError, match=r"'a' is inside 'inner'.*Set the boundary on"):
        e2e.modularize(base, ["a"])
    modular = e2e.modularize(base, ["inner"])
    np.testing.assert_array_equal(modular.predict(X, verbose=0), base.predict(X, verbose=0))
    chosen = e2e.modularize(base, 1)
    np.testing.assert_array_equal(chosen.predict(X, verbose=0), base.predict(X, verbose=0))
    assert list(chosen.boundaries) == ["inner"]


@pytest.mark.filterwarnings("ignore:The structure of `inputs` doesn't match:UserWarning")
@pytest.mark.parametrize("method", ["__call__", *CALLED])
def test_what_a_graph_overrides_is_never_dropped(method):
    model = graph(own(keras.Model, method), name="net")
    with pytest.raises(ValueError, match=rf"Own .* overrides {method}"):
        e2e.modularize(model, ["a"])

"""Singular values of modules, against Jacobians written down by hand."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e
from keras_e2e.diagnostics import JacobianSingularValues
from tests.conformance import models
from tests.diagnostics.on_backends import slow_on_jax

X = models.inputs("dense", 10)


def by_hand(model):
    """The Jacobians of each module, `(examples, outputs, inputs)`."""
    h, found = X.astype("float64"), []
    for module in model.modules:
        kernel, bias = (v.numpy() for v in module.variables)
        h = h @ kernel + bias
        if module.boundary is not None:
            h = np.tanh(h)
            found.append((1 - h**2)[:, :, None] * kernel.T)
        else:
            p = np.exp(h) / np.exp(h).sum(1, keepdims=True)
            mixing = p[:, :, None] * (np.eye(p.shape[1]) - p[:, None, :])
            found.append(mixing @ kernel.T)
    return found


@slow_on_jax
def test_the_singular_values_are_those_of_the_jacobian_of_each_example():
    base = keras.Sequential([keras.Input((6,))])
    base.add(layers.Dense(8, activation="tanh", name="first"))
    base.add(layers.Dense(5, activation="tanh", name="second"))
    base.add(layers.Dense(3, activation="softmax", name="out"))
    model = e2e.modularize(base, list(models.CUTS))
    found = JacobianSingularValues(num_directions=8, num_iterations=60).measure(model, X)
    for module, jacobians in zip(model.modules, by_hand(model), strict=True):
        values = np.linalg.svd(jacobians, compute_uv=False)
        square, largest = (values**2).mean(), values.max(axis=1).mean()
        got = [found[column][module.name] for column in found]
        assert got == pytest.approx([square, largest], rel=1e-3)
    few = JacobianSingularValues(num_directions=5, num_examples=3).measure(model, X)
    again = JacobianSingularValues(num_directions=5).measure(model, X[:3])
    assert few == again


@slow_on_jax
def test_few_directions_and_iterations_come_near_it():
    model = e2e.modularize(models.build("conv"), list(models.CUTS))
    x = models.inputs("conv", 32)
    near = JacobianSingularValues().measure(model, x)
    exact = JacobianSingularValues(num_directions=36, num_iterations=40).measure(model, x)
    for column, values in exact.items():
        assert near[column]["second"] == pytest.approx(values["second"], rel=0.2)


def test_an_isometry_has_ones_and_a_constant_has_zeros():
    orthogonal = layers.Dense(6, kernel_initializer="orthogonal", name="isometry")
    constant = layers.Dense(6, kernel_initializer="zeros", name="constant")
    base = keras.Sequential([keras.Input((6,)), orthogonal, constant, layers.Dense(1)])
    model = e2e.modularize(base, ["isometry", "constant"])
    found = JacobianSingularValues(num_directions=6).measure(model, X)
    for values in found.values():
        assert values["isometry"] == pytest.approx(1.0, rel=1e-4)
        assert values["constant"] == 0.0


def test_it_is_nan_where_no_single_tensor_of_floats_enters():
    tokens, floats = keras.Input((4,), dtype="int32"), keras.Input((3,))
    embedded = layers.Flatten(name="embedded")(layers.Embedding(5, 2)(tokens))
    both = layers.Concatenate(name="both")([embedded, layers.Dense(2)(floats)])
    base = keras.Model([tokens, floats], layers.Dense(1, name="out")(both))
    model = e2e.modularize(base, ["embedded", "both"])
    x = [np.ones((6, 4), "int32"), np.ones((6, 3), "float32")]
    for values in JacobianSingularValues().measure(model, x).values():
        assert np.isnan([values["embedded"], values["both"]]).all()
        assert values["out"] > 0

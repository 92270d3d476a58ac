"""Centered kernel alignment, against its definition."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e
from keras_e2e.diagnostics import CKA
from tests.conformance import models

X = models.inputs("dense", 13)


def modular(seed=1):
    return e2e.modularize(models.build("dense", seed), list(models.CUTS))


def outputs(model):
    """The outputs of each module of the dense model, by hand."""
    h, found = X.astype("float64"), {}
    for module in model.modules:
        kernel, bias = (v.numpy() for v in module.variables)
        h = h @ kernel + bias
        if module.boundary is not None:
            h = np.tanh(h)
        else:
            h = np.exp(h) / np.exp(h).sum(1, keepdims=True)
        found[module.name] = h
    return found


def hsic(a, b):
    """HSIC of linear kernels as what it is: a mean over four different examples."""
    k, m = a @ a.T, b @ b.T
    four = np.array(list(itertools.permutations(range(len(a)), 4))).T
    i, j, q, r = four
    return (k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])).mean()


def test_cka_is_a_quotient_of_unbiased_estimates_over_the_batches():
    model, other = modular(), modular(2)
    batches = [slice(0, 7), slice(7, 13)]
    expected = {}
    here, there = outputs(model), outputs(other)
    for name in here:
        pairs = [(here[name][part], there[name][part]) for part in batches]
        both, left, right = (
            np.mean([hsic(p[i], p[j]) for p in pairs]) for i, j in ((0, 1), (0, 0), (1, 1))
        )
        expected[name] = both / np.sqrt(left * right)
    found = CKA(other, batch_size=6).measure(model, X)["cka"]
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert CKA(other.get_weights(), batch_size=6).measure(model, X)["cka"] == found
    assert CKA(other).measure(model, X)["cka"] != found


def test_it_is_1_up_to_a_rotation_and_far_from_1_for_other_features():
    model, other = modular(), modular()
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))
    base = keras.Sequential([keras.Input((6,)), layers.Dense(6, name="turned")])
    base.add(layers.Dense(1))
    model, other = (
        e2e.modularize(keras.models.clone_model(base), ["turned"]) for _ in range(2)
    )
    model.get_layer("turned").set_weights([np.eye(6), np.zeros(6)])
    other.get_layer("turned").set_weights([3 * turn, np.ones(6)])
    x = np.random.default_rng(1).normal(size=(64, 6))
    assert CKA(other).measure(model, x)["cka"]["turned"] == pytest.approx(1.0, abs=1e-5)
    other.get_layer("turned").set_weights([np.diag([9, 0, 0, 0, 0, 0]), np.ones(6)])
    assert CKA(other).measure(model, x)["cka"]["turned"] < 0.7


def test_a_constant_output_has_no_similarity():
    model = modular()
    dead = [0 * w for w in model.get_weights()]
    assert np.isnan(list(CKA(dead).measure(model, X)["cka"].values())).all()


def test_padding_does_not_count():
    base = keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            layers.Embedding(7, 4, mask_zero=True, name="code"),
            layers.GlobalAveragePooling1D(name="mean"),
            layers.Dense(1),
        ]
    )
    model = e2e.modularize(base, ["code"])
    tokens = np.random.default_rng(0).integers(0, 7, (16, 5))
    before = model.get_weights()
    rows = next(i for i, w in enumerate(before) if w.shape == (7, 4))
    other_padding, other_token = ([np.array(w) for w in before] for _ in range(2))
    other_padding[rows][0] += 5
    other_token[rows][1] += 5
    similar = [
        CKA(weights).measure(model, tokens)["cka"]["code"]
        for weights in (other_padding, other_token)
    ]
    assert similar[0] == pytest.approx(1.0, abs=1e-6)
    assert similar[1] < 0.99

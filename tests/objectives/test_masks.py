"""Padding that Keras masks teaches no module anything."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_e2e as e2e
from keras_e2e.objectives import (
    IntermediateTarget,
    LocalObjective,
    Prediction,
    Reconstruction,
)

LENGTH, PADDED = 4, 7


@keras.saving.register_keras_serializable("masks")
class Small(LocalObjective):
    """One value for each position."""

    def loss(self, activation, batch):
        return ops.mean(ops.square(activation), axis=-1)


OBJECTIVES = {
    "prediction": Prediction,
    "prediction-mlp": lambda: Prediction("mlp"),
    "target": lambda: IntermediateTarget(head="linear", units=3, per_position=True),
    "reconstruction": Reconstruction,
    "user-written": Small,
}


def parts(per_token):
    return (
        layers.Embedding(20, 8, mask_zero=True, name="embed"),
        layers.SimpleRNN(6, return_sequences=True, name="read"),
        layers.SimpleRNN(6, return_sequences=per_token, name="reread"),
        layers.Dense(4, activation="softmax", name="tag"),
    )


class Tagger(keras.Model):
    """The same as a model without a graph."""

    def __init__(self, per_token):
        super().__init__()
        self.steps = parts(per_token)

    def call(self, tokens):
        for step in self.steps:
            tokens = step(tokens)
        return tokens


def build(subclassed, per_token):
    keras.utils.set_random_seed(0)
    if subclassed:
        return Tagger(per_token)
    return keras.Sequential([keras.Input((None,), dtype="int32"), *parts(per_token)])


def trained(
    objective, mode, length, *, subclassed=False, per_token=True, noise=0, ignored=None
):
    """Weights after two steps on sentences of 4 tokens, padded to `length`.

    With `ignored` every other sentence weighs nothing, and begins with that token.
    """
    objectives = {"embed": Small(), "read": objective()}
    model = e2e.modularize(build(subclassed, per_token), objectives)
    model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    rng = np.random.RandomState(0)
    x = np.zeros((16, length), "int32")
    x[:, :LENGTH] = rng.randint(1, 20, (16, LENGTH))
    x[0, LENGTH - 1] = 0  # one is shorter: not all examples weigh the same
    if ignored is not None:
        x[::2, 0] = ignored
    y = np.full((16, length), noise)
    y[:, :LENGTH] = rng.randint(0, 4, (16, LENGTH))
    labels = np.minimum(y, 2)
    if not per_token:
        y = y[:, 0]
    if isinstance(objectives["read"], IntermediateTarget):
        y = {"outputs" if subclassed else "tag": y, "read": labels}
    if subclassed:
        model.examine(x[:2])
    model.training_mode = mode
    weight = None if ignored is None else np.arange(16) % 2
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0, sample_weight=weight)
    return model.get_weights()


def assert_close(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.sampled(3)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("subclassed", "mode"),
    [
        (False, "local"),
        (False, "deep_supervision"),
        (False, "sequential:read"),
        (True, "local"),
    ],
)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_training_on_padded_sentences_is_training_on_the_sentences(name, subclassed, mode):
    objective = OBJECTIVES[name]
    bare = trained(objective, mode, LENGTH, subclassed=subclassed)
    padded = trained(objective, mode, PADDED, subclassed=subclassed)
    assert_close(padded, bare)


@pytest.mark.parametrize("name", ["prediction", "target"])
def test_labels_of_padding_do_not_matter(name):
    zeros, ones = (trained(OBJECTIVES[name], "local", PADDED, noise=n) for n in (0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(zeros, ones, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_padded_sentence_of_weight_zero_teaches_nothing(name):
    ours, theirs = (
        trained(OBJECTIVES[name], "local", PADDED, per_token=False, ignored=token)
        for token in (3, 4)
    )
    assert_close(ours, theirs)


@pytest.mark.parametrize("head", ["gap_linear", "mlp"])
def test_a_head_that_averages_over_positions_leaves_padding_out(head):
    bare, padded = (
        trained(lambda: Prediction(head), "local", length, per_token=False)
        for length in (LENGTH, PADDED)
    )
    assert_close(padded, bare)


@pytest.mark.parametrize("mode", ["local", "sequential:tag"])
def test_no_warning_of_a_destroyed_mask(mode):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*masking")
        trained(Prediction, mode, PADDED)

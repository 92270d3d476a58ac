"""`ForwardForward`: goodness of true and wrong labels written over the input."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_e2e as e2e
from keras_e2e.objectives import Batch, ForwardForward, ModelSpec, Output, OutputSpec
from keras_e2e.objectives.forward_forward import goodness, overlaid

RNG = np.random.default_rng(0)
B = 6


def some(*shape):
    return RNG.normal(size=shape).astype("float32")


def built(objective=None, classes=4, inputs=((None, 9),)):
    objective = objective or ForwardForward()
    output = OutputSpec("out", keras.KerasTensor((None, classes)), None)
    sources = [keras.KerasTensor(shape) for shape in inputs]
    spec = ModelSpec(sources[0], sources, (output,))
    objective.build_for(keras.KerasTensor((None, 5)), spec)
    return objective


def batch(x, y, views=None, sample_weight=None):
    output = Output("out", y, sample_weight, None)
    return Batch(x, (output,), None, sample_weight, None, views or {})


def pair(objective, x, y):
    """The inputs with the true and with a wrong label."""
    true, wrong = (np.asarray(f(batch(x, y))) for f in objective.extra_inputs().values())
    return true, wrong


def softplus(x):
    return np.logaddexp(0, np.asarray(x, "float64"))


# Goodness


@pytest.mark.parametrize("shape", [(7,), (4, 3), (3, 4, 2)], ids=str)
def test_goodness_is_the_mean_square_of_an_example(shape):
    h = some(B, *shape)
    found = np.asarray(goodness(h))
    assert found.shape == (B,)
    np.testing.assert_allclose(found, (h**2).reshape(B, -1).mean(1), rtol=1e-5)


def test_goodness_of_half_precision_does_not_overflow():
    h = tf.fill((2, 3), tf.constant(1000, "float16"))
    np.testing.assert_allclose(goodness(h), [1e6, 1e6])


@pytest.mark.parametrize("weight", [None, np.float32([1, 0, 2, 0, 0.5, 1])], ids=str)
def test_its_loss_is_two_softplus(weight):
    objective = built(ForwardForward(threshold=1.5))
    true, wrong = some(B, 5), some(B, 5)
    views = dict(zip(objective.extra_inputs(), (true, wrong), strict=True))
    y = np.zeros(B, int)
    found = objective.compute_loss(true, batch(some(B, 9), y, views, weight))
    values = softplus(1.5 - (true**2).mean(1)) + softplus((wrong**2).mean(1) - 1.5)
    expected = (values * (1 if weight is None else weight)).sum() / B
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_large_and_constant_activations_have_finite_losses_and_gradients():
    objective = built()
    for scale in (0.0, 1.0, 1e3, 1e6):
        h = tf.fill((B, 5), tf.constant(scale, "float32"))
        with tf.GradientTape() as tape:
            tape.watch(h)
            views = dict.fromkeys(objective.extra_inputs(), h)
            loss = objective.compute_loss(h, batch(None, np.zeros(B, int), views))
        expected = softplus(2 - scale**2) + softplus(scale**2 - 2)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
        assert np.isfinite(tape.gradient(loss, h)).all()


# Labels over the input


@pytest.mark.parametrize("form", ["ints", "column", "one-hot"])
@pytest.mark.parametrize("shape", [(9,), (3, 3, 1), (2, 2, 3)], ids=str)
def test_the_label_is_written_over_the_first_values(shape, form):
    objective = built(ForwardForward(overlay=5.0), inputs=[(None, *shape)])
    x, y = some(B, *shape), np.array([0, 1, 2, 3, 0, 2])
    given = {"ints": y, "column": y[:, None], "one-hot": np.eye(4)[y]}[form]
    true, wrong = pair(objective, x, given)
    assert true.shape == wrong.shape == x.shape
    true, wrong = true.reshape(B, -1), wrong.reshape(B, -1)
    np.testing.assert_array_equal(true[:, :4], 5 * np.eye(4)[y])
    for inputs in (true, wrong):
        np.testing.assert_array_equal(inputs[:, 4:], x.reshape(B, -1)[:, 4:])
    assert (wrong[:, :4].sum(1) == 5).all() and (wrong[:, :4].max(1) == 5).all()


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_a_wrong_label_is_never_the_true_one_and_each_other_one_as_often(classes):
    objective = built(classes=classes, inputs=[(None, 10)])
    y = np.arange(20_000) % classes
    x = np.zeros((len(y), 10), "float32")
    _, wrong = pair(objective, x, y)
    chosen = wrong[:, :classes].argmax(1)
    assert (wrong[:, :classes].sum(1) == 1).all()
    assert not (chosen == y).any()
    counts = np.bincount(y * classes + chosen, minlength=classes**2)
    expected = len(y) / classes / (classes - 1)
    others = ~np.eye(classes, dtype=bool).ravel()
    assert np.abs(counts[others] - expected).max() < 6 * np.sqrt(expected)


def test_the_highest_draw_is_no_true_label(monkeypatch):
    def highest(shape, **kwargs):
        return tf.fill(shape, np.float32(1.0))

    monkeypatch.setattr(keras.random, "uniform", highest)
    y = np.array([0, 1, 2, 3, 0, 2])
    _, wrong = pair(built(), some(B, 9), y)
    assert (wrong[:, :4].argmax(1) == (y + 3) % 4).all()


def test_wrong_labels_are_new_in_each_step_and_those_of_the_seed():
    x, y = some(B, 20), np.zeros(B, int)
    runs = []
    for _ in range(2):
        objective = built(ForwardForward(seed=5), 20, [(None, 20)])
        runs.append([pair(objective, x, y)[1] for _ in range(2)])
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0][0] != runs[0][1]).any()


def test_only_the_first_of_several_inputs_is_written_over():
    labels = np.eye(2, dtype="float32")
    for x in (
        {"a": np.ones((2, 4), "int32"), "b": np.ones((2, 1))},
        [np.ones((2, 4), "uint8"), np.ones((2, 1))],
    ):
        given = keras.tree.flatten(x)
        changed = overlaid(x, labels)
        keras.tree.assert_same_structure(x, changed)
        first, second = keras.tree.flatten(changed)
        assert first.dtype == given[0].dtype
        np.testing.assert_array_equal(first, [[1, 0, 1, 1], [0, 1, 1, 1]])
        np.testing.assert_array_equal(second, given[1])


# In a model


def test_each_module_by_numpy():
    """With two classes the wrong label is the other one: nothing is left to chance."""
    base = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(4, activation="tanh", name="a"),
            layers.UnitNormalization(name="unit"),
            layers.Dense(3, activation="tanh", name="b"),
            layers.Dense(2, activation="softmax", name="out"),
        ]
    )
    x, y = some(B, 5), np.array([0, 1, 1, 0, 1, 0])
    model = e2e.modularize(
        base, dict.fromkeys("ab", "forward_forward"), training_mode="local"
    )
    model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
    weights = {n: base.get_layer(n).get_weights() for n in "ab"}

    def run(labels):
        given = x.copy()
        given[:, :2] = np.eye(2)[labels]
        h = np.tanh(given @ weights["a"][0] + weights["a"][1])
        unit = h / np.linalg.norm(h, axis=1, keepdims=True)
        return given, h, unit, np.tanh(unit @ weights["b"][0] + weights["b"][1])

    true, wrong = run(y), run(1 - y)
    p = np.asarray(model.predict(x, verbose=0))
    expected = -np.log(p[np.arange(B), y]).mean()  # of the input as it is
    gradients = {}
    for name, before, after in [("a", 0, 1), ("b", 2, 3)]:
        gradients[name] = 0.0
        for sign, seen in [(-1, true), (1, wrong)]:
            excess = sign * ((seen[after] ** 2).mean(1) - 2.0)
            expected += softplus(excess).mean()
            slope = sign / (1 + np.exp(-excess)) / B
            signal = slope[:, None] * 2 * seen[after] / seen[after].shape[1]
            inner = signal * (1 - seen[after] ** 2)
            gradients[name] = gradients[name] + seen[before].T @ inner
    loss = model.train_on_batch(x, y)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for name in "ab":
        moved = weights[name][0] - base.get_layer(name).get_weights()[0]
        np.testing.assert_allclose(moved, gradients[name], rtol=1e-3, atol=1e-6)


def test_boundaries_share_the_two_passes():
    first, second = built(), built()
    assert list(first.extra_inputs()) == list(second.extra_inputs())
    assert (
        len({*first.extra_inputs(), *built(ForwardForward(overlay=2.0)).extra_inputs()})
        == 4
    )


def test_an_image_model_trains():
    base = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            layers.Conv2D(3, 3, activation="relu", name="a"),
            layers.Flatten(),
            layers.Dense(3, activation="softmax", name="out"),
        ]
    )
    model = e2e.modularize(base, {"a": "forward_forward"}, training_mode="local")
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = RNG.uniform(size=(B, 4, 4, 1)), np.array([0, 1, 2, 0, 1, 2])
    before = base.get_layer("a").kernel.numpy()
    assert np.isfinite(model.train_on_batch(x, y))
    assert (before != base.get_layer("a").kernel.numpy()).any()


@pytest.mark.parametrize("shape", [(3,), (1, 3, 1), (None, 9)], ids=str)
def test_an_input_too_small_for_the_label_is_refused(shape):
    with pytest.raises(ValueError) as caught:
        built(inputs=[(None, *shape)])
    for phrase in ["ForwardForward", "4 values", str((None, *shape)), "Pad the input"]:
        assert phrase in str(caught.value)


@pytest.mark.parametrize("classes", [1, 0, 2.5])
def test_fewer_than_two_classes_are_refused(classes):
    with pytest.raises(
        ValueError, match=rf"ForwardForward: num_classes={classes}: .*at least 2"
    ):
        ForwardForward(num_classes=classes)

"""Barlow Twins, VICReg and SimCLR against NumPy, and the passes that they share."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import keras_e2e as e2e
from keras_e2e.objectives import (
    BarlowTwins,
    Batch,
    ModelSpec,
    Reconstruction,
    VICReg,
    ViewContrast,
)

RNG = np.random.default_rng(0)
B, D = 6, 4
WEIGHT = np.array([1.0, 0.0, 0.5, 2.0, 0.0, 1.5], "float32")
KINDS = [BarlowTwins, VICReg, ViewContrast]


def some(*shape):
    return RNG.normal(size=shape).astype("float32")


def built(objective, *activation):
    source = keras.KerasTensor((None, 3))
    objective.build_for(
        keras.KerasTensor((None, *activation)), ModelSpec(source, [source], ())
    )
    return objective


def compute(objective, h, view, sample_weight=None):
    (key,) = objective.extra_inputs()
    batch = Batch(None, (), None, sample_weight, None, {key: view})
    return objective.compute_loss(h, batch)


# The definitions, in NumPy: of two projections, and how much each example counts


def barlow_twins(a, b, weight, off_diagonal=0.0051):
    there = weight != 0
    a, b = (
        (z - z[there].mean(0)) / np.sqrt(z[there].var(0) + 1e-5)  # as BatchNorm does
        for z in (a, b)
    )
    c = a[there].T @ b[there] / there.sum()
    same = np.eye(len(c), dtype=bool)
    loss = ((1 - c[same]) ** 2).sum() + off_diagonal * (c[~same] ** 2).sum()
    return loss * weight.sum() / len(weight)


def vicreg(a, b, weight, factors=(25, 25, 1)):
    there = weight != 0
    apart = (weight * ((a - b) ** 2).mean(1)).sum() / len(weight)
    spread = related = 0.0
    for z in (a[there], b[there]):
        covariance = np.cov(z.T, ddof=1)
        spread += np.maximum(0, 1 - np.sqrt(np.diag(covariance) + 1e-4)).mean() / 2
        off = covariance - np.diag(np.diag(covariance))
        related += (off**2).sum() / z.shape[1]
    of_batch = factors[1] * spread + factors[2] * related
    return factors[0] * apart + of_batch * weight.sum() / len(weight)


def nt_xent(a, b, weight, temperature=0.1):
    there = np.flatnonzero(weight)
    z = np.concatenate([a[there], b[there]])
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    n, total = len(there), 0.0
    for i in range(2 * n):
        others = [j for j in range(2 * n) if j != i]
        scores = {j: z[i] @ z[j] / temperature for j in others}
        missed = np.log(sum(np.exp(s) for s in scores.values())) - scores[(i + n) % (2 * n)]
        total += weight[there[i % n]] * missed / 2
    return total / len(weight)


FORMULAS = {BarlowTwins: barlow_twins, VICReg: vicreg, ViewContrast: nt_xent}


@pytest.mark.parametrize("weight", [np.ones(B), WEIGHT], ids=["", "weighed"])
@pytest.mark.parametrize("shape", [(7,), (4, 4, 5), (6, 5)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_what_the_paper_says(kind, shape, weight):
    objective = built(
        kind(head="gap_linear" if len(shape) > 1 else "mlp", projection_dim=D), *shape
    )
    h, view = some(B, *shape), some(B, *shape)
    projected = [np.asarray(objective.network(v), "float64") for v in (h, view)]
    given = None if (weight == 1).all() else weight
    expected = FORMULAS[kind](*projected, weight)
    np.testing.assert_allclose(compute(objective, h, view, given), expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("objective", "settings"),
    [
        (BarlowTwins(off_diagonal=0.5, projection_dim=D), {"off_diagonal": 0.5}),
        (
            VICReg(invariance=2, variance=3, covariance=5, projection_dim=D),
            {"factors": (2, 3, 5)},
        ),
        (ViewContrast(temperature=0.7, projection_dim=D), {"temperature": 0.7}),
    ],
    ids=lambda x: type(x).__name__,
)
def test_its_settings_count(objective, settings):
    built(objective, 7)
    h, view = some(B, 7), some(B, 7)
    projected = [np.asarray(objective.network(v), "float64") for v in (h, view)]
    expected = FORMULAS[type(objective)](*projected, np.ones(B), **settings)
    np.testing.assert_allclose(compute(objective, h, view), expected, rtol=1e-4)


def test_views_that_agree_on_independent_features_by_hand():
    # Of each feature, the four values are -1 and 1; no two features go together.
    z = np.float32([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    for objective, expected in [
        (BarlowTwins(projection_dim=2), 0.0),
        (VICReg(projection_dim=2), 0.0),
        (ViewContrast(projection_dim=2, temperature=1.0), np.log(np.e + 4 + 2 / np.e) - 1),
    ]:
        built(objective, 2)
        objective.network = layers.Identity()
        np.testing.assert_allclose(compute(objective, z, z), expected, atol=1e-5)


@pytest.mark.parametrize("head", [None, "linear", "mlp"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_module_is_taught_something_from_the_first_step_on(kind, head):
    objective = built(kind(head=head, projection_dim=D), 7)
    h = tf.constant(some(B, 7))
    with tf.GradientTape() as tape:
        tape.watch(h)
        loss = compute(objective, h, h + 0.1 * some(B, 7))
    assert np.abs(tape.gradient(loss, h)).max() > 0


@pytest.mark.parametrize("case", ["one example", "zeros", "ones", "equal", "no weight"])
@pytest.mark.parametrize("kind", KINDS)
def test_its_gradients_are_finite(kind, case):
    objective = built(kind(head="linear", projection_dim=D), 7)
    h, view, weight = some(B, 7), some(B, 7), None
    if case == "one example":
        h, view = h[:1], view[:1]
    elif case == "no weight":
        weight = np.zeros(B, "float32")
    elif case == "equal":
        view = h
    else:
        h = view = np.full((B, 7), case == "ones", "float32")
    h, view = tf.constant(h), tf.constant(view)
    with tf.GradientTape() as tape:
        tape.watch([h, view])
        loss = compute(objective, h, view, weight)
    found = tape.gradient(loss, [h, view, *[v.value for v in objective.network.weights]])
    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in found)
    if case == "no weight":
        assert not any(g.numpy().any() for g in found)
    if case == "one example" and kind is ViewContrast:
        assert loss == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_examples_of_weight_zero_are_taught_nothing(kind):
    objective = built(kind(head="linear", projection_dim=D), 7)
    h, view = tf.constant(some(B, 7)), tf.constant(some(B, 7))
    with tf.GradientTape() as tape:
        tape.watch([h, view])
        loss = compute(objective, h, view, WEIGHT)
    for gradient in tape.gradient(loss, [h, view]):
        assert (gradient.numpy()[WEIGHT == 0] == 0).all()
        assert (np.abs(gradient.numpy()[WEIGHT > 0]).max(1) > 0).all()


# The further pass


@keras.saving.register_keras_serializable("test_augmented")
class Shift(layers.Layer):
    """Adds one, and counts how often."""

    calls = 0

    def __init__(self, by=1.0, **kwargs):
        super().__init__(**kwargs)
        self.by = by

    def call(self, x):
        type(self).calls += tf.executing_eagerly()  # not when a Sequential is built
        return x + self.by

    def get_config(self):
        return {**super().get_config(), "by": self.by}


@keras.saving.register_keras_serializable("test_augmented")
class Count(layers.Layer):
    """Counts its calls."""

    calls = 0

    def call(self, x):
        type(self).calls += 1
        return x


def shared(*objectives):
    x = inputs = keras.Input((3,))
    for name, _ in zip("abc", objectives, strict=False):
        x = layers.Dense(5, activation="tanh", name=name)(Count()(x))
    base = keras.Model(inputs, layers.Dense(1, name="out")(x))
    chosen = dict(zip("abc", objectives, strict=False))
    model = e2e.modularize(base, chosen, training_mode="local")
    model.compile("sgd", "mse", run_eagerly=True)
    return model


def passes(model):
    """How often a step augments, and how often it runs the first module."""
    Shift.calls = Count.calls = 0
    modules = len(model.modules) - 1
    model.train_on_batch(some(B, 3), some(B, 1))
    return Shift.calls, Count.calls / modules


def augmentations():
    one = Shift(name="shift")
    several = keras.Sequential([Shift(name="shift"), layers.GaussianNoise(0.1)])
    return {
        "one layer": [one, one],
        "equal layers": [Shift(name="shift"), Shift(name="shift")],
        "layers in a row": [several, several],
    }


@pytest.mark.parametrize("case", ["one layer", "equal layers", "layers in a row"])
def test_boundaries_of_one_augmentation_share_one_pass(case, tmp_path):
    first, second = augmentations()[case]
    model = shared(
        BarlowTwins(first, projection_dim=D),
        VICReg(second, projection_dim=D),
        Reconstruction("model_input", corrupt=second),
    )
    assert passes(model) == (1, 2)
    assert passes(model) == (1, 2)  # also when everything is built
    for round_trip in range(2):
        model.save(tmp_path / f"{round_trip}.keras")
        model = keras.models.load_model(tmp_path / f"{round_trip}.keras")
        model.run_eagerly = True
        assert passes(model) == (1, 2)


def test_boundaries_left_to_the_default_share_one_pass():
    model = shared(*[kind(projection_dim=D) for kind in KINDS])
    assert passes(model) == (0, 2)
    assert len({key for m in model.modules[:-1] for key in m.objective.extra_inputs()}) == 1


def test_each_augmentation_has_a_pass_of_its_own():
    model = shared(*[VICReg(Shift(by, name="s"), projection_dim=D) for by in (1.0, 2.0)])
    assert passes(model) == (2, 3)


@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables:UserWarning")
def test_no_pass_is_made_for_an_objective_that_does_not_count():
    model = shared(BarlowTwins(Shift(), projection_dim=D), Reconstruction())
    model.training_mode = e2e.TrainingMode("mixed", stop=["b"], weights={"b": 1.0})
    assert passes(model) == (0, 1)
    model.training_mode = "end_to_end"
    assert passes(model) == (0, 1)


def test_the_view_is_the_activation_of_the_augmented_input():
    model = shared(
        ViewContrast(Shift(2.0), head="linear", projection_dim=D),
        VICReg(Shift(2.0), projection_dim=D),
    )
    x, y = some(B, 3), some(B, 1)
    outputs = model(x, training=True)
    total = model.compute_loss(x=x, y=y, y_pred=outputs, training=True)
    first, second = x, x + 2.0
    expected = ((np.asarray(outputs) - y) ** 2).mean()
    for name, formula in [("a", nt_xent), ("b", vicreg)]:
        layer = model.get_layer(name)
        first, second = np.asarray(layer(first)), np.asarray(layer(second))
        network = model.boundaries[name].objective.network
        projected = [np.asarray(network(v), "float64") for v in (first, second)]
        expected += formula(*projected, np.ones(B))
    np.testing.assert_allclose(total, expected, rtol=1e-4)


def test_the_further_pass_moves_the_statistics_of_batchnorm_too():
    inputs = keras.Input((3,))
    x = layers.BatchNormalization(momentum=0.5, name="a")(inputs)
    base = keras.Model(inputs, layers.Dense(1, name="out")(x))
    objective = VICReg(Shift(4.0), projection_dim=D)
    model = e2e.modularize(base, {"a": objective}, training_mode="local")
    model.compile("sgd", "mse")
    x = some(B, 3)
    model.train_on_batch(x, some(B, 1))
    mean = x.mean(0)
    found = np.asarray(model.get_layer("a").moving_mean)
    np.testing.assert_allclose(found, mean * 0.25 + (mean + 4) * 0.5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_an_augmentation_that_is_no_layer_is_refused(kind):
    with pytest.raises(TypeError) as caught:
        kind(lambda x: x)
    for phrase in [kind.__name__, "augment", "keras.layers.GaussianNoise"]:
        assert phrase in str(caught.value)


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match=r"temperature.*above 0"):
        ViewContrast(temperature=temperature)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inputs", [["int32"], ["float32", "float32"]], ids=str)
def test_noise_is_refused_where_it_cannot_be_added(kind, inputs):
    taken = [keras.Input((4,), dtype=each) for each in inputs]
    joined = [ops.cast(each, "float32") for each in taken]
    x = layers.Concatenate()(joined) if len(joined) > 1 else joined[0]
    x = layers.Dense(3, name="a")(x)
    base = keras.Model(taken, layers.Dense(1)(x))
    with pytest.raises(ValueError) as caught:
        e2e.modularize(base, {"a": kind()})
    for phrase in [kind.__name__, str(inputs), "Give augment="]:
        assert phrase in str(caught.value)

"""`Mixture`, `PredSim` and `InfoPro`: sums of other objectives."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e
from keras_e2e.objectives import (
    BarlowTwins,
    Batch,
    FeedbackAlignment,
    ForwardForward,
    InfoPro,
    Mixture,
    ModelSpec,
    Output,
    OutputSpec,
    Prediction,
    PredSim,
    Reconstruction,
    SimilarityMatching,
    SupervisedContrastive,
    VICReg,
    ViewContrast,
)

RNG = np.random.default_rng(0)
B, C = 6, 3
LABELS = np.array([0, 2, 0, 1, 1, 0])
WEIGHT = np.array([1.0, 0.0, 0.5, 2.0, 0.0, 1.5], "float32")


def some(*shape):
    return RNG.normal(size=shape).astype("float32")


def built(objective, activation, inputs=(None, 5), place=0, modules=2):
    output = OutputSpec("out", keras.KerasTensor((None, C)), keras.activations.softmax)
    source = keras.KerasTensor(inputs)
    spec = ModelSpec(source, [source], (output,), index=place, num_modules=modules)
    objective.build_for(keras.KerasTensor(activation), spec)
    return objective


def batch(x=None, sample_weight=None, views=None):
    loss = keras.losses.SparseCategoricalCrossentropy()
    output = Output("out", LABELS, sample_weight, loss)
    return Batch(x, (output,), None, sample_weight, x, views or {})


def value(objective, h, *args, **kwargs):
    return float(objective.compute_loss(h, batch(*args, **kwargs)))


def shuffle(objective):
    """Heads that start from zero would hide what they are given."""
    for v in objective.trainable_variables:
        v.assign(some(*v.shape))


# Sums


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weighed"])
def test_it_is_the_weighed_sum_of_its_parts(weight):
    mixture = built(Mixture({"sim": 0.5, "pred": 2, "reconstruction": 0.1}), (None, 7))
    shuffle(mixture)
    h, x = some(B, 7), some(B, 5)
    parts = [value(part, h, x, weight) for part in mixture.parts]
    assert min(parts) > 0
    expected = 0.5 * parts[0] + 2 * parts[1] + 0.1 * parts[2]
    np.testing.assert_allclose(value(mixture, h, x, weight), expected, rtol=1e-6)


def test_a_part_of_factor_zero_is_left_out():
    mixture = built(Mixture({"sim": 0.0, "reconstruction": 1.0}), (None, 7))
    sim, reconstruction = mixture.parts
    assert not sim.variables
    assert len(mixture.trainable_variables) == len(reconstruction.trainable_variables) > 0
    assert not mixture.requires_targets and not mixture.requires_labels
    h, x = some(B, 7), some(B, 5)
    assert value(mixture, h, x) == value(reconstruction, h, x)


def test_it_needs_what_its_parts_need():
    both = Mixture({"sim": 1, "intermediate_target": 1, "vicreg": 1})
    assert both.requires_targets and both.requires_labels
    outer = Mixture({Mixture({"intermediate_target": 1.0}): 1, "reconstruction": 1})
    assert outer.requires_labels and not outer.requires_targets


def test_a_mixture_may_hold_a_mixture():
    inner = Mixture({"sim": 3.0, "reconstruction": 1.0})
    outer = built(Mixture({inner: 0.5, "pred": 1.0}), (None, 7))
    h, x = some(B, 7), some(B, 5)
    expected = 0.5 * value(inner, h, x) + value(outer.parts[1], h, x)
    np.testing.assert_allclose(value(outer, h, x), expected, rtol=1e-6)


def test_each_part_sees_its_own_views():
    small, large = layers.GaussianNoise(0.1), layers.GaussianNoise(0.2)
    parts = {
        VICReg(small, projection_dim=4): 1.0,
        ViewContrast(large, projection_dim=4): 1.0,
        Reconstruction(): 1.0,
        Reconstruction(corrupt=large): 1.0,
    }
    mixture = built(Mixture(parts), (None, 7))
    h, x = some(B, 7), some(B, 5)
    keys = list(mixture.extra_inputs())
    assert len(keys) == 2
    views = {key: some(B, 7) for key in keys}
    expected = 0.0
    for part, key in zip(mixture.parts, [0, 1, None, 1], strict=True):
        own = {} if key is None else {keys[key]: views[keys[key]]}
        expected += value(part, h, x, views=own)
    np.testing.assert_allclose(value(mixture, h, x, views=views), expected, rtol=1e-6)


def test_parts_with_views_train_together():
    base = keras.Sequential(
        [keras.Input((5,)), layers.Dense(7, name="a"), layers.Dense(C, name="out")]
    )
    parts = {BarlowTwins(projection_dim=4): 1.0, ForwardForward(): 1.0}
    model = e2e.modularize(base, {"a": Mixture(parts)}, training_mode="local")
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = model.get_layer("a").kernel.numpy()
    assert np.isfinite(model.train_on_batch(some(B, 5), LABELS))
    assert (before != model.get_layer("a").kernel.numpy()).any()


# PredSim


@pytest.mark.parametrize("beta", [None, 0.3])
def test_predsim_is_mostly_sim(beta):
    objective = PredSim() if beta is None else PredSim(beta)
    beta = 0.99 if beta is None else beta
    built(objective, (None, 7))
    shuffle(objective)
    sim, pred = objective.parts
    assert type(sim) is SimilarityMatching and type(pred) is Prediction
    h = some(B, 7)
    expected = beta * value(sim, h) + (1 - beta) * value(pred, h)
    np.testing.assert_allclose(value(objective, h), expected, rtol=1e-6)


@pytest.mark.parametrize(("beta", "left"), [(0, Prediction), (1, SimilarityMatching)])
def test_predsim_may_be_one_of_both(beta, left):
    ((part, factor),) = PredSim(beta).counting
    assert type(part) is left and factor == 1.0


# InfoPro

# K: [(reconstruction, label) of each boundary], by hand from the factors in the authors'
# `comand.sh` for ResNet-32 on CIFAR-10 and `ratio = i / (K - 2)` in their `resnet.py`.
RAMPS = {
    1: [(5, 1)],
    2: [(5, 1)],
    3: [(6, 0), (1, 2)],
    4: [(6, 0), (3.5, 1), (1, 2)],
    5: [(6, 0), (13 / 3, 2 / 3), (8 / 3, 4 / 3), (1, 2)],
    7: [(5 - i, 2 * i / 5) for i in range(6)],
    8: [(5 - 5 * i / 6, i / 3) for i in range(7)],
    16: [(5 - 4.8 * i / 14, 0.05 + 0.45 * i / 14) for i in range(15)],
    20: [(5 - 4.8 * i / 18, 0.05 + 0.45 * i / 18) for i in range(19)],
}


@pytest.mark.parametrize("count", RAMPS)
def test_the_factors_of_infopro_ramp_from_the_first_boundary_to_the_last(count):
    found = [InfoPro().ramp(place, count) for place in range(max(count - 1, 1))]
    np.testing.assert_allclose(found, RAMPS[count], atol=1e-12)


def test_the_ramp_may_be_given():
    objective = InfoPro(reconstruction=(3, 1), label=(0, 4))
    found = [objective.ramp(place, 4) for place in range(3)]
    np.testing.assert_allclose(found, [(3, 0), (2, 2), (1, 4)])
    assert objective.ramp(0, 2) == (3, 0)
    one = InfoPro(label=(1, 1))
    assert one.ramp(0, 4) == (6, 1) and one.ramp(2, 4) == (1, 1)


@pytest.mark.parametrize("label_loss", ["contrast", "cross_entropy"])
@pytest.mark.parametrize(
    ("activation", "source", "std"),
    [
        ((4, 4, 6), (8, 8, 2), [0.5, 0.25]),
        ((7,), (5,), 0.5),
        ((7,), (4, 4, 1), 1.0),
    ],
    ids=["maps", "flat", "flat from an image"],
)
def test_infopro_by_its_formula(activation, source, std, label_loss):
    objective = InfoPro(label_loss, mean=0.5, std=std)
    built(objective, (None, *activation), (None, *source), place=1, modules=4)
    shuffle(objective)
    decoder, labeled = objective.parts
    h = some(B, *activation)
    image = RNG.uniform(size=(B, *source)).astype("float32")
    raw = np.asarray(decoder.network(h, training=True), "float64")
    # -log sigmoid(raw) = log(1 + exp(-raw)), and the rest likewise.
    cross_entropy = image * np.logaddexp(0, -raw) + (1 - image) * np.logaddexp(0, raw)
    expected = 3.5 * cross_entropy.mean() + value(labeled, h)
    found = value(objective, h, (image - 0.5) / np.float32(std))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    kind = {"contrast": SupervisedContrastive, "cross_entropy": Prediction}[label_loss]
    assert type(labeled) is kind
    assert labeled.head == ("conv1" if len(activation) > 1 else "mlp")


def test_infopro_at_each_boundary_of_a_model():
    names = "abc"
    model = keras.Sequential([keras.Input((4, 4, 2))])
    for name in names:
        model.add(layers.Conv2D(5, 3, padding="same", name=name))
    model.add(layers.Flatten())
    model.add(layers.Dense(C, activation="softmax", name="out"))
    model = e2e.modularize(model, dict.fromkeys(names, "infopro"), training_mode="local")
    factors = [m.objective.factors for m in model.modules[:-1]]
    assert factors == [(6.0, 0.0), (3.5, 1.0), (1.0, 2.0)]
    model.compile("sgd", "sparse_categorical_crossentropy")
    x = RNG.uniform(size=(B, 4, 4, 2))
    assert np.isfinite(model.train_on_batch(x, LABELS))


# What makes no sense


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Mixture({}), ["Mixture", "dict", "{}"]),
        (lambda: Mixture(["sim"]), ["Mixture", "dict", "['sim']"]),
        (lambda: Mixture({"sim": 0, "pred": 0.0}), ["'sim'", "'pred'", "above 0"]),
        (lambda: Mixture({"sim": 1, "pred": -0.5}), ["'pred'", "-0.5", "0 or larger"]),
        (lambda: Mixture({"sim": float("nan")}), ["'sim'", "nan", "finite"]),
        (lambda: Mixture({"sim": "0.5"}), ["'sim'", "'0.5'"]),
        (lambda: Mixture({"smi": 1}), ["'smi'", "'sim'"]),
        (
            lambda: Mixture({"sim": 1, FeedbackAlignment(): 1}),
            ["FeedbackAlignment", "signal", "alone"],
        ),
        (lambda: Mixture({"synthetic_gradient": 1}), ["SyntheticGradient", "alone"]),
        (lambda: Mixture({Prediction(weight=2): 1}), ["Prediction", "factor"]),
        (lambda: Mixture({Prediction(reach=2): 1}), ["Prediction", "reach", "whole"]),
        (lambda: PredSim(1.5), ["beta=1.5", "0 to 1"]),
        (lambda: PredSim(head="deep"), ["'deep'", "'linear'"]),
        (lambda: InfoPro("supcon"), ["'supcon'", "'contrast'", "'cross_entropy'"]),
    ],
)
def test_a_mixture_that_makes_no_sense_is_refused(make, said):
    with pytest.raises(ValueError) as caught:
        make()
    for phrase in said:
        assert phrase in str(caught.value)


def test_infopro_refuses_to_leave_a_module_without_a_loss():
    objective = InfoPro(reconstruction=(1, 0), label=(1, 0))
    with pytest.raises(ValueError, match=r"module 3 of 4.*`reconstruction` and `label`"):
        built(objective, (None, 7), place=2, modules=4)

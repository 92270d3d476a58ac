"""`InfoNCE`: contrastive prediction of later positions, against NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_e2e as e2e
from keras_e2e.objectives import Batch, InfoNCE, ModelSpec

RNG = np.random.default_rng(0)
B = 5
WEIGHT = np.array([1.0, 0.0, 0.5, 2.0, 0.0], "float32")


def some(*shape):
    return RNG.normal(size=shape).astype("float32")


def built(objective, *shape):
    source = keras.KerasTensor((None, 3))
    objective.build_for(keras.KerasTensor((None, *shape)), ModelSpec(source, [source], ()))
    return objective


def compute(objective, h, sample_weight=None):
    return objective.compute_loss(h, Batch(None, (), None, sample_weight, None))


@pytest.fixture
def draws(monkeypatch):
    """The numbers between 0 and 1 that were drawn."""
    drawn, uniform = [], keras.random.uniform

    def noted(*args, **kwargs):
        drawn.append(np.asarray(uniform(*args, **kwargs)))
        return drawn[-1]

    monkeypatch.setattr(keras.random, "uniform", noted)
    return drawn


def info_nce(h, kernels, draws, weight):
    """The mean cross-entropy of finding what stands `k` further on, over all `k`."""
    h = h.astype("float64")
    there, total = np.flatnonzero(weight), 0.0
    for k, (kernel, drawn) in enumerate(zip(kernels, draws, strict=True), start=1):
        later = h[:, k:]
        pool = later[there].reshape(-1, h.shape[-1])
        negatives = pool[(drawn * len(pool)).astype(int)]
        told = h[:, : h.shape[1] - k] @ kernel
        for i in there:
            missed = []
            for place in np.ndindex(*told.shape[1:-1]):
                right = told[i][place] @ later[i][place]
                scores = [right, *(negatives @ told[i][place])]
                missed.append(np.log(np.exp(scores).sum()) - right)
            total += weight[i] * np.mean(missed)
    return total / len(kernels) / len(h)


@pytest.mark.parametrize("weight", [np.ones(B), WEIGHT], ids=["", "weighed"])
@pytest.mark.parametrize(
    ("shape", "steps"),
    [((6, 4), 3), ((4, 3, 2), 2), ((3, 4), 5), ((3, 2, 2, 2), 1)],
    ids=str,
)
def test_it_is_what_the_paper_says(shape, steps, weight, draws):
    objective = built(InfoNCE(num_steps=steps, num_negatives=7, seed=1), *shape)
    kernels = [v.numpy() for v in objective.trainable_variables]
    assert len(kernels) == min(steps, shape[0] - 1)  # no farther than there are positions
    assert {k.shape for k in kernels} == {(shape[-1], shape[-1])}
    h = some(B, *shape)
    found = compute(objective, h, None if (weight == 1).all() else weight)
    assert [len(d) for d in draws] == [7] * len(kernels)
    np.testing.assert_allclose(found, info_nce(h, kernels, draws, weight), rtol=1e-4)


def test_where_nothing_is_told_apart_by_hand():
    objective = built(InfoNCE(num_steps=2, num_negatives=16), 4, 3)
    for v in objective.trainable_variables:
        v.assign(np.zeros(v.shape))
    np.testing.assert_allclose(compute(objective, some(B, 4, 3)), np.log(17), rtol=1e-6)


def test_the_negatives_are_new_in_each_step_and_those_of_the_seed():
    h = some(B, 6, 4)
    runs = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        objective = built(InfoNCE(seed=7), 6, 4)
        runs.append([float(compute(objective, h)) for _ in range(3)])
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 3


def test_every_position_is_drawn(draws):
    """The predictions are told from each later position of each example."""
    objective = built(InfoNCE(num_steps=1, num_negatives=400), 3, 2)
    h = tf.constant(some(B, 3, 2))
    with tf.GradientTape() as tape:
        tape.watch(h)
        loss = compute(objective, h, np.float32([0, 0, 0, 1, 0]))
    touched = tape.gradient(loss, h).numpy().any(-1)
    # Only one example counts: it is its own and only source of negatives.
    assert touched.tolist() == [[False] * 3] * 3 + [[True] * 3] + [[False] * 3]
    compute(objective, some(B, 3, 2))
    assert set((draws[-1] * 2 * B).astype(int)) == set(range(2 * B))


@pytest.mark.parametrize("case", ["one example", "zeros", "ones", "large", "no weight"])
def test_its_gradients_are_finite(case):
    objective = built(InfoNCE(), 4, 3, 2)
    h = {
        "one example": some(1, 4, 3, 2),
        "zeros": np.zeros((B, 4, 3, 2), "float32"),
        "ones": np.ones((B, 4, 3, 2), "float32"),
        "large": 1e3 * some(B, 4, 3, 2),
        "no weight": some(B, 4, 3, 2),
    }[case]
    h, weight = tf.constant(h), np.zeros(B, "float32") if case == "no weight" else None
    with tf.GradientTape() as tape:
        tape.watch(h)
        loss = compute(objective, h, weight)
    found = tape.gradient(loss, [h, *[v.value for v in objective.trainable_variables]])
    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in found)
    if case == "no weight":
        assert not any(g.numpy().any() for g in found)


def test_a_module_learns_what_stays_the_same():
    x = np.repeat(some(64, 1, 4), 6, axis=1) + 0.1 * some(64, 6, 4)
    base = keras.Sequential(
        [
            keras.Input((6, 4)),
            layers.Conv1D(4, 1, name="a"),
            layers.Flatten(),
            layers.Dense(1, name="out"),
        ]
    )
    model = e2e.modularize(base, {"a": "infonce"}, training_mode="sequential:a")
    model.compile(keras.optimizers.Adam(0.05))
    history = model.fit(x, epochs=8, batch_size=16, verbose=0).history["loss"]
    assert history[-1] < 0.7 * history[0]


@pytest.mark.parametrize("shape", [(7,), (1, 7), (1, 5, 7)], ids=str)
def test_an_activation_without_later_positions_is_refused(shape):
    with pytest.raises(ValueError) as caught:
        built(InfoNCE(), *shape)
    for phrase in ["InfoNCE", "positions", str((None, *shape)), "ViewContrast"]:
        assert phrase in str(caught.value)


@pytest.mark.parametrize(
    "arguments", [{"num_steps": 0}, {"num_negatives": 0}, {"num_steps": 1.5}]
)
def test_settings_that_make_no_sense_are_refused(arguments):
    ((name, given),) = arguments.items()
    with pytest.raises(
        ValueError, match=rf"InfoNCE: {name}={given}: .*integer of at least 1"
    ):
        InfoNCE(**arguments)

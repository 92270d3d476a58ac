"""Stocks: what is hidden, what is seen, and the noise of the two gradients."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_e2e as e2e
from keras_e2e.experiments import tasks


@pytest.fixture(scope="module")
def task():
    return tasks.stocks(k=20, d=30, n=6000, seed=1)


def test_the_hidden_stock_always_rises_and_the_others_at_random(task):
    x, z, hidden = task.train.x, task.train.y["returns"], task.train.labels["portfolio"]
    assert z.dtype == np.int8 and set(np.unique(z)) == {-1, 1}
    assert (z[np.arange(len(z)), hidden] == 1).all()
    others = z[np.arange(20)[None, :] != hidden[:, None]]
    assert others.mean() == pytest.approx(0.0, abs=0.02)
    for situation in range(30):  # one hidden stock for each situation
        assert len(set(hidden[x == situation])) == 1


def test_the_test_holds_every_situation_with_the_expected_returns(task):
    assert task.test.x.tolist() == list(range(30))
    hidden = task.test.labels["portfolio"]
    np.testing.assert_array_equal(task.test.y["returns"], np.eye(20)[hidden])
    for x, y in zip(task.train.x, task.train.labels["portfolio"], strict=True):
        assert hidden[x] == y


def test_both_gradients_have_one_mean_and_the_variance_of_one_is_k_times_larger(task):
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(20))
    hidden = 3
    z = 2.0 * rng.integers(2, size=(40_000, 20)) - 1
    z[:, hidden] = 1

    def gradient(y):  # of negative_return by the scores under the softmax
        return -p * (y - (y * p).sum(axis=-1, keepdims=True))

    known, seen = gradient(np.eye(20)[hidden]), gradient(z)
    np.testing.assert_allclose(seen.mean(axis=0), known, atol=0.01)
    noise = gradient(2.0 * rng.integers(2, size=(40_000, 20)) - 1).var(axis=0).sum()
    assert seen.var(axis=0).sum() == pytest.approx(noise, rel=0.2)
    uniform = np.full(20, 1 / 20)
    p = uniform
    signal = (gradient(np.eye(20)[hidden]) ** 2).sum()
    ratio = gradient(z).var(axis=0).sum() / signal
    assert 0.8 * 20 < ratio < 1.2 * 20


def test_losses_and_the_metric_by_hand():
    z, p = np.array([[1, -1, 1], [-1, -1, 1]], "int8"), np.array([[0.5, 0.2, 0.3]] * 2)
    np.testing.assert_allclose(tasks.negative_return(z, p), [-0.6, 0.4])
    np.testing.assert_array_equal(tasks.chosen_return(z, p), [1.0, -1.0])
    loss = tasks.stocks(3, 5, 10).cuts["portfolio"].loss
    np.testing.assert_allclose(
        loss(np.array([0, 2]), ops.convert_to_tensor(p)), [-0.5, -0.3]
    )
    for kind, function in (
        (keras.losses, tasks.negative_return),
        (keras.losses, loss),
        (keras.metrics, tasks.chosen_return),
    ):
        assert kind.deserialize(kind.serialize(function)) is function


@pytest.mark.parametrize("mode", ["end_to_end", "local"])
def test_the_hidden_stock_is_found(task, mode):
    cuts = {n: e2e.objectives.IntermediateTarget(cut.loss) for n, cut in task.cuts.items()}
    model = e2e.modularize(task.build(0), cuts)
    model.compile(
        keras.optimizers.Adam(0.1), task.loss, metrics=task.metrics, steps_per_execution=50
    )
    model.training_mode = mode
    batches = task.train.batches(100, labels=mode == "local")
    model.fit(batches, steps_per_epoch=150, epochs=1, verbose=0)
    found = model.evaluate(task.test.x, task.test.y, verbose=0, return_dict=True)
    assert found["chosen_return"] > 0.8 > task.success


def test_weights_are_those_of_the_seed(task):
    one, other = (task.build(seed).get_weights()[0] for seed in (0, 1))
    np.testing.assert_array_equal(one, task.build(0).get_weights()[0])
    assert one.shape == (30, 20) and (one != other).any()
    # Of a normal distribution cut off at two standard deviations .88 of them is left.
    assert one.std() == pytest.approx(0.88 * 30**-0.5, rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"k": 1}, "k=1"), ({"d": 0}, "d=0"), ({"n": 0}, "n=0"), ({"seed": -1}, "seed=-1")],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tasks.stocks(**arguments)

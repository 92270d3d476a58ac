"""Policy losses and metrics, against NumPy, finite differences and each other."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_e2e import rewards

RNG = np.random.default_rng(1)
KINDS = ["categorical", "gaussian"]


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def log_prob(kind, outputs, actions):
    if kind == "categorical":
        index = actions[..., 0].astype(int)
        return np.take_along_axis(log_softmax(outputs), index[..., None], -1)[..., 0]
    mean, log_std = np.split(outputs, 2, axis=-1)
    density = np.exp(-0.5 * ((actions - mean) / np.exp(log_std)) ** 2)
    return np.log(density / (np.exp(log_std) * np.sqrt(2 * np.pi))).sum(axis=-1)


def entropy(kind, outputs):
    if kind == "categorical":
        logs = log_softmax(outputs)
        return -(np.exp(logs) * logs).sum(axis=-1)
    log_std = np.split(outputs, 2, axis=-1)[1]
    return (0.5 * np.log(2 * np.pi * np.e * np.exp(log_std) ** 2)).sum(axis=-1)


def ppo(kind, outputs, actions, advantages, old, clip, bonus):
    ratio = np.exp(log_prob(kind, outputs, actions) - old)
    kept = np.minimum(ratio * advantages, np.clip(ratio, 1 - clip, 1 + clip) * advantages)
    return -kept - bonus * entropy(kind, outputs)


def examples(kind, shape=(12,)):
    """Outputs of a policy, what it did, what that was worth, how likely it was."""
    outputs = RNG.normal(size=(*shape, 4))
    if kind == "categorical":
        actions = RNG.integers(4, size=(*shape, 1)).astype(float)
    else:
        actions = RNG.normal(size=(*shape, 2))
    advantages = RNG.normal(size=shape)
    old = log_prob(kind, outputs, actions) + RNG.normal(scale=0.4, size=shape)
    return outputs, actions, advantages, old


def packed(actions, advantages, old):
    return np.concatenate([actions, advantages[..., None], old[..., None]], axis=-1)


@pytest.mark.parametrize("shape", [(12,), (3, 5)])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_as_numpy_says(kind, shape):
    outputs, *rest = examples(kind, shape)
    actions, advantages, _ = rest
    options = {"distribution": kind, "reduction": "none", "dtype": "float64"}
    found = rewards.PPO(0.1, entropy=0.3, **options)(packed(*rest), outputs)
    np.testing.assert_allclose(found, ppo(kind, outputs, *rest, 0.1, 0.3), rtol=1e-9)
    found = rewards.PolicyGradient(entropy=0.3, **options)(packed(*rest), outputs)
    plain = -advantages * log_prob(kind, outputs, actions) - 0.3 * entropy(kind, outputs)
    np.testing.assert_allclose(found, plain, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_metrics_are_as_numpy_says(kind):
    outputs, *rest = examples(kind)
    actions, _, old = rest
    moved = log_prob(kind, outputs, actions) - old
    expected = {
        rewards.PolicyEntropy: entropy(kind, outputs),
        rewards.ApproximateKL: np.exp(moved) - 1 - moved,
        rewards.ClipFraction: np.abs(np.exp(moved) - 1) > 0.2,
    }
    for metric, values in expected.items():
        one = metric(distribution=kind)
        one.update_state(packed(*rest), outputs)
        assert float(one.result()) == pytest.approx(values.mean(), rel=1e-4)
    assert 0 < expected[rewards.ClipFraction].mean() < 1


def gradient(loss, y_true, outputs):
    outputs = tf.constant(outputs, "float64")
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        value = loss(y_true, outputs)
    return np.asarray(tape.gradient(value, outputs))


@pytest.mark.parametrize("loss", [rewards.PPO, rewards.PolicyGradient])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_differences(kind, loss):
    outputs, *rest = examples(kind, (6,))
    one = loss(distribution=kind, entropy=0.2, dtype="float64")
    found = gradient(one, packed(*rest), outputs)
    expected = np.zeros_like(outputs)
    for place in np.ndindex(outputs.shape):
        step = np.zeros_like(outputs)
        step[place] = 1e-6
        up, down = (float(one(packed(*rest), outputs + s)) for s in (step, -step))
        expected[place] = (up - down) / 2e-6
    np.testing.assert_allclose(found, expected, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_ppo_is_the_policy_gradient_where_the_policy_has_not_moved(kind):
    outputs, actions, advantages, _ = examples(kind)
    y_true = packed(actions, advantages, log_prob(kind, outputs, actions))
    ours, plain = (
        gradient(loss(distribution=kind, entropy=0.1, dtype="float64"), y_true, outputs)
        for loss in (rewards.PPO, rewards.PolicyGradient)
    )
    np.testing.assert_allclose(ours, plain, atol=1e-12)


@pytest.mark.parametrize(("advantage", "clipped"), [(1.0, True), (-1.0, False)])
def test_what_has_moved_too_far_the_right_way_has_no_gradient(advantage, clipped):
    y_true = np.array([[0.0, advantage, np.log(0.25)]])  # twice as likely now
    found = gradient(rewards.PPO(dtype="float64"), y_true, np.zeros((1, 2)))
    assert bool((found == 0).all()) is clipped


def test_a_policy_that_is_sure_is_finite():
    logits = np.array([[1e4, 0.0], [0.0, 1e4]])
    y_true = np.array([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    for kind, outputs in (("categorical", logits), ("gaussian", -logits)):
        loss = rewards.PolicyGradient(kind, entropy=0.1, dtype="float64")
        assert np.isfinite(gradient(loss, y_true, outputs)).all()


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_a_ratio_larger_than_any_float_has_a_finite_gradient(advantage):
    """A density grows by more than that where a policy has become sure."""
    y_true = tf.constant([[0.0, advantage, -80.0]])
    outputs = tf.Variable([[0.0, -19.0]])
    with tf.GradientTape() as tape:
        value = rewards.PPO(distribution="gaussian")(y_true, outputs)
    assert np.isfinite(value) and np.isfinite(tape.gradient(value, outputs)).all()


def test_rewards_of_zero_move_nothing_but_by_entropy():
    outputs, actions, _, old = examples("categorical")
    y_true = packed(actions, np.zeros(12), old)
    assert not gradient(rewards.PPO(dtype="float64"), y_true, outputs).any()


@pytest.mark.parametrize(
    "made",
    [
        rewards.PPO(0.3, "gaussian", 0.01, name="mine"),
        rewards.PolicyGradient("gaussian", 0.02, reduction="sum"),
    ],
)
def test_losses_are_saved_and_loaded(made):
    again = keras.losses.deserialize(keras.losses.serialize(made))
    assert again.get_config() == made.get_config()


@pytest.mark.parametrize(
    "made",
    [
        rewards.PolicyEntropy("gaussian", name="mine"),
        rewards.ApproximateKL(),
        rewards.ClipFraction(0.3, "gaussian"),
    ],
)
def test_metrics_are_saved_and_loaded(made):
    again = keras.metrics.deserialize(keras.metrics.serialize(made))
    assert again.get_config() == made.get_config()


def test_what_does_not_fit_is_refused():
    y_true, outputs = ops.zeros((2, 4)), ops.zeros((2, 3))
    with pytest.raises(ValueError, match=r"categorical.*actions of 2 numbers"):
        rewards.PPO()(y_true, outputs)
    with pytest.raises(ValueError, match=r"gaussian.*3 outputs for actions of 2 numbers"):
        rewards.PPO(distribution="gaussian")(y_true, outputs)
    with pytest.raises(ValueError, match="Did you mean 'gaussian'"):
        rewards.PPO(distribution="gausian")
    with pytest.raises(ValueError, match="clip=0"):
        rewards.PPO(clip=0)
    with pytest.raises(ValueError, match="entropy=-1"):
        rewards.PolicyGradient(entropy=-1)

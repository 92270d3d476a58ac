"""Generalized advantages, against their formula and by hand."""

import numpy as np
import pytest

from keras_e2e.rewards import generalized_advantages

NEVER = np.zeros((3, 1), bool)


def by_the_formula(rewards, values, next_values, terminated, truncated, discount, decay):
    """The sum over the steps to come, each step by itself."""
    found = np.zeros(rewards.shape)
    for step, env in np.ndindex(rewards.shape):
        for later in range(step, len(rewards)):
            after = 0.0 if terminated[later, env] else next_values[later, env]
            delta = rewards[later, env] + discount * after - values[later, env]
            found[step, env] += (discount * decay) ** (later - step) * delta
            if terminated[later, env] or truncated[later, env]:
                break
    return found


@pytest.mark.parametrize("numbers", [(0.99, 0.95), (1, 1), (0.9, 0), (0, 0.5)])
def test_any_arrays_are_as_the_formula_says(numbers):
    rng = np.random.default_rng(3)
    rewards, values, after = rng.normal(size=(3, 20, 4))
    terminated, truncated = rng.random((2, 20, 4)) < 0.2
    arrays = (rewards, values, after, terminated, truncated)
    found = generalized_advantages(*arrays, *numbers)
    np.testing.assert_allclose(found, by_the_formula(*arrays, *numbers), atol=1e-12)


def column(*numbers):
    return np.array(numbers, float)[:, None]


def test_an_episode_that_terminates_inside_is_worth_nothing_afterwards():
    last = column(0, 1, 0).astype(bool)
    found = generalized_advantages(
        column(1, 2, 4), column(10, 20, 30), column(20, 30, 40), last, NEVER, 0.5, 1.0
    )
    # 4 + .5 * 40 - 30 = -6; 2 - 20 = -18; 1 + .5 * 20 - 10 = 1, and half of -18.
    np.testing.assert_allclose(found.ravel(), [1 - 9, -18, -6])


def test_an_episode_that_is_cut_off_goes_on_in_its_value():
    last = column(0, 1, 0).astype(bool)
    found = generalized_advantages(
        column(1, 2, 4), column(10, 20, 30), column(20, 100, 40), NEVER, last, 0.5, 1.0
    )
    # The second step is 2 + .5 * 100 - 20 = 32; the third one does not flow into it.
    np.testing.assert_allclose(found.ravel(), [1 + 16, 32, -6])


def test_episodes_of_one_step_are_rewards_less_values():
    every = np.ones((3, 1), bool)
    found = generalized_advantages(
        column(1, 2, 3), column(5, 5, 5), column(9, 9, 9), every, NEVER
    )
    np.testing.assert_allclose(found.ravel(), [-4, -3, -2])


def test_without_rewards_and_values_there_is_nothing():
    zeros = np.zeros((3, 1))
    found = generalized_advantages(zeros, zeros, zeros, NEVER, NEVER)
    assert found.dtype == np.float64 and not found.any()


def test_no_steps_have_no_advantages():
    empty = np.zeros((0, 2))
    assert generalized_advantages(*[empty] * 5).shape == (0, 2)


def test_arrays_of_other_shapes_are_refused():
    zeros = np.zeros((3, 1))
    with pytest.raises(ValueError, match=r"one shape.*\(3, 1\), \(3,\)"):
        generalized_advantages(zeros, zeros[:, 0], zeros, NEVER, NEVER)
    with pytest.raises(ValueError, match=r"discount=1\.5"):
        generalized_advantages(zeros, zeros, zeros, NEVER, NEVER, discount=1.5)

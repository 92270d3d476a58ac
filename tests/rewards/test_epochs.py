"""Epochs by hand and of validation, and environments that several use."""

import numpy as np
import pytest

import keras_e2e as e2e
from tests.rewards.worlds import compiled, network, small, vector


def moved_by_hand(model, x, y):
    for variable in model.trainable_variables:
        variable.assign(variable * 0.9)


def moved_by_the_model(model, x, y):
    model.train_on_batch(x, y)


@pytest.mark.parametrize("move", [moved_by_hand, moved_by_the_model])
@pytest.mark.parametrize("breaks_off", [False, True])
def test_each_loop_by_hand_is_a_rollout_of_the_present_policy(move, breaks_off):
    """Whoever moves the weights, and where the loop ends early: by a KL divergence, say."""
    model = compiled(network(normalize=True))
    rollouts = small(model, passes=2)
    for epoch in (1, 2):
        for index, (x, y) in enumerate(rollouts):
            move(model, x, y)
            if breaks_off and index == 1:
                break
        assert rollouts.env_steps == 16 * epoch
        assert float(model.get_layer("scale").count) == 16 * epoch
    for _ in rollouts:  # looks at it alone
        pass
    assert float(model.get_layer("scale").count) == 32


def test_a_loop_that_was_left_open_does_not_end_a_later_epoch():
    model = compiled(network())
    rollouts = small(model)
    left = iter(rollouts)
    next(left)
    later = iter(rollouts)
    next(later)
    left.close()
    assert next(later)[0].any()


def test_weights_that_are_set_make_a_rollout_that_was_looked_at_stale():
    model = compiled(network())
    rollouts = small(model, passes=4)
    for steps, weights in ((16, 0.0), (32, 1.0)):
        model.set_weights([weight + weights for weight in model.get_weights()])
        for _ in range(2):  # looks at the same one while the policy is the same
            model.evaluate(rollouts, steps=1, verbose=0)
        assert rollouts.env_steps == steps


def places(rollouts):
    """(environment's episode, step) of each step, in order."""
    x = next(iter(rollouts))[0]
    return sorted(map(tuple, np.rint(10 * x).astype(int).tolist()))


def one_world(model, envs=None, **options):
    envs = envs or vector(num_envs=1, script=((5, "terminated"),))
    return small(model, envs, **options)


def test_environments_that_another_used_in_between_begin_anew():
    """What they showed last is not what they are in."""
    model = compiled(network())
    rollouts = one_world(model)
    assert places(rollouts)[-1] == (1, 2)
    e2e.rewards.evaluate_policy(model, rollouts.envs, episodes=1)
    first = places(rollouts)
    begun = first[0][0]
    assert first == [(begun, t) for t in range(5)] + [(begun + 1, t) for t in range(3)]
    other = one_world(model, rollouts.envs)
    for _ in range(2):
        for one in (other, rollouts):
            assert [time for _, time in places(one)] == [0, 1, 2, 3, 4, 0, 1, 2]


def test_episodes_of_validation_go_on_from_epoch_to_epoch():
    """Else only those that are shorter than a rollout would ever end."""
    model = compiled(network())
    script = ((20, "terminated"),)
    validation = small(model, vector(script=script), seed=1)
    model.fit(small(model), validation_data=validation, epochs=3, verbose=0)
    assert validation.episode_length == 20 and validation.episodes == 2


def test_returns_of_another_model_are_refused():
    rollouts = small(network())
    model = compiled(e2e.modularize(rollouts.model, ["code"]))
    returns = e2e.callbacks.EpisodeReturns(rollouts)
    with pytest.raises(ValueError, match=r"another one.*of what modularize returned"):
        model.fit(rollouts, verbose=0, callbacks=[returns])

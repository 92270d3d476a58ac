"""Policies with a memory: its states in acting, and the sequences it is trained on."""

import keras
import numpy as np
import pytest

import keras_e2e as e2e
from tests.rewards.worlds import (
    SCRIPT,
    compiled,
    remembering,
    small,
    vector,
)

CELLS = ["gru", "lstm"]
WAYS = ["same", "next"]


def with_memory(cell="gru", mode="same", num_envs=1, **options):
    """A policy with a memory and its rollouts of 24 steps, one batch an epoch."""
    model, states = remembering(cell)
    options = {"steps": 24, "batch_size": 24 * num_envs, "sequence_length": 4, **options}
    compiled(model, **options.pop("compile", {}))
    envs = vector(num_envs=num_envs, mode=mode, script=options.pop("script", SCRIPT))
    return model, small(model, envs, states=states, **options)


@pytest.mark.parametrize("mode", WAYS)
@pytest.mark.parametrize("cell", CELLS)
def test_sequences_do_not_cross_the_end_of_an_episode(cell, mode):
    _, rollouts = with_memory(cell, mode, script=((6, "terminated"), (3, "truncated")))
    ((x, y, weight),) = list(rollouts)
    seen = np.rint(10 * x["observation"]).astype(int)
    found = []
    for row, counts in zip(seen, weight > 0, strict=True):
        # What has no weight stands behind what has one.
        assert list(counts) == sorted(counts, reverse=True)
        episodes, times = row[counts].T if counts.any() else ([], [])
        assert len(set(episodes)) <= 1
        assert np.all(np.diff(times) == 1)
        found += zip(episodes, times, strict=True)
    # 6 and 3 steps in turn; an episode of 6 is a stretch of 4 and one of 2.
    wanted = [(e, t) for e in range(20) for t in range(6 if e % 2 == 0 else 3)]
    assert sorted(found) == wanted[: len(found)]
    assert len(found) == rollouts.env_steps
    assert weight.mean() == pytest.approx(1)
    assert y["policy"].shape == (*weight.shape, 3) and y["value"].shape == (
        *weight.shape,
        1,
    )


@pytest.mark.parametrize("mode", WAYS)
@pytest.mark.parametrize("cell", CELLS)
def test_states_are_carried_within_an_episode_and_zero_where_one_begins(cell, mode):
    model, rollouts = with_memory(cell, mode, script=((6, "terminated"), (3, "truncated")))
    ((x, _, weight),) = list(rollouts)
    names = [name for name in x if name != "observation"]
    assert len(names) == (1 if cell == "gru" else 2)
    begins, later = 0, 0
    for index in np.flatnonzero(weight[:, 0] > 0):
        episode, time = np.rint(10 * x["observation"][index, 0]).astype(int)
        # What the memory holds after the steps of the episode so far.
        seen = np.array([[[episode, t] for t in range(time)]], "float32") / 10
        given = {name: np.zeros((1, 3), "float32") for name in names}
        if time:
            found = model.predict_on_batch({"observation": seen, **given})
            given = {name: found[f"{name}_after"] for name in names}
        for name in names:
            np.testing.assert_allclose(x[name][[index]], given[name], atol=1e-6)
        begins, later = begins + (time == 0), later + (time > 0)
    assert begins > 2 and later > 1


@pytest.mark.parametrize(("cell", "mode"), [*zip(CELLS, WAYS, strict=True)])
def test_before_the_first_step_the_policy_that_learns_is_the_one_that_acted(cell, mode):
    loss = {"policy": e2e.rewards.PPO(entropy=0.01), "value": "mse"}
    metrics = {"policy": [e2e.rewards.ApproximateKL()]}
    model, rollouts = with_memory(
        cell, mode, num_envs=2, compile={"loss": loss, "weighted_metrics": metrics}
    )
    # Other weights than the first ones, and states that come from the last rollout.
    model.fit(rollouts, epochs=2, verbose=0)
    found = model.evaluate(rollouts, verbose=0, return_dict=True)
    assert abs(found["policy_kl"]) < 1e-6
    ((x, y, weight),) = list(rollouts)
    logits = keras.ops.log_softmax(model.predict_on_batch(x)["policy"])
    chosen = y["policy"][..., :1].astype(int)
    logs = np.take_along_axis(np.asarray(logits), chosen, -1)[..., 0]
    np.testing.assert_allclose(
        logs[weight > 0], y["policy"][..., -1][weight > 0], atol=1e-5
    )


def test_what_fills_up_a_sequence_trains_nothing():
    model, rollouts = with_memory(mode="next", compile={"optimizer": "sgd"})
    ((x, y, weight),) = list(rollouts)
    assert (weight == 0).any()
    before = model.get_weights()
    model.train_on_batch(x, y, weight)
    after = model.get_weights()
    model.set_weights(before)
    nothing = weight == 0
    spoiled = {**y, "value": np.where(nothing[..., None], 1e3, y["value"])}
    spoiled["policy"] = np.where(nothing[..., None], [0, 1e3, 0], y["policy"])
    model.train_on_batch(x, spoiled, weight)
    for ours, theirs in zip(model.get_weights(), after, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_batches_are_of_few_sizes():
    """Each is compiled anew under XLA."""
    _, rollouts = with_memory(num_envs=4, batch_size=16, sequence_length=4, passes=5)
    sizes = {len(weight) for *_, weight in rollouts}
    assert len(sizes) <= 2 and all(size % 4 == 0 for size in sizes)


def test_the_states_of_a_modular_model_are_handed_on():
    model, states = remembering()
    model = compiled(e2e.modularize(model, ["code"]))
    rollouts = small(model, vector(mode="next"), states=states, sequence_length=4)
    for mode in ("end_to_end", "local"):  # the state, an output without a loss, has no head
        model.training_mode = mode
        model.fit(rollouts, epochs=1, verbose=0)
    found = e2e.rewards.evaluate_policy(model, vector(), episodes=2, states=states)
    assert len(found.returns) == 2


def test_states_that_do_not_fit_are_refused():
    model, states = remembering()
    with pytest.raises(ValueError, match=r"states=.*all inputs of the model but one"):
        small(model, states={"other": "state_after"})
    with pytest.raises(ValueError, match=r"no output 'other'.*'state_after'"):
        small(compiled(model), states={"state": "other"}, sequence_length=4)[0]
    with pytest.raises(ValueError, match=r"sequence_length=3 does not divide batch_size=8"):
        small(model, states=states, sequence_length=3)
    plain = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="sequence_length=4 is for models with a memory"):
        small(plain, sequence_length=4)

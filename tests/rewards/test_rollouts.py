"""What `Rollouts` yields of scripted episodes, whichever way they begin anew."""

import gymnasium
import keras
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import keras_e2e as e2e
from tests.rewards.worlds import (
    SCRIPT,
    InParts,
    Real,
    Scripted,
    compiled,
    network,
    small,
    vector,
    weights_of,
)


def sure(model):
    """The policy takes action 1 whatever it sees; its value is random."""
    model.get_layer("policy").set_weights([np.zeros((4, 2)), np.array([0.0, 50.0])])
    return model


def one_batch(rollouts):
    """A rollout as one batch: x, y and weights, which are ones where there are none."""
    (found,) = list(rollouts)
    x, y, *weight = found
    return x, y, weight[0] if weight else np.ones(len(y["policy"]))


def all_steps(model, envs, **options):
    options = {"steps": 24, "batch_size": 24 * envs.num_envs, **options}
    options = {"normalize_advantages": False, **options}
    return one_batch(small(model, envs, **options))


def by_step(x, y, weight):
    """From (episode, step) to its advantage, return and weight, of steps that count."""
    places = np.rint(10 * x).astype(int)
    return {
        tuple(place): (row[-2], value)
        for place, row, (value,), w in zip(
            places, y["policy"], y["value"], weight, strict=True
        )
        if w
    }


def expected(model, episode, discount=0.9, decay=0.8):
    """Advantage and return of each step of an episode, by hand."""
    length, kind = SCRIPT[episode % len(SCRIPT)]
    seen = np.array([[episode, t] for t in range(length + 1)], "float32") / 10
    values = model.predict_on_batch(seen)["value"].ravel()
    advantage, found = 0.0, {}
    for step in reversed(range(length)):
        ends = step == length - 1 and kind == "terminated"
        after = 0.0 if ends else discount * values[step + 1]
        delta = (step + 1) + 10 + after - values[step]
        advantage = delta + discount * decay * advantage
        found[episode, step] = advantage, advantage + values[step]
    return found


@pytest.mark.parametrize("mode", ["same", "next"])
def test_each_step_has_the_advantage_of_its_episode(mode):
    model = compiled(sure(network()))
    envs = vector(num_envs=1, mode=mode)
    batch = all_steps(model, envs, discount=0.9, gae_lambda=0.8)
    found = by_step(*batch)
    # The last episode may be unfinished.
    episodes = range(max(episode for episode, _ in found))
    assert len(episodes) >= 8
    for episode in episodes:
        for place, numbers in expected(model, episode).items():
            np.testing.assert_allclose(found[place], numbers, rtol=1e-5)
    assert batch[2].mean() == pytest.approx(1.0)
    assert (batch[2] == 0).any() == (mode == "next")


@pytest.mark.parametrize("mode", ["same", "next"])
def test_the_end_of_a_rollout_is_no_end_of_an_episode(mode):
    model = compiled(sure(network()))
    envs = vector(num_envs=1, mode=mode, script=((100, "terminated"),))
    x, y, _ = all_steps(model, envs, discount=0.9, gae_lambda=0.0, steps=4, batch_size=4)
    order = np.argsort(x[:, 1])
    values = model.predict_on_batch(np.array([[0, t] for t in range(5)], "float32") / 10)
    value = values["value"].ravel()
    deltas = np.arange(1, 5) + 10 + 0.9 * value[1:] - value[:-1]
    np.testing.assert_allclose(y["policy"][order, -2], deltas, rtol=1e-5)


@pytest.mark.parametrize("mode", ["same", "next"])
def test_observations_may_be_a_dict(mode):
    inputs = {
        "episode": keras.Input((1,), name="episode"),
        "time": keras.Input((), dtype="int32", name="time"),
    }
    time = keras.layers.Embedding(100, 2)(inputs["time"])
    joined = keras.layers.Concatenate()([inputs["episode"], time])
    heads = {
        "policy": keras.layers.Dense(2)(joined),
        "value": keras.layers.Dense(1)(joined),
    }
    model = compiled(keras.Model(inputs, heads))
    envs = vector(InParts, mode=mode)
    x, y, weight = all_steps(model, envs)
    assert set(x) == {"episode", "time"} and x["time"].dtype.kind == "i"
    # A cut-off step is bootstrapped from its own end: one step of reward 1 or 11.
    alone = np.flatnonzero(
        (np.rint(10 * x["episode"][:, 0]) % 4 == 3) & (x["time"] == 0) & (weight > 0)
    )
    row = alone[0]
    ends = {"episode": x["episode"][[row]], "time": np.array([1])}
    value = model.predict_on_batch(ends)["value"][0, 0]
    reward = 1 + 10 * y["policy"][row, 0]
    np.testing.assert_allclose(y["value"][row, 0], reward + 0.99 * value, rtol=1e-5)
    model.fit(small(model, vector(InParts, mode=mode)), verbose=0)


def test_log_probabilities_are_those_of_the_model():
    model = compiled(network())
    x, y, _ = all_steps(model, vector())
    logits = model.predict_on_batch(x)["policy"]
    logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    actions = y["policy"][:, 0].astype(int)
    assert set(actions) == {0, 1}
    np.testing.assert_allclose(
        y["policy"][:, -1], np.take_along_axis(logs, actions[:, None], 1)[:, 0], atol=1e-5
    )


def test_each_pass_takes_every_step_once_and_normalizes_its_batches():
    model = compiled(network())
    rollouts = small(model, steps=8, passes=3, batch_size=4)
    batches = list(rollouts)
    assert len(batches) == rollouts.num_batches == 12
    passes = [np.concatenate([x for x, _ in batches[i : i + 4]]) for i in (0, 4, 8)]
    ordered = [np.sort(rows.view("f4,f4").ravel()) for rows in passes]
    np.testing.assert_array_equal(ordered[0], ordered[1])
    np.testing.assert_array_equal(ordered[0], ordered[2])
    assert not np.array_equal(passes[0], passes[1])
    for _, y in batches:
        advantages = y["policy"][:, -2]
        assert abs(advantages.mean()) < 1e-5
        assert advantages.std(ddof=1) == pytest.approx(1, abs=1e-4)


def test_advantages_that_are_all_the_same_are_not_blown_up():
    model = compiled(network("single"), e2e.rewards.PPO())
    envs = vector(script=((1, "terminated"),), reward=7.0)
    ((_, y), *_) = list(small(model, envs))
    assert np.abs(y[:, -2]).max() < 1e-5


def test_numbers_out_of_a_box_are_cut_off_for_the_environment_alone():
    observation = keras.Input((2,))
    wide = keras.layers.Dense(2, kernel_initializer="zeros")(observation)
    outputs = {"policy": e2e.rewards.GaussianPolicy(2.0)(wide)}
    loss = {"policy": e2e.rewards.PPO(distribution="gaussian")}
    model = compiled(keras.Model(observation, outputs), loss)
    taken = []

    class Noted(Real):
        def step(self, action):
            taken.append(action)
            return super().step(action)

    _, y, _ = all_steps(model, vector(Noted))
    assert np.abs(y["policy"][:, :2]).max() > 2
    assert np.abs(taken).max() == 1
    model.fit(small(model, vector(Real)), verbose=0)


@pytest.mark.parametrize("start", [0, 5])
def test_a_discrete_space_may_start_anywhere(start):
    class Shifted(Scripted):
        action_space = gymnasium.spaces.Discrete(2, start=start)

        def step(self, action):
            assert action in (start, start + 1)
            return super().step(action - start)

    _, y, _ = all_steps(compiled(network()), vector(Shifted))
    assert set(y["policy"][:, 0]) == {0, 1}


def test_environments_that_write_into_what_they_returned_are_recorded_as_they_were():
    model = compiled(network())
    fresh = all_steps(model, vector())
    makers = [lambda i=i: Scripted(first=i) for i in range(2)]
    mode = AutoresetMode.SAME_STEP
    kept = all_steps(model, SyncVectorEnv(makers, copy=False, autoreset_mode=mode))
    np.testing.assert_array_equal(kept[0], fresh[0])
    np.testing.assert_array_equal(kept[1]["policy"], fresh[1]["policy"])


@pytest.mark.parametrize("mode", ["same", "next"])
def test_returns_of_episodes_are_counted(mode):
    model = compiled(sure(network()))
    rollouts = small(model, vector(num_envs=1, mode=mode), steps=8, batch_size=8)
    assert np.isnan(rollouts.episode_return) and np.isnan(rollouts.episode_length)
    next(iter(rollouts))
    # 3, 2, 1 and 1 steps; of action 1, each brings 10 and its number.
    finished = SCRIPT if mode == "same" else SCRIPT[:3]
    lengths = [length for length, _ in finished]
    returns = [10 * n + n * (n + 1) / 2 for n in lengths]
    assert rollouts.episodes == len(finished)
    assert rollouts.episode_length == pytest.approx(np.mean(lengths))
    assert rollouts.episode_return == pytest.approx(np.mean(returns))
    # In the other mode two of eight steps only begin anew.
    assert rollouts.env_steps == (8 if mode == "same" else 6)


@pytest.mark.parametrize("mode", ["same", "next"])
def test_labels_are_those_of_the_observations(mode):
    def half(observations, infos):
        return infos["half"][:, None]

    objective = e2e.objectives.IntermediateTarget("mse", head="linear", units=1)
    model = e2e.modularize(network(), {"code": objective})
    compiled(model)
    x, y, weight = all_steps(model, vector(mode=mode), labels={"code": half})
    counts = weight > 0
    np.testing.assert_allclose(y["code"][counts, 0], 5 * x[counts, 0], rtol=1e-5)


def test_nothing_of_a_model_changes_while_it_acts():
    model = compiled(network(normalize=True))
    before = weights_of(model)
    all_steps(model, vector())
    for ours, theirs in zip(weights_of(model), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_before_the_first_epoch_batches_are_zeros_of_the_right_shapes():
    model = compiled(network())
    rollouts = small(model, vector(mode="next"))
    x, y, weight = rollouts[0]
    assert not x.any() and not y["policy"].any()
    later = next(iter(rollouts))
    shapes = [a.shape for a in keras.tree.flatten(later)]
    assert [a.shape for a in keras.tree.flatten((x, y, weight))] == shapes


def test_the_same_seed_is_the_same_rollout():
    batches = [
        all_steps(compiled(sure(network())), vector(), seed=seed)[0] for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(batches[0], batches[1])
    assert not np.array_equal(batches[0], batches[2])


def test_evaluation_plays_whole_episodes_of_each_environment():
    model = compiled(sure(network()))
    found = e2e.rewards.evaluate_policy(model, vector(mode="next"), episodes=3, seed=0)
    # Two environments, two episodes each, which begin at the first and second.
    np.testing.assert_array_equal(found.lengths, [3, 2, 2, 1])
    np.testing.assert_array_equal(found.returns, [36, 23, 23, 11])
    assert found.mean_return == 23.25 and "over 4 episodes" in str(found)

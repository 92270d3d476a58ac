"""What cannot be honored is named, before anything is trained."""

import os
import signal
import sys

import gymnasium
import keras
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

import keras_e2e as e2e
from tests.rewards.worlds import (
    Real,
    Scripted,
    compiled,
    network,
    small,
    vector,
    weights_of,
)

Space = gymnasium.spaces


def with_spaces(observations=Scripted.observation_space, actions=Scripted.action_space):
    class Other(Scripted):
        observation_space, action_space = observations, actions

    return vector(Other)


def refuses(match, envs=None, model=None, error=ValueError, **options):
    """`fit` raises, and the weights are those of before."""
    model = model or compiled(network())
    before = weights_of(model)
    with pytest.raises(error, match=match):
        model.fit(small(model, envs, **options), verbose=0)
    for ours, theirs in zip(weights_of(model), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "space",
    [
        Space.MultiDiscrete([2, 2]),
        Space.MultiBinary(2),
        Space.Dict({"a": Space.Discrete(2)}),
        Space.Box(-3, 3, (1,), "int32"),
    ],
)
def test_other_action_spaces(space):
    match = r"The action space .* is (not supported|of int32).*TransformAction"
    refuses(match, with_spaces(actions=space))


def test_observations_that_are_not_numbers():
    words = Space.Dict({"said": Space.Text(5)})
    refuses(
        "'said' of the observation space is Text.*FilterObservation", with_spaces(words)
    )


def test_outputs_that_do_not_fit_the_actions():
    model = compiled(network(num_actions=3))
    refuses(
        r"'policy' of the model has 3 entries. Expected 2.*a logit for each", model=model
    )
    loss = {"policy": e2e.rewards.PPO(distribution="gaussian"), "value": "mse"}
    model = compiled(network(num_actions=2), loss)
    refuses(r"has 2 entries. Expected 4 .*GaussianPolicy", vector(Real), model)


def test_probabilities_in_place_of_logits():
    observation = keras.Input((2,))
    outputs = keras.layers.Dense(2, activation="softmax", name="policy")(observation)
    model = compiled(keras.Model(observation, outputs), e2e.rewards.PPO())
    refuses(
        "'policy' of the model seems to be probabilities.*take the softmax away",
        model=model,
    )


def test_outputs_with_an_axis_too_many():
    observation = keras.Input((2,))
    outputs = keras.layers.Reshape((1, 2), name="policy")(
        keras.layers.Dense(2)(observation)
    )
    model = compiled(keras.Model(observation, outputs), e2e.rewards.PPO())
    refuses(
        r"has the shape \(2, 1, 2\) for 2 observations. Expected \(rows, 2\)", model=model
    )


def test_values_that_are_not_one_number():
    observation = keras.Input((2,))
    heads = {
        "policy": keras.layers.Dense(2)(observation),
        "value": keras.layers.Dense(3)(observation),
    }
    refuses(
        r"'value' of the model has the shape \(2, 3\)",
        model=compiled(keras.Model(observation, heads)),
    )


def test_outputs_without_a_policy():
    observation = keras.Input((2,))
    model = keras.Model(observation, {"actor": keras.layers.Dense(2)(observation)})
    refuses(
        "no output 'policy'; its outputs are 'actor'",
        model=compiled(model, {"actor": "mse"}),
    )


def test_a_model_that_is_not_compiled():
    refuses("compile", model=network())


def test_losses_that_do_not_fit():
    gaussian = {"policy": e2e.rewards.PPO(distribution="gaussian"), "value": "mse"}
    refuses(
        r"PPO\(distribution='gaussian'\), but the action space is Discrete\(2\)",
        model=compiled(network(), gaussian),
    )
    for loss in ("mse", keras.losses.MeanSquaredError()):
        for kind, given in (
            ("dict", {"policy": loss, "value": "mse"}),
            ("list", [loss, "mse"]),
            ("single", loss),
        ):
            refuses(
                "does not read what Rollouts yields.*PPO",
                model=compiled(network(kind), given),
            )


@pytest.mark.parametrize("reward", [np.nan, np.inf])
def test_rewards_that_are_not_finite(reward):
    refuses(r"Environment 0 gave the reward \w+ at step 0", vector(reward=reward))


class Failing(Scripted):
    """Shows NaN, or raises, at the fourth step of this environment."""

    def __init__(self, how, steps=4, **options):
        super().__init__(script=((3, "truncated"),), **options)
        self.how, self.left = how, steps

    def step(self, action):
        self.left -= 1
        if self.left == 0 and self.how == "raise":
            raise OSError("the simulator is gone")
        if self.left == 0 and self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        observation, *rest = super().step(action)
        if self.left == 0:
            observation[1] = np.nan
        return observation, *rest


@pytest.mark.parametrize("steps", [3, 4])  # the end of an episode is shown apart
def test_observations_that_are_not_finite(steps):
    envs = vector(Failing, how="show", steps=steps)
    refuses(r"Environment 0 gave an observation that is not finite.*nan", envs)


def test_environments_that_fail():
    refuses(
        r"environments failed at 'step' after 6 steps \(OSError: the simulator is gone\)",
        vector(Failing, how="raise"),
        error=RuntimeError,
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.filterwarnings("ignore:This process .*multi-threaded:DeprecationWarning")
def test_an_environment_whose_process_is_killed_loses_no_weight():
    """The first epoch trains; the second one finds the process dead."""
    model = compiled(network())
    envs = AsyncVectorEnv(
        [lambda: Failing("kill", steps=12), lambda: Scripted()],
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    rollouts = small(model, envs)
    try:
        model.fit(rollouts, verbose=0)
        before = weights_of(model)
        with pytest.raises(RuntimeError, match="The environments failed at 'step' after"):
            model.fit(rollouts, verbose=0)
    finally:
        # Gymnasium's own `close` waits for an answer of the dead.
        for process in envs.processes:
            process.kill()
            process.join()
        envs.closed = True
    for ours, theirs in zip(weights_of(model), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # The fix that the error names.
    model.fit(small(model), verbose=0)


def test_outputs_that_are_not_finite():
    model = compiled(network())
    model.layers[1].set_weights([np.full((2, 4), np.nan), np.zeros(4)])
    refuses("outputs are not finite: training has diverged", model=model)


def test_environments_that_do_not_begin_anew():
    envs = SyncVectorEnv([Scripted], autoreset_mode=AutoresetMode.DISABLED)
    refuses("autoreset_mode is Disabled.*SAME_STEP or NEXT_STEP", envs)


def test_episodes_that_are_cut_off_without_their_last_observation():
    class Forgetful(gymnasium.vector.VectorWrapper):
        def step(self, actions):
            *found, infos = super().step(actions)
            infos.pop("final_obs", None)
            return *found, infos

    refuses("was cut off, and .* no 'final_obs'.*NEXT_STEP", Forgetful(vector()))


class Described(gymnasium.vector.VectorWrapper):
    """Environments of one's own, and what their metadata say."""

    def __init__(self, envs, **metadata):
        super().__init__(envs)
        self._metadata = metadata


def test_episodes_that_begin_in_the_same_step_and_do_not_say_so():
    refuses("have 'final_obs'.*SAME_STEP", Described(vector()))
    model = compiled(network())
    model.fit(small(model, Described(vector(), autoreset_mode="SameStep")), verbose=0)


def test_rewards_of_another_shape():
    class Columns(gymnasium.vector.VectorWrapper):
        def step(self, actions):
            observations, rewards, *rest = super().step(actions)
            return observations, rewards[:, None], *rest

    refuses(r"rewards of the shape \(2, 1\).*Expected \(2,\)", Columns(vector()))


def test_sizes_that_do_not_divide():
    refuses(
        r"steps=8 in each of 2 environments are 16 steps.*batch_size=5.*such as 4",
        batch_size=5,
    )
    for name in ("steps", "passes", "batch_size"):
        refuses(f"Rollouts: {name}=0: expected an integer of at least 1", **{name: 0})
    refuses("discount=2", discount=2)
    refuses("num_envs=3, but envs has 2", num_envs=3)


def test_environments_of_another_kind():
    refuses(
        "must be a gymnasium.vector.VectorEnv.*Found: Scripted", Scripted(), error=TypeError
    )


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (
            lambda observations, infos: infos["missing"],
            r"labels\['code'\] failed.*KeyError",
        ),
        (lambda observations, infos: np.zeros(3), r"returned the shape \(3,\) for 2 "),
        (lambda observations, infos: 1.0, r"returned the shape \(\) for 2 observations"),
    ],
)
def test_labels_that_do_not_fit(function, match):
    refuses(match, labels={"code": function})


def test_without_gymnasium(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ImportError, match=r"Rollouts needs Gymnasium: pip install"):
        e2e.rewards.Rollouts("CartPole-v1", network())
    with pytest.raises(ImportError, match="evaluate_policy needs Gymnasium"):
        e2e.rewards.evaluate_policy(network(), "CartPole-v1")


def test_layers_with_arguments_that_do_not_fit():
    with pytest.raises(ValueError, match="clip=0"):
        e2e.rewards.ObservationNormalization(clip=0)
    with pytest.raises(ValueError, match="initial_log_std=nan"):
        e2e.rewards.GaussianPolicy(initial_log_std=float("nan"))

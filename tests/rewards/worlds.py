"""Tiny environments that do as they are told, and policies for them."""

import gymnasium
import keras
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import keras_e2e as e2e

# Lengths of episodes and how each ends; after the last one the first again.
SCRIPT = ((3, "terminated"), (2, "truncated"), (1, "terminated"), (1, "truncated"))


class Scripted(gymnasium.Env):
    """Episodes of given lengths. An observation is (episode, step), in tenths.

    The reward is `reward`, or the number of the step, and 10 more for action 1.
    """

    action_space = gymnasium.spaces.Discrete(2)
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), "float32")

    def __init__(self, script=SCRIPT, first=0, reward=None):
        self.script, self.episode, self.reward = script, first - 1, reward

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.time = self.episode + 1, 0
        return self.seen(), {"half": np.float32(self.episode / 2)}

    def step(self, action):
        self.time += 1
        length, kind = self.script[self.episode % len(self.script)]
        ended = self.time >= length
        reward = (
            self.time + 10 * float(np.sum(action)) if self.reward is None else self.reward
        )
        info = {"half": np.float32(self.episode / 2)}
        terminated, truncated = (ended and kind == k for k in ("terminated", "truncated"))
        return self.seen(), reward, terminated, truncated, info

    def seen(self):
        return np.array([self.episode, self.time], "float32") / 10


class InParts(Scripted):
    """The same, in a dict."""

    observation_space = gymnasium.spaces.Dict(
        {
            "episode": gymnasium.spaces.Box(-np.inf, np.inf, (1,), "float32"),
            "time": gymnasium.spaces.Discrete(100),
        }
    )

    def seen(self):
        return {"episode": np.array([self.episode / 10], "float32"), "time": self.time}


class Real(Scripted):
    """The same, with two real numbers as an action."""

    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), "float32")


MODES = {"same": AutoresetMode.SAME_STEP, "next": AutoresetMode.NEXT_STEP}


def vector(make=Scripted, num_envs=2, mode="same", **options):
    """Environments that begin at different episodes."""

    def maker(first):
        return lambda: make(first=first, **options)

    makers = [maker(first) for first in range(num_envs)]
    return SyncVectorEnv(makers, autoreset_mode=MODES[mode])


def network(kind="dict", num_actions=2, normalize=False, layers="tanh"):
    """A small policy with its outputs in a dict or a list, or the policy alone."""
    observation = hidden = keras.Input((2,))
    if normalize:
        hidden = e2e.rewards.ObservationNormalization(name="scale")(hidden)
    hidden = keras.layers.Dense(4, activation=layers, name="code")(hidden)
    hidden = keras.layers.Dense(4, activation=layers, name="plan")(hidden)
    policy = keras.layers.Dense(num_actions, name="policy")(hidden)
    value = keras.layers.Dense(1, name="value")(hidden)
    outputs = {
        "dict": {"policy": policy, "value": value},
        "list": [policy, value],
        "single": policy,
    }
    return keras.Model(observation, outputs[kind])


def remembering(cell="gru", units=3):
    """A policy with a memory, and its states as `Rollouts` takes them."""
    observation = keras.Input((None, 2), name="observation")
    names = ["state"] if cell == "gru" else ["hidden", "carry"]
    states = {name: keras.Input((units,), name=name) for name in names}
    layer = (keras.layers.GRU if cell == "gru" else keras.layers.LSTM)(
        units, return_sequences=True, return_state=True, name="memory"
    )
    given = list(states.values())
    seen = keras.layers.Dense(units, activation="tanh", name="code")(observation)
    found, *after = layer(seen, initial_state=given if len(given) > 1 else given[0])
    outputs = {
        "policy": keras.layers.Dense(2, name="policy")(found),
        "value": keras.layers.Dense(1, name="value")(found),
        **{f"{name}_after": tensor for name, tensor in zip(names, after, strict=True)},
    }
    model = keras.Model({"observation": observation, **states}, outputs)
    return model, {name: f"{name}_after" for name in names}


def compiled(model, loss=None, optimizer="adam", **options):
    """The model with PPO, eagerly where nothing else is said: nothing is traced."""
    options = {"run_eagerly": True, **options}
    loss = loss or {"policy": e2e.rewards.PPO(), "value": "mse"}
    model.compile(optimizer, loss=loss, **options)
    return model


def small(model, envs=None, **options):
    """Rollouts of 16 steps in two batches."""
    options = {"steps": 8, "passes": 1, "batch_size": 8, "seed": 0, **options}
    return e2e.rewards.Rollouts(vector() if envs is None else envs, model, **options)


def weights_of(model):
    return [keras.ops.convert_to_numpy(weight) for weight in model.weights]

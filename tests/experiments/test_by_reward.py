"""Policies trained by reward, by plans of stages."""

import itertools

import keras
import numpy as np
import pytest

import keras_e2e as e2e
from keras_e2e import regimes, tasks
from keras_e2e.experiments.regimes import Stage


@pytest.fixture(scope="module")
def task():
    return tasks.parity_by_reward(k=1, labeled=10)


@pytest.fixture(scope="module")
def model(task):
    model = e2e.modularize(task.build(0), {"symbols": "pred"})
    model.compile("adam", loss={"policy": e2e.rewards.PPO(), "value": "mse"})
    return model


def weights(model):
    """The weights of the encoder's and of the policy's first layer."""
    return [model.get_layer(n).get_weights()[0] for n in ("encoder_1", "classifier_1")]


def test_each_stage_trains_its_modules_and_all_have_equal_environment_steps(task, model):
    rollouts = e2e.rewards.Rollouts(task.environments(64), model, steps=1, passes=2, seed=0)
    seen = [weights(model)]

    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(weights(self.model))

    plan = [Stage(mode="sequential:symbols"), Stage(2, frozen=("symbols",)), Stage()]
    rollouts.labels.update(task.labels)
    watch = e2e.callbacks.ModuleDiagnostics(1, [e2e.diagnostics.ModuleLoss()])
    used = [Keep(), watch]
    found = regimes.train_policy(model, plan, rollouts, epochs=4, callbacks=used)
    moved = [
        [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
        for before, after in itertools.pairwise(seen)
    ]
    assert moved == [[True, False], [False, True], [False, True], [True, True]]
    assert [logs["env_steps"] for logs in found.history] == [64, 128, 192, 256]
    assert [logs["step"] for logs in found.history] == [2, 4, 6, 8]
    assert (found.steps, found.examples) == (8, 256)
    # No verdict rests on the value of PPO.
    assert all(verdict.place.surrogate for verdict in watch.verdicts().values())


def test_a_plan_that_does_not_fit_is_refused_before_anything_is_trained(task, model):
    envs = task.environments(64)
    rollouts = e2e.rewards.Rollouts(envs, model, steps=1)
    before = model.get_weights()
    for plan, epochs, message in (
        ([Stage(frozen=("encoder",))], 1, r"frozen=\['encoder'\].*symbols"),
        ([Stage(downstream_of="symbols")], 1, "downstream_of='symbols'"),
        ([Stage(), Stage()], 1, "epochs"),
    ):
        with pytest.raises(ValueError, match=message):
            regimes.train_policy(model, plan, rollouts, epochs=epochs)
    other = e2e.rewards.Rollouts(envs, task.build(0), steps=1)
    with pytest.raises(ValueError, match="another model"):
        regimes.train_policy(model, [Stage()], other, epochs=1)
    with pytest.raises(TypeError, match="modular"):
        regimes.train_policy(task.build(0), [Stage()], other, epochs=1)
    assert rollouts.env_steps == 0
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_model_that_is_taken_again_gives_what_a_new_one_gives(task):
    def run(seed, model=None):
        return regimes.train_by_reward(
            task,
            "deep_supervision",
            512,
            seed=seed,
            num_envs=256,
            episodes=256,
            model=model,
        )

    new = run(2)
    expected = new.model.get_weights()
    again = run(2, run(1).model)
    assert again.reward == new.reward
    for a, b in zip(expected, again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_unknown_regimes_and_odd_numbers_of_steps_are_named(task):
    with pytest.raises(ValueError, match="Did you mean 'auto'"):
        regimes.train_by_reward(task, "auot", 1024)
    with pytest.raises(ValueError, match="multiple of the 1024"):
        regimes.train_by_reward(task, "auto", 1000)

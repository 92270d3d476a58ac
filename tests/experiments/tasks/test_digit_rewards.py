"""Digits by reward: what is shown, what is rewarded, and what is known of the images."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import keras_e2e as e2e
from keras_e2e import tasks


@pytest.fixture(scope="module")
def task():
    return tasks.parity_by_reward(k=3, seed=1, labeled=20)


def test_the_parity_of_the_classes_is_rewarded_and_nothing_else(task):
    envs = task.environments(200)
    assert envs.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    shown, info = envs.reset(seed=0)
    parity = info["classes"].sum(axis=1) % 2
    assert envs.observation_space.contains(shown) and 0.3 < parity.mean() < 0.7
    right = np.arange(200) < 150
    following, rewards, terminated, truncated, after = envs.step(
        np.where(right, parity, 1 - parity)
    )
    np.testing.assert_array_equal(rewards, right)
    assert terminated.all() and not truncated.any()
    np.testing.assert_array_equal(np.stack(after["final_obs"]), shown)
    # The info is that of the observation beside it.
    again = after["classes"].sum(axis=1) % 2
    assert envs.step(again)[1].sum() == 200 and not (following == shown).all()


def test_a_seed_gives_the_same_and_the_splits_share_no_image(task):
    seen = {}
    for split in ("train", "validation", "test"):
        first, second = (task.environments(400, split) for _ in range(2))
        shown = first.reset(seed=3)[0]
        np.testing.assert_array_equal(shown, second.reset(seed=3)[0])
        seen[split] = {image.tobytes() for image in shown.reshape(-1, 64)}
    for a, b in (("train", "test"), ("train", "validation"), ("validation", "test")):
        assert len(seen[a] & seen[b]) <= 1  # two images of the data may be equal


def test_the_labels_are_those_of_the_images_that_are_known(task):
    envs = task.environments(5000)
    shown, info = envs.reset(seed=0)
    labels = task.labels["symbols"](shown, info)
    known = labels >= 0
    np.testing.assert_array_equal(labels[known], info["classes"][known])
    images = {
        image.tobytes(): label
        for image, label in zip(shown[known], labels[known], strict=True)
    }
    assert len(images) == 20
    assert sorted(np.bincount([*images.values()])) == [2] * 10
    # As the twin with targets has them.
    twin = tasks.parity(k=3, n=5000, seed=1, labeled=20).train
    labels = twin.labels["symbols"]
    assert {image.tobytes() for image in twin.x[labels >= 0]} == {*images}


def test_the_policy_begins_with_the_weights_of_its_twin(task):
    ours, twin = task.build(5), tasks.parity(k=3, n=10).build(5)
    for name in ("encoder_1", "encoder_2", "symbols", "classifier_1", "classifier_2"):
        np.testing.assert_array_equal(*(m.get_layer(name).kernel for m in (ours, twin)))
    assert {k: v.shape[-1] for k, v in ours.output.items()} == {"policy": 2, "value": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k=0"),
        ({"k": 2, "data": "digit"}, "Did you mean 'digits'"),
        ({"k": 2, "labeled": 5000}, "labeled=5000"),
    ],
)
def test_what_cannot_be_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        tasks.parity_by_reward(**arguments)


def test_the_splits_have_names_and_a_modular_policy_plays_in_them(task):
    with pytest.raises(ValueError, match="split='tests'"):
        task.environments(2, "tests")
    envs = task.environments(8)
    model = e2e.modularize(task.build(0), {"symbols": None})
    found = e2e.rewards.evaluate_policy(model, envs, episodes=64, seed=0)
    assert 0.2 < found.mean_return < 0.8 and set(found.lengths) == {1}

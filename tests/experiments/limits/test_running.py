"""One run of a sweep: what it measures, that it repeats, what it refuses."""

import dataclasses
import gc
import json

import numpy as np
import pytest
import tensorflow as tf

from keras_e2e.experiments import regimes, tasks
from keras_e2e.experiments.limits import by_reward, names, results, run
from keras_e2e.experiments.limits.setting import Setting

SHORT = Setting("parity", 1, "local", steps=400, examples=2000)
REWARDED = {"task": "parity_by_reward", "steps": 3072, "examples": Setting.examples}


@pytest.fixture(scope="module")
def local():
    return run.run(SHORT)


@pytest.mark.slow
def test_a_run_measures_what_it_says(local):
    assert local["accuracy"] > 0.9 and local["success"] and local["validation"] > 0.9
    assert [step for step, _ in local["curve"]] == [100, 200, 300, 400]
    reached = next(step for step, value in local["curve"] if value >= local["mark"])
    assert local["reached"] == reached
    assert local["modules"]["symbols"]["purity"] > 0.8
    assert local["modules"]["symbols"]["error"] < 0.1
    assert local["ceiling"] == pytest.approx(1.0 - local["modules"]["symbols"]["error"])
    assert set(local["snr"]) == {"symbols", "parity"}
    assert local["spent"]["steps"] == 400
    assert local["spent"]["examples"] == 400 * 128
    assert local["spent"]["labels"] == 2000


def test_it_can_be_written_as_json(local):
    assert json.loads(json.dumps(local, allow_nan=False)) == local
    assert results._plain({"a": [np.float32("nan"), (1, np.float64(2.0))]}) == {
        "a": [None, [1, 2.0]]
    }


@pytest.mark.slow
def test_a_run_repeats_to_the_bit_also_after_others(local):
    run.run(dataclasses.replace(SHORT, seed=1, steps=200))
    again = run.run(SHORT)
    for result in (again, local):
        assert result["spent"]["seconds"] > 0
    # `local` is shared: it stays as it is.
    spent = {**again["spent"], "seconds": local["spent"]["seconds"]}
    assert {**again, "spent": spent} == local


@pytest.mark.slow
@pytest.mark.parametrize("regime", ["curriculum", "pretrained_reconstruction"])
def test_regimes_without_labels_see_none(regime):
    found = run.run(Setting("parity", 2, regime, steps=400, examples=500))
    assert found["spent"]["labels"] == 0
    assert found["spent"]["steps"] == 400
    steps = [step for step, _ in found["curve"]]
    assert steps == [300, 400]  # those in which the whole task is trained


@pytest.mark.slow
@pytest.mark.parametrize(
    "regime, first, last",
    [
        ("local_then_end_to_end", [10, 110, 210, 310], [10, 110, 210, 310]),
        ("greedy", [10, 110], [210, 310]),
        ("last_first", [210, 310], []),  # at first a model of its own is trained
    ],
)
def test_the_snr_covers_all_stages(regime, first, last):
    found = run.run(Setting("parity", 2, regime, steps=400, examples=500))["snr"]
    steps = {
        name: [step for step, value in series if value is not None]
        for name, series in found.items()
    }
    assert steps == {"symbols": first, "parity": last}


@pytest.mark.slow
def test_a_run_lets_go_of_what_it_traced():
    """What is frozen is traced anew in each run, and TensorFlow itself would keep it."""
    left = []
    for seed in range(2):
        run.run(Setting("parity", 1, "last_first", seed=seed, steps=200, examples=300))
        left.append(sum(isinstance(each, tf.Graph) for each in gc.get_objects()))
    assert left[1] <= left[0]


@pytest.mark.slow
@pytest.mark.parametrize("regime", ["deep_supervision", "auto"])
def test_a_run_by_reward_measures_the_same(local, regime):
    setting = dataclasses.replace(SHORT, regime=regime, labels=10, **REWARDED)
    setting.check()
    found = run.run(setting)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(found) == set(local) and set(found["spent"]) == set(local["spent"])
    assert 0.3 < found["accuracy"] < 1.0 and 0.3 < found["validation"] < 1.0
    assert [step for step, _ in found["curve"]] == [1024, 2048, 3072]
    assert found["spent"]["examples"] == 3072 and found["spent"]["steps"] == 96
    assert found["spent"]["labels"] == 10
    assert set(found["snr"]) == {"symbols", "outputs"}
    assert all(step <= 3072 for series in found["snr"].values() for step, _ in series)
    assert set(found["modules"]) == {"symbols"}


@pytest.mark.parametrize("name", sorted(set(run.TASKS) - {"clothes_patches"}))
def test_every_task_is_made_of_its_setting(name):
    k = 2 if name in names.SIZED else 1
    setting = Setting(name, k, "deep_supervision", seed=1, examples=40)
    setting.check()
    made, other = (
        run.TASKS[name](one) for one in (setting, dataclasses.replace(setting, seed=2))
    )
    assert made.train.size == 40 and list(made.cuts)
    assert (made.train.x != other.train.x).any()
    for word in ("roman", "decimal"):
        assert (word in name) == (word in made.name)


def test_names_are_those_of_the_code():
    assert set(names.TASKS) == {*run.TASKS, *by_reward.TASKS}
    assert tuple(by_reward.TASKS) == names.BY_REWARD
    assert tuple(regimes.PLANS) == names.PLANS
    assert tuple(regimes.REWARD_REGIMES) == names.WITH_REWARDS
    assert tuple(tasks.DATASETS) == names.DATASETS


def test_purity_is_blind_to_names():
    labels = np.array([0, 0, 1, 1, 2, 2])
    assert results.purity(np.array([5, 5, 0, 0, 2, 2]), labels) == 1.0
    assert results.purity(np.zeros(6, int), labels) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "sudoku"}, "task='sudoku'.*parity"),
        ({"regime": "magic"}, "regime='magic'.*end_to_end"),
        ({"data": "cats"}, "data='cats'.*digits"),
        ({"k": 0}, "k=0"),
        ({"task": "scenes", "k": 2}, "k=2: scenes has one size"),
        ({"task": "lines", "data": "fashion_mnist"}, "data='fashion_mnist'.*memory"),
        ({"task": "lines", "labels": 10}, "labels=10.*parity"),
        ({"steps": 150}, "steps=150.*multiple of 100"),
        ({"steps": 100}, "steps=100.*200 or more"),
        ({"regime": "curriculum", "k": 5}, "needs 500 or more"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"task": "parity_by_reward", "regime": "greedy"}, "regime='greedy'.*auto"),
        ({"regime": "local_barlow_twins"}, "regime='local_barlow_twins'.*local"),
        ({**REWARDED, "steps": 3000}, "steps=3000: expected a multiple of 1024"),
        ({**REWARDED, "steps": 2048}, "steps=2048: local needs 3072 or more"),
        ({**REWARDED, "batch_size": 100}, "batch_size=100: expected a divisor of 1024"),
        ({**REWARDED, "examples": 2000}, "examples=2000: parity_by_reward .* environments"),
    ],
)
def test_what_cannot_be_run_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SHORT, **change).check()

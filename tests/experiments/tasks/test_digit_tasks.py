"""Tasks over symbols: targets by hand, splits apart, label budgets, ceilings."""

import numpy as np
import pytest

from keras_e2e.experiments import tasks

MAKERS = [tasks.parity, tasks.sum_mod_10, tasks.random_table]


@pytest.mark.parametrize("make", MAKERS)
def test_a_task_offers_what_it_says(make):
    task = make(3, n=50)
    assert (task.train.size, task.validation.size, task.test.size) == (50, 4000, 4000)
    model = task.build(1)
    assert model.get_layer("symbols").output.shape == (None, 3, 10)
    (output,) = task.train.y
    assert model.output_names == [output]
    assert model.predict(task.train.x, verbose=0).shape[0] == 50
    for one, other in zip(model.get_weights(), task.build(1).get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    again = make(3, n=50)
    np.testing.assert_array_equal(again.train.x, task.train.x)
    np.testing.assert_array_equal(again.test.y[output], task.test.y[output])


def test_targets_are_those_of_the_symbols():
    for split in tasks.parity(3, n=60)[2:5]:
        odd = (split.labels["symbols"] % 2).sum(axis=1) % 2
        np.testing.assert_array_equal(split.y["parity"], odd[:, None].astype("float32"))
    for split in tasks.sum_mod_10(2, n=60)[2:5]:
        np.testing.assert_array_equal(
            split.y["sum"], split.labels["symbols"].sum(axis=1) % 10
        )


def test_the_random_table_is_one_table_for_all_splits():
    task = tasks.random_table(2, n=3000, seed=4)
    seen = {}
    for split in (task.train, task.validation, task.test):
        for pair, value in zip(split.labels["symbols"], split.y["value"], strict=True):
            assert seen.setdefault(tuple(pair), value) == value
    assert len(seen) == 100
    assert set(seen.values()) == set(range(10))


def test_no_image_stands_in_two_splits():
    task = tasks.parity(1, n=4000)
    held = [{x.tobytes() for x in split.x} for split in task[2:5]]
    assert not held[0] & held[1] and not held[0] & held[2] and not held[1] & held[2]
    assert [len(images) for images in held[1:]] == [144, 360]


def test_a_label_budget_is_in_images_and_grows():
    def known(labeled):
        split = tasks.parity(2, n=6000, labeled=labeled).train
        there = split.labels["symbols"] >= 0
        images = {
            x.tobytes(): int(c)
            for x, c in zip(split.x[there], split.labels["symbols"][there], strict=True)
        }
        return images, split

    few, split = known(20)
    more, _ = known(50)
    none, _ = known(0)
    assert len(few) == 20 and len(more) == 50 and not none
    assert few.items() <= more.items()
    assert np.bincount(list(few.values())).tolist() == [2] * 10
    whole = tasks.parity(2, n=6000).train
    np.testing.assert_array_equal(split.y["parity"], whole.y["parity"])
    assert (tasks.parity(2, n=50, labeled=0).test.labels["symbols"] >= 0).all()


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_ceiling_of_a_sum_is_that_of_uniform_errors(k):
    rng = np.random.default_rng(0)
    wrong = rng.random((200_000, k)) < 0.3
    errors = np.where(wrong, rng.integers(1, 10, wrong.shape), 0)
    right = (errors.sum(axis=1) % 10 == 0).mean()
    assert tasks.sum_mod_10(k, n=1).ceiling(0.3) == pytest.approx(right, abs=0.004)


def test_batches_are_full_endless_and_repeat_with_the_seed():
    split = tasks.Split(np.arange(10), {"out": np.arange(10)}, {"cut": -np.arange(10)})

    def rows(seed, labels=True):
        taken = split.batches(4, seed, labels).take(5)
        return [(x.numpy(), {k: v.numpy() for k, v in y.items()}) for x, y in taken]

    first = rows(1)
    assert all(len(x) == 4 for x, _ in first)
    seen = np.concatenate([x for x, _ in first])
    assert sorted(seen[:10]) == list(range(10)) == sorted(seen[10:])
    for x, y in first:
        np.testing.assert_array_equal(x, y["out"])
        np.testing.assert_array_equal(x, -y["cut"])
    assert [x.tolist() for x, _ in rows(1)] == [x.tolist() for x, _ in first]
    assert [x.tolist() for x, _ in rows(2)] != [x.tolist() for x, _ in first]
    assert set(rows(1, labels=False)[0][1]) == {"out"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k=0"),
        ({"k": 2, "n": 0}, "n=0"),
        ({"k": 2, "seed": -1}, "seed=-1"),
        ({"k": 2, "data": "mnist"}, "data='mnist'.*digits"),
        ({"k": 2, "labeled": 5000}, "labeled=5000.*1293 training images"),
        ({"k": 2, "labeled": -1}, "labeled=-1"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tasks.parity(**arguments)
    if arguments["k"]:
        return
    with pytest.raises(ValueError, match="k=7"):
        tasks.random_table(7)

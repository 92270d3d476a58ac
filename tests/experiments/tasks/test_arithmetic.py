"""Sums of pictures: labels by hand, pairs apart, and the task is learned in parts."""

import numpy as np
import pytest

import keras_e2e as e2e
from keras_e2e.experiments import tasks


def number_of(picture, notation, largest):
    """The number that a picture shows exactly."""
    pictures = tasks.numeral_images(notation, largest)
    (found,) = np.flatnonzero((pictures == picture).all(axis=1))
    return int(found)


@pytest.mark.parametrize("notation", ["roman", "decimal"])
def test_the_picture_shows_the_sum_and_labels_its_letters(notation):
    task = tasks.arithmetic(notation, largest=20, n=60)
    letters = tasks.numeral_letters(notation, 40)
    for split in task[2:5]:
        for i in range(split.size):
            a, b = (number_of(p, notation, 40) for p in split.x[i])
            assert 1 <= a <= 20 and 1 <= b <= 20
            assert number_of(split.y["picture"][i], notation, 40) == a + b
            np.testing.assert_array_equal(split.labels["letters"][i], letters[[a, b]])
            np.testing.assert_array_equal(split.labels["sum"][i], letters[a + b])


def test_no_pair_of_numbers_stands_in_two_splits():
    task = tasks.arithmetic(largest=12, n=3000)
    held = [{x.tobytes() for x in split.x} for split in task[2:5]]
    assert [len(pairs) for pairs in held] == [144 - 28, 14, 14]
    assert len(held[0] | held[1] | held[2]) == 144


def test_chance_is_that_of_the_most_frequent_sum():
    for largest in (2, 7):
        sums = np.add.outer(np.arange(largest), np.arange(largest)).ravel()
        assert tasks.arithmetic(largest=largest, n=1).chance == pytest.approx(
            np.bincount(sums).max() / sums.size
        )


def test_the_model_paints_what_it_is_told():
    """From true letters of the sum on, the painter alone is left to be learned."""
    task = tasks.arithmetic("decimal", largest=9, n=500)
    cuts = {n: e2e.objectives.IntermediateTarget(cut.loss) for n, cut in task.cuts.items()}
    model = e2e.modularize(task.build(0), cuts)
    model.compile("adam", task.loss, metrics=task.metrics, steps_per_execution=50)
    model.training_mode = "local"
    model.fit(task.train.batches(64), steps_per_epoch=400, epochs=1, verbose=0)
    train = model.evaluate(task.train.x, task.train.y, verbose=0, return_dict=True)
    assert train["accuracy"] > task.success
    stands = task.cuts["sum"].ideal_activation(task.test.labels["sum"])
    painted = model.downstream_model("sum").predict((task.test.x, stands), verbose=0)
    np.testing.assert_array_equal(painted > 0.5, task.test.y["picture"] > 0.5)


def test_the_same_arguments_give_the_same_task():
    one, other = (tasks.arithmetic(largest=15, n=50, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.train.x, other.train.x)
    np.testing.assert_array_equal(one.test.y["picture"], other.test.y["picture"])
    for a, b in zip(one.build(1).get_weights(), other.build(1).get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"notation": "greek"}, "notation='greek'"),
        ({"largest": 1}, "largest=1: "),
        ({"largest": 200}, "largest=200: "),
        ({"n": 0}, "n=0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tasks.arithmetic(**arguments)

"""Parity of a random subset of signs, and the accuracy of signs."""

import itertools

import keras
import numpy as np
import pytest

import keras_e2e as e2e
from keras_e2e.experiments import tasks


def test_the_target_is_the_product_of_one_subset_for_all_splits():
    task = tasks.random_parity(6, n=500, seed=2)
    fitting = []
    for subset in itertools.product((False, True), repeat=6):
        products = [s.x[:, np.array(subset)].prod(axis=1, keepdims=True) for s in task[2:5]]
        if all(
            np.array_equal(p, s.y["parity"])
            for p, s in zip(products, task[2:5], strict=True)
        ):
            fitting.append(subset)
    assert len(fitting) == 1 and any(fitting[0])


def test_a_subset_is_never_empty_and_differs_with_the_seed():
    # Of one sign the only subset is that sign.
    for seed in range(6):
        split = tasks.random_parity(1, n=20, seed=seed).train
        np.testing.assert_array_equal(split.x, split.y["parity"])
    products = {
        (s.x * s.y["parity"]).tobytes()
        for s in (tasks.random_parity(12, n=50, seed=seed).train for seed in range(3))
    }
    assert len(products) == 3


def test_splits_have_inputs_of_their_own():
    task = tasks.random_parity(40, n=4000)
    rows = [{x.tobytes() for x in split.x} for split in task[2:5]]
    assert not rows[0] & rows[1] and not rows[0] & rows[2] and not rows[1] & rows[2]


def test_it_has_no_cut_points_and_the_network_of_the_paper():
    task = tasks.random_parity(5, n=64)
    assert task.cuts == {} and task.train.labels == {}
    model = task.build(0)
    assert [w.shape for w in model.get_weights()] == [(5, 50), (50,), (50, 1), (1,)]
    again = task.build(0).get_weights()
    assert all(
        np.array_equal(a, b) for a, b in zip(model.get_weights(), again, strict=True)
    )


def test_five_signs_are_learned():
    task = tasks.random_parity(5, n=4000)
    model = e2e.modularize(task.build(0), {"hidden": None})
    model.compile(
        keras.optimizers.Adam(3e-3), task.loss, metrics=task.metrics, steps_per_execution=50
    )
    batches = task.train.batches(128)
    model.fit(batches, steps_per_epoch=800, epochs=1, verbose=0)
    found = model.evaluate(task.test.x, task.test.y, verbose=0, return_dict=True)
    assert found["sign_accuracy"] > task.success


def test_sign_accuracy_counts_sides_of_zero():
    y, score = np.array([[1.0, -1.0], [1.0, -1.0]]), np.array([[0.1, 9.0], [-0.1, -0.1]])
    np.testing.assert_array_equal(tasks.sign_accuracy(y, score), [0.5, 0.5])
    np.testing.assert_array_equal(tasks.sign_accuracy(y, 0.0 * y), [0.5, 0.5])
    saved = keras.metrics.serialize(tasks.sign_accuracy)
    assert keras.metrics.deserialize(saved) is tasks.sign_accuracy


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"d": 0}, "d=0"), ({"d": 2, "n": 0}, "n=0"), ({"d": 2, "seed": -1}, "seed=-1")],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tasks.random_parity(**arguments)

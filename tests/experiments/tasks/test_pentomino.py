"""Three sprites among empty patches: where they lie, what they are, when they are alike."""

import keras
import numpy as np
import pytest

from keras_e2e.experiments import tasks


def patches(x):
    """Images cut into 64 patches, row by row."""
    return x.reshape(-1, 8, 8, 8, 8).transpose(0, 1, 3, 2, 4).reshape(-1, 64, 8, 8)


def outline(patch):
    """A patch's sprite without the space around, at single size."""
    rows, columns = np.flatnonzero(patch.any(axis=1)), np.flatnonzero(patch.any(axis=0))
    cut = patch[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return cut if cut.sum() == 5 else cut[::2, ::2]


def turns(shape):
    return {
        np.rot90(shape, i).tobytes() + bytes(np.rot90(shape, i).shape) for i in range(4)
    }


@pytest.fixture(scope="module")
def task():
    return tasks.pentomino(n=2000, seed=1)


@pytest.mark.parametrize("sprites", ["pentomino", "digits"])
def test_labels_say_where_sprites_lie_and_whether_they_are_alike(sprites):
    for split in tasks.pentomino(sprites, n=500)[2:5]:
        labels, same = split.labels["shapes"], split.y["same"][:, 0]
        filled = patches(split.x).any(axis=(2, 3))
        np.testing.assert_array_equal(filled, labels != 10)
        assert (filled.sum(axis=1) == 3).all()
        kinds = np.array([len(set(row[row != 10])) for row in labels])
        np.testing.assert_array_equal(kinds, np.where(same == 1, 1, 2))
        assert same.mean() == 0.5
        assert split.x.min() >= 0 and split.x.max() <= 1


def test_a_class_is_one_shape_turned_and_scaled(task):
    labels = task.train.labels["shapes"]
    at = labels != 10
    sprites = patches(task.train.x)[at]
    seen = {label: set() for label in range(10)}
    sizes = set()
    for sprite, label in zip(sprites, labels[at], strict=True):
        sizes.add(int(sprite.sum()))
        shape = outline(sprite)
        assert shape.sum() == 5
        seen[int(label)].add(shape.tobytes() + bytes(shape.shape))
    assert sizes == {5, 20}
    single = sprites[sprites.sum(axis=(1, 2)) == 5]
    assert single.any(axis=0).all()  # moved to all places where there is room
    for label, shapes in seen.items():
        assert len(shapes) == 4
        assert all(not shapes & other for name, other in seen.items() if name != label)


def test_mirror_images_are_classes_of_their_own(task):
    labels = task.train.labels["shapes"]
    sprites = patches(task.train.x)
    for label in range(5):
        one, other = (
            outline(sprites[labels == kind][0]).astype("float32")
            for kind in (label, label + 5)
        )
        assert turns(np.ascontiguousarray(np.fliplr(one))) == turns(other)
        assert turns(one) != turns(other)


def test_every_patch_and_every_class_is_as_likely(task):
    labels = task.train.labels["shapes"]
    by_place = (labels != 10).mean(axis=0)
    assert abs(by_place - 3 / 64).max() < 0.025  # more than five standard deviations
    assert abs(np.bincount(labels[labels != 10]) / 6000 - 0.1).max() < 0.03


def test_no_digit_stands_in_two_splits():
    task = tasks.pentomino("digits", n=2000)
    held = []
    for split in task[2:5]:
        filled = patches(split.x)[split.labels["shapes"] != 10]
        held.append({patch.tobytes() for patch in filled})
    assert not held[0] & held[1] and not held[0] & held[2] and not held[1] & held[2]
    assert len(held[0]) > 900  # of 1,293 digits, 6,000 draws


def test_images_are_reduced_by_averages():
    from keras_e2e.experiments.tasks.pentomino import _small

    x = np.random.default_rng(0).random((3, 784), "float32")
    small = _small(x)
    assert small.shape == (3, 8, 8) and not small[:, 7].any() and not small[:, :, 7].any()
    assert small[1, 2, 6] == pytest.approx(x[1].reshape(28, 28)[8:12, 24:28].mean())


def test_the_network_looks_at_each_patch_alike(task):
    model = task.build(2)
    sizes = [64 * 512 + 512, 512 * 11 + 11, 704 * 512 + 512, 513]
    assert model.count_params() == sum(sizes)
    reader = keras.Model(model.inputs, model.get_layer("shapes").output)
    x = task.train.x[:4]
    read = reader.predict(x, verbose=0)
    moved = reader.predict(np.roll(x, (8, 16), axis=(1, 2)), verbose=0)
    grid = np.roll(read.reshape(4, 8, 8, 11), (1, 2), axis=(1, 2))
    np.testing.assert_allclose(moved, grid.reshape(4, 64, 11), atol=1e-5)


def test_the_same_arguments_give_the_same_task(task):
    again = tasks.pentomino(n=2000, seed=1)
    np.testing.assert_array_equal(again.train.x, task.train.x)
    np.testing.assert_array_equal(again.test.y["same"], task.test.y["same"])
    for one, other in zip(
        task.build(1).get_weights(), again.build(1).get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert task.cuts["shapes"].ideal_activation(task.test.labels["shapes"]).shape[1:] == (
        64,
        11,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sprites": "mnist"}, "sprites='mnist'.*pentomino"),
        ({"n": 0}, "n=0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tasks.pentomino(**arguments)

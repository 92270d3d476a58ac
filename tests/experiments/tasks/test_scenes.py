"""Scenes of digits: what is in them, what the labels say, how the model is made."""

import itertools

import numpy as np
import pytest

import keras_e2e as e2e
from keras_e2e.experiments import tasks
from keras_e2e.experiments.tasks.scenes import INK, NONE


@pytest.fixture(scope="module")
def task():
    return tasks.scenes(n=200)


@pytest.fixture(scope="module")
def model(task):
    objectives = {
        name: e2e.objectives.IntermediateTarget(c.loss) for name, c in task.cuts.items()
    }
    model = e2e.modularize(task.build(0), objectives)
    model.compile("adam", task.loss, metrics=task.metrics, run_eagerly=True)
    return model


def crops(image):
    """All windows of 8x8 by their pixels."""
    windows = np.lib.stride_tricks.sliding_window_view(image, (8, 8))
    return [w.tobytes() for row in windows for w in row]


def test_each_object_is_a_digit_of_its_split_and_of_the_class_to_be_read(task):
    (train_x, train_y), (test_x, test_y) = tasks.load_digits()
    for split, images, classes in (
        (task.train, train_x, train_y),
        (task.validation, train_x, train_y),
        (task.test, test_x, test_y),
    ):
        known = {x.tobytes(): y for x, y in zip(images, classes, strict=True)}
        some = split.take(slice(0, 30))
        for scene, reading in zip(some.x[..., 0], some.y["reading"], strict=True):
            found = sorted(known[pixels] for pixels in crops(scene) if pixels in known)
            assert found == sorted(reading[reading != NONE])


def test_validation_has_digits_of_its_own(task):
    (x, _), _ = tasks.load_digits()
    known = {image.tobytes() for image in x}
    seen = [
        set().union(*(known.intersection(crops(scene)) for scene in split.x[:200, ..., 0]))
        for split in (task.train, task.validation)
    ]
    assert all(seen) and not seen[0] & seen[1]


def test_objects_are_numbered_from_left_to_right_in_columns_of_their_own(task):
    masks, reading = task.train.labels["segmentation"], task.train.y["reading"]
    counts = (reading != NONE).sum(axis=1)
    assert set(counts) == {2, 3, 4}
    for mask, line, count in zip(masks, reading, counts, strict=True):
        assert (line[count:] == NONE).all()
        assert set(np.unique(mask)) == set(range(count + 1))
        columns = [np.flatnonzero((mask == i).any(axis=0)) for i in range(1, count + 1)]
        for left, right in itertools.pairwise(columns):
            assert left.max() < right.min()


def test_the_ink_of_the_objects_is_labeled_and_the_clutter_is_not(task):
    clear = tasks.scenes(n=200, clutter=0)
    for split in (task.train, clear.train):
        bright = split.x[..., 0] > INK
        figure = split.labels["figure"] == 1
        np.testing.assert_array_equal(figure, split.labels["segmentation"] > 0)
        assert not (figure & ~bright).any()
        assert (bright & ~figure).any() == (split is task.train)


def test_scenes_fill_the_canvas(task):
    used = task.test.labels["figure"].any(axis=0)
    assert used.mean() > 0.95  # the corners of digits are dark


def test_chance_is_that_of_the_best_constant_answer(task):
    reading = task.test.y["reading"]
    best = [np.bincount(column).max() / len(column) for column in reading.T]
    assert np.mean(best) == pytest.approx(task.chance, abs=0.03)


def test_scenes_and_weights_go_by_their_seeds(task):
    again, other = tasks.scenes(n=200), tasks.scenes(n=200, seed=1)
    np.testing.assert_array_equal(task.train.x, again.train.x)
    assert (task.train.x != other.train.x).any()
    weights = [task.build(seed).get_weights() for seed in (3, 3, 4)]
    for one, two, three in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, two)
        assert np.isin(one, (0, 1)).all() or (one != three).any()  # biases
    kernels = {layer.name: layer.get_weights() for layer in task.build(0).layers}
    assert (kernels["order_2"][0] != kernels["order_3"][0]).any()


def test_stand_ins_are_what_the_cut_points_would_put_out_without_error(task):
    plain = task.build(0)
    for name, cut in task.cuts.items():
        labels = task.train.labels[name]
        right = cut.ideal_activation(labels)
        assert right.shape[1:] == plain.get_layer(name).output.shape[1:]
        named = right[..., 0] if right.shape[-1] == 1 else right.argmax(-1)
        np.testing.assert_array_equal(named, labels)


def test_the_reader_sees_no_more_than_the_masks_let_through(task, model):
    rest = model.downstream_model("segmentation")
    x, masks = task.test.x[:4], task.test.labels["segmentation"][:4]
    ideal_activation = task.cuts["segmentation"].ideal_activation(masks)
    before = rest.predict_on_batch([x, ideal_activation])
    ground = np.where(masks[..., None] > 0, x, 0.7)
    np.testing.assert_array_equal(rest.predict_on_batch([ground, ideal_activation]), before)
    assert (rest.predict_on_batch([0.5 * x, ideal_activation]) != before).any()


def test_the_reader_reads_the_slots_in_order(task, model):
    rest = model.downstream_model("segmentation")
    full = np.flatnonzero(task.test.y["reading"][:, 3] != NONE)[:4]
    x, masks = task.test.x[full], task.test.labels["segmentation"][full]
    ideal_activation = task.cuts["segmentation"].ideal_activation
    before = rest.predict_on_batch([x, ideal_activation(masks)])
    without = rest.predict_on_batch([x, ideal_activation(np.where(masks == 3, 0, masks))])
    changed = (abs(without - before) > 1e-6).any(axis=(0, 2))
    assert changed.tolist() == [False, False, True, True]


def test_every_layer_is_trained_end_to_end_and_locally(task, model):
    assert [m.name for m in model.modules] == ["figure", "segmentation", "reading"]
    split = task.train.take(slice(0, 8))
    for mode in ("end_to_end", "local"):
        model.set_weights(task.build(0).get_weights())
        model.training_mode = mode
        model.train_on_batch(split.x, split.targets())
        fresh = task.build(0).trainable_variables
        for variable, value in zip(model.trainable_variables, fresh, strict=True):
            assert (variable.numpy() != value.numpy()).any(), (mode, variable.path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 0}, "n=0: expected an integer of at least 1"),
        ({"seed": -1}, "seed=-1: expected an integer of at least 0"),
        ({"clutter": 1.5}, "clutter=1.5: expected an integer of at least 0"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        tasks.scenes(**change)

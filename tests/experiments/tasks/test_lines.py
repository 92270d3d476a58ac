"""Tuples of lines: what is drawn, how it is labeled, what the network is."""

import numpy as np
import pytest

from keras_e2e.experiments import tasks


@pytest.fixture(scope="module")
def task():
    return tasks.lines(3, n=3000, seed=1)


def test_a_line_is_labeled_by_the_way_it_rises(task):
    x = task.train.x.reshape(-1, 28, 28)
    rising = task.train.labels["rising"].reshape(-1)
    told = right = 0
    for image, label in zip(x, rising, strict=True):
        rows, columns = np.nonzero(image)
        if np.ptp(rows) < 3 or np.ptp(columns) < 3:
            continue  # cut off, or too flat or steep to tell
        slope = np.cov(columns, -rows)[0, 1]
        told += 1
        right += (slope > 0) == (label == 1)
    assert told > 0.4 * len(x)
    assert right == told


def test_lines_are_binary_centerd_anywhere_and_of_the_lengths_of_the_paper(task):
    x = task.train.x
    assert x.dtype == np.uint8 and x.shape == (3000, 3, 28, 28)
    assert set(np.unique(x)) == {0, 1}
    pixels = x.sum(axis=(2, 3), dtype=int)
    assert pixels.min() >= 1 and pixels.max() <= 21
    lengths = []
    for image in x.reshape(-1, 28, 28)[:2000]:
        if not any(edge.any() for edge in (image[0], image[-1], image[:, 0], image[:, -1])):
            ends = np.argwhere(image)
            lengths.append(np.hypot(*np.ptp(ends, axis=0)))
    # The half of a length, rounded down, is 2 to 11 pixels, the center among them.
    assert 18 < max(lengths) < 21 and np.mean(np.array(lengths) < 5) > 3 / 18
    spread = x.mean(axis=(0, 1))
    assert spread.min() > 0.2 * spread.max()  # no part of the canvas is left out
    assert task.train.labels["rising"].mean() == pytest.approx(0.5, abs=0.03)


def test_the_target_says_whether_the_number_of_rising_lines_is_odd(task):
    for split in task[2:5]:
        odd = split.labels["rising"].sum(axis=1) % 2 == 1
        np.testing.assert_array_equal(split.y["parity"][:, 0], np.where(odd, 1.0, -1.0))


def test_splits_have_images_of_their_own_and_repeat_with_the_seed(task):
    again = tasks.lines(3, n=3000, seed=1)
    np.testing.assert_array_equal(again.train.x, task.train.x)
    np.testing.assert_array_equal(again.test.x, task.test.x)
    assert not (task.validation.x == task.test.x).all(axis=(1, 2, 3)).any()


def test_the_network_is_that_of_the_paper_and_reads_each_image_alike(task):
    model = task.build(3)
    # 5x5 convolutions to 16 channels, 50, 100 and 1 units, then 100 and 1.
    sizes = [416, 6416, 7 * 7 * 16 * 50 + 50, 5100, 101, 3 * 100 + 100, 101]
    assert model.count_params() == sum(sizes)
    assert model.get_layer("conv_1").activation.__name__ == "linear"
    reader = type(model)(model.inputs, model.get_layer("rising").output)
    x = task.train.x[:8]
    read = reader.predict(x, verbose=0)
    assert read.min() > 0 and read.max() < 1
    turned = reader.predict(x[:, ::-1], verbose=0)
    np.testing.assert_allclose(turned, read[:, ::-1], atol=1e-5)
    for one, other in zip(model.get_weights(), task.build(3).get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_ceiling_is_that_of_parity(task):
    assert task.ceiling(0.1) == tasks.parity_ceiling(0.1, 3)
    stands = task.cuts["rising"].ideal_activation(task.train.labels["rising"][:5])
    assert stands.shape == (5, 3, 1) and stands.dtype == np.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"k": 0}, "k=0"), ({"k": 2, "n": 0}, "n=0"), ({"k": 2, "seed": -1}, "seed=-1")],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tasks.lines(**arguments)

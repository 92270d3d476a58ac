"""Letters and pictures of numbers, and reading pictures by the nearest one."""

import keras
import numpy as np
import pytest

from keras_e2e.experiments import tasks
from keras_e2e.experiments.tasks.numerals import ALPHABETS, write

VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}


@pytest.mark.parametrize(
    ("number", "written"),
    [
        (1, "I"),
        (4, "IV"),
        (9, "IX"),
        (14, "XIV"),
        (39, "XXXIX"),
        (40, "XL"),
        (88, "LXXXVIII"),
        (90, "XC"),
        (99, "XCIX"),
        (199, "CXCIX"),
        (399, "CCCXCIX"),
    ],
)
def test_roman_numbers_are_written_as_usual(number, written):
    assert write(number, "roman") == written


def test_every_roman_number_reads_as_itself():
    for number in range(1, 400):
        values = [VALUES[letter] for letter in write(number, "roman")]
        # A letter before a larger one is taken away.
        signed = [
            -v if i + 1 < len(values) and v < values[i + 1] else v
            for i, v in enumerate(values)
        ]
        assert sum(signed) == number


@pytest.mark.parametrize("notation", ["roman", "decimal"])
def test_letters_and_pictures_are_flush_right_and_all_different(notation):
    letters = tasks.numeral_letters(notation, 99)
    pictures = tasks.numeral_images(notation, 99)
    assert letters.shape[1] * 20 == pictures.shape[1]
    assert not letters[0].any() and not pictures[0].any()
    for number in range(1, 100):
        word = letters[number][letters[number] > 0]
        assert (letters[number][-len(word) :] == word).all()
        assert "".join(ALPHABETS[notation][i - 1] for i in word) == write(number, notation)
    for rows in (letters, pictures):
        assert len({row.tobytes() for row in rows}) == 100
    # Each letter looks the same wherever it stands, and like no other.
    cells = pictures.reshape(100, 5, -1, 4).transpose(0, 2, 1, 3).reshape(-1, 20)
    looks = {
        (int(i), cell.tobytes()) for i, cell in zip(letters.ravel(), cells, strict=True)
    }
    assert len(looks) == len({cell for _, cell in looks}) == len(np.unique(letters))


def test_a_picture_is_read_as_the_nearest_number():
    pictures = tasks.numeral_images("roman", 30)
    rng = np.random.default_rng(0)
    drawn = rng.random((200, pictures.shape[1])).astype("float32")
    right = pictures[rng.integers(1, 31, size=200)]
    distances = ((drawn[:, None] - pictures[None, 1:]) ** 2).sum(axis=2)
    nearest = pictures[1:][distances.argmin(axis=1)]
    expected = (nearest == right).all(axis=1).mean()
    metric = tasks.NearestNumeral("roman", 30)
    for half in (slice(0, 50), slice(50, 200)):
        metric.update_state(right[half], drawn[half])
    assert float(metric.result()) == pytest.approx(expected)
    again = keras.metrics.deserialize(keras.metrics.serialize(metric))
    again.update_state(nearest, drawn)
    assert float(again.result()) == 1.0 and again.name == "accuracy"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("greek", 10), "notation='greek'.*roman"),
        (("roman", 0), "largest=0"),
        (("decimal", 400), "largest=400.*399"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    for make in (tasks.numeral_letters, tasks.numeral_images, tasks.NearestNumeral):
        with pytest.raises(ValueError, match=message):
            make(*arguments)

"""Roman and decimal numbers: their letters, their pictures, and how to read a picture."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_e2e.utils.validation import check_integer

HEIGHT, WIDTH = 5, 4
"""Pixels of a place: a letter and one empty column on its right."""

GLYPHS = {
    "I": "### .#. .#. .#. ###",
    "V": "#.# #.# #.# #.# .#.",
    "X": "#.# #.# .#. #.# #.#",
    "L": "#.. #.. #.. #.. ###",
    "C": "### #.. #.. #.. ###",
    "0": "### #.# #.# #.# ###",
    "1": ".#. ##. .#. .#. ###",
    "2": "### ..# ### #.. ###",
    "3": "### ..# ### ..# ###",
    "4": "#.# #.# ### ..# ..#",
    "5": "### #.. ### ..# ###",
    "6": "### #.. ### #.# ###",
    "7": "### ..# ..# ..# ..#",
    "8": "### #.# ### #.# ###",
    "9": "### #.# ### ..# ###",
}
ALPHABETS = {"roman": "IVXLC", "decimal": "0123456789"}
ROMAN = {100: "C", 90: "XC", 50: "L", 40: "XL", 10: "X", 9: "IX", 5: "V", 4: "IV", 1: "I"}
LIMIT = 399
"""400 needs a letter that is not there (D)."""


def alphabet(notation: str) -> str:
    """The letters of a notation, "roman" or "decimal"; a ValueError for any other."""
    if notation not in ALPHABETS:
        raise ValueError(f"notation={notation!r}: expected one of {sorted(ALPHABETS)}.")
    return ALPHABETS[notation]


def write(number: int, notation: str) -> str:
    """A number from 1 to 399 in letters.

    Example:

    >>> from keras_e2e.experiments.tasks.numerals import write
    >>> write(248, "roman"), write(248, "decimal")
    ('CCXLVIII', '248')
    """
    if notation == "decimal":
        return str(number)
    written = ""
    for value, letters in ROMAN.items():
        count, number = divmod(number, value)
        written += count * letters
    return written


def numeral_letters(notation: str, largest: int) -> np.ndarray:
    """The letters of the numbers from 0 to `largest`, flush right.

    Args:
        notation: String, "roman" or "decimal".
        largest: Integer from 1 to 399.

    Returns:
        int32 of shape (largest + 1, places): places in the alphabet from 1 on, 0 for none.
        Row 0 is empty, so that a number's row is the number.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> from keras_e2e import tasks
    >>> tasks.numeral_letters("roman", 5)[4:].tolist()
    [[0, 1, 2], [0, 0, 2]]
    """
    known = alphabet(notation)
    check_integer("largest", largest, 1)
    if largest > LIMIT:
        raise ValueError(f"largest={largest}: expected from 1 to {LIMIT}.")
    written = ["", *(write(number, notation) for number in range(1, largest + 1))]
    letters = np.zeros((largest + 1, max(map(len, written))), "int32")
    for row, word in zip(letters, written, strict=True):
        row[len(row) - len(word) :] = [known.index(letter) + 1 for letter in word]
    return letters


def numeral_images(notation: str, largest: int) -> np.ndarray:
    """Pictures of the numbers from 0 to `largest`: flat, binary, of five rows.

    Args:
        notation: String, "roman" or "decimal".
        largest: Integer from 1 to 399.

    Returns:
        float32 of shape (largest + 1, 20 places); row 0 is empty.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> from keras_e2e import tasks
    >>> picture = tasks.numeral_images("roman", 4)[4].reshape(5, -1)
    >>> for row in picture.astype(int):
    ...     print("".join("-#"[value] for value in row))
    ----###-#-#-
    -----#--#-#-
    -----#--#-#-
    -----#--#-#-
    ----###--#--
    """
    letters = numeral_letters(notation, largest)
    glyphs = np.zeros((len(alphabet(notation)) + 1, HEIGHT, WIDTH), "float32")
    for glyph, letter in zip(glyphs[1:], alphabet(notation), strict=True):
        rows = [list(row) for row in GLYPHS[letter].split()]
        glyph[:, : WIDTH - 1] = np.array(rows) == "#"
    # From (number, place, row, column) to rows that run through all places.
    return glyphs[letters].transpose(0, 2, 1, 3).reshape(largest + 1, -1)


@keras.saving.register_keras_serializable("keras_e2e")
class NearestNumeral(keras.metrics.MeanMetricWrapper):
    """The share of pictures that are nearest to that of the right number.

    Args:
        notation: String, "roman" or "decimal".
        largest: Integer from 1 to 399; the picture is compared with those of the numbers
            from 1 to this.
        name: String, the name in the logs. Defaults to "accuracy".
        dtype: Dtype of the metric's values. Defaults to None, as in Keras.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> from keras_e2e import tasks
    >>> pictures = tasks.numeral_images("roman", 10)
    >>> metric = tasks.NearestNumeral("roman", 10)
    >>> metric.update_state(pictures[[4, 6]], 0.9 * pictures[[4, 5]])
    >>> float(metric.result())
    0.5
    """

    def __init__(
        self, notation: str, largest: int, name: str = "accuracy", dtype: Any = None
    ):
        pictures = numeral_images(notation, largest)[1:]

        def right(y_true: Any, y_pred: Any) -> Any:
            return ops.equal(_nearest(pictures, y_true), _nearest(pictures, y_pred))

        super().__init__(right, name=name, dtype=dtype)
        self.notation = notation
        self.largest = largest

    def get_config(self):
        return {
            "notation": self.notation,
            "largest": self.largest,
            "name": self.name,
            "dtype": self.dtype,
        }


def _nearest(pictures: np.ndarray, given: Any) -> Any:
    """The place of the nearest picture, by Euclidean distance."""
    # |a - b|^2 without |a|^2, which is the same for all b.
    products = ops.matmul(given, ops.transpose(ops.cast(pictures, given.dtype)))
    return ops.argmax(products - 0.5 * (pictures**2).sum(axis=1), axis=-1)

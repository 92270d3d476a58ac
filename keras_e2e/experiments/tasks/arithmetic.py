"""Pictures of two numbers in, the picture of their sum out.

In the form of Hoshen & Peleg 2016 ("Visual Learning of Arithmetic Operations", AAAI). They
report that decimal numbers are learned end to end and Roman ones are not, until the
task is split into recognition and arithmetic. With the small numbers here it was the
other way round (BUILD_NOTES.md).
"""

import keras
import numpy as np

from keras_e2e.experiments.tasks.numerals import (
    LIMIT,
    NearestNumeral,
    alphabet,
    numeral_images,
    numeral_letters,
)
from keras_e2e.experiments.tasks.seeded import seeded_dense
from keras_e2e.experiments.tasks.task import Split, Task, class_cut
from keras_e2e.utils.validation import check_integer

HELD_OUT_SHARE = 0.1
# Chosen by hand, not tuned.
READER, ADDER, PAINTER = 256, 512, 256


def arithmetic(
    notation: str = "roman", largest: int = 99, n: int = 20000, seed: int = 0
) -> Task:
    """The picture of the sum of two numbers, from their pictures.

    After Hoshen & Peleg 2016, whose numbers are larger (seven decimals). Pictures are
    binary, in letters of 5x3 pixels, flush right. The modules, by the layer that ends it:

    - `letters`: reads each of the two pictures, a softmax over the letters at each place;
      labels: the letters, 0 for none.
    - `sum`: adds, a softmax over the letters of the sum at each place; labels: the same of
      the sum.
    - `picture`, the output: paints the sum.

    Args:
        notation: String, "roman" or "decimal". Defaults to "roman".
        largest: Integer from 2 to 199; the numbers are from 1 to this. Defaults to 99.
        n: Integer, training examples, with repetition. Of all pairs of numbers one in ten
            is kept for validation, another one for the test; no training example shows
            them. Defaults to 20,000.
        seed: Integer seed of the splits and draws, at least 0. Defaults to 0.

    Returns:
        A `Task` with flat pictures, inputs float32 of shape (n, 2, pixels) and targets of
        shape (n, pixels); a picture has 5 rows. Its metric is `NearestNumeral`; `chance` is
        that of always painting the most frequent sum. There is no formula for the ceiling.

    Raises:
        ValueError: If a number is out of range or the notation is unknown.

    Example:

    >>> from keras_e2e import tasks
    >>> task = tasks.arithmetic(largest=20, n=100)
    >>> task.train.x.shape, {name: y.shape for name, y in task.train.targets().items()}
    ((100, 2, 140), {'picture': (100, 140), 'letters': (100, 2, 7), 'sum': (100, 7)})
    """
    check_integer("largest", largest, 2)
    check_integer("n", n, 1)
    check_integer("seed", seed, 0)
    if largest > LIMIT // 2:
        raise ValueError(f"largest={largest}: expected from 2 to {LIMIT // 2}.")
    pictures = numeral_images(notation, 2 * largest)
    letters = numeral_letters(notation, 2 * largest)
    classes = len(alphabet(notation)) + 1
    rng = np.random.default_rng(seed)
    pairs = 1 + np.stack(np.divmod(rng.permutation(largest**2), largest), axis=1)
    kept = max(1, round(HELD_OUT_SHARE * len(pairs)))
    drawn = rng.integers(2 * kept, len(pairs), size=n)

    def split(numbers: np.ndarray) -> Split:
        sums = numbers.sum(axis=1)
        return Split(
            pictures[numbers],
            {"picture": pictures[sums]},
            {"letters": letters[numbers], "sum": letters[sums]},
        )

    def build(model_seed: int) -> keras.Model:
        return arithmetic_model(letters.shape[1], classes, pictures.shape[1], model_seed)

    cut = class_cut(classes)
    return Task(
        f"sum of two {notation} numbers up to {largest}",
        build,
        split(pairs[drawn]),
        split(pairs[:kept]),
        split(pairs[kept : 2 * kept]),
        {"letters": cut, "sum": cut},
        "binary_crossentropy",
        [NearestNumeral(notation, 2 * largest)],
        # Of all largest**2 pairs, `largest` have the sum largest + 1.
        1.0 / largest,
    )


def arithmetic_model(places: int, classes: int, pixels: int, seed: int = 0) -> keras.Model:
    """Builds the stock Keras model of `arithmetic`, without boundaries.

    The layers, by name: `pictures` (input) → on each picture `reader` (256, ReLU) →
    `letters` (softmax at each place) → `operands` (both in a row) → `adder` (512, ReLU) →
    `sum` (softmax at each place) → `symbols` (in a row) → `painter` (256, ReLU) → `picture`
    (sigmoid).

    Args:
        places: Integer, the letters in a picture, at least 1.
        classes: Integer, the letters to choose from, "none" included, at least 1.
        pixels: Integer, the pixels of a picture, at least 1.
        seed: Integer seed of the weights, at least 0. The same seed gives the same weights.
            Defaults to 0.

    Returns:
        A `keras.Model` from (batch, 2, pixels) to (batch, pixels). Not compiled.

    Raises:
        ValueError: If a number is out of range.

    Example:

    >>> from keras_e2e import tasks
    >>> model = tasks.arithmetic_model(places=7, classes=6, pixels=140)
    >>> [model.get_layer(name).output.shape for name in ("letters", "sum")]
    [(None, 2, 7, 6), (None, 7, 6)]
    """
    check_integer("places", places, 1)
    check_integer("classes", classes, 1)
    check_integer("pixels", pixels, 1)
    check_integer("seed", seed, 0)
    layers = keras.layers
    dense = seeded_dense(seed, 6)

    pictures = keras.Input((2, int(pixels)), name="pictures")
    x = dense("reader", READER, "relu")(pictures)
    x = dense("letter_scores", places * classes)(x)
    x = layers.Reshape((2, int(places), int(classes)), name="places")(x)
    x = layers.Softmax(name="letters")(x)
    x = layers.Flatten(name="operands")(x)
    x = dense("adder", ADDER, "relu")(x)
    x = dense("sum_scores", places * classes)(x)
    x = layers.Reshape((int(places), int(classes)), name="sum_places")(x)
    x = layers.Softmax(name="sum")(x)
    x = layers.Flatten(name="symbols")(x)
    x = dense("painter", PAINTER, "relu")(x)
    picture = dense("picture", pixels, "sigmoid")(x)
    return keras.Model(pictures, picture, name="arithmetic_model")

"""Scenes of several digits: find the ink, separate the objects, read them in order.

A system of three networks for two tasks, segmentation and classification: a CNN that
separates figure and ground, a CNN that says which object each pixel belongs to, and an
RNN that reads the objects one after another.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_e2e.experiments.tasks.datasets import split_images
from keras_e2e.experiments.tasks.seeded import seeded_initializers
from keras_e2e.experiments.tasks.task import Cut, Split, Task, as_probability, class_cut
from keras_e2e.utils.validation import check_integer

HEIGHT, WIDTH = 16, 48
DIGIT = 8
FEWEST, SLOTS = 2, 4
NONE = 10
"""The class of a slot without an object."""
INK = 0.25
"""Brightness above which a pixel of a digit counts as its ink."""
PIECE = 3
HELD_OUT = 1000


def scenes(n: int = 8000, seed: int = 0, clutter: int = 8) -> Task:
    """The classes of 2 to 4 digits in a scene, from left to right.

    A scene is a canvas of 16x48 pixels with real digits of 8x8 (scikit-learn's) at random
    places, in columns of their own so that "left to right" is certain. Pieces of other
    digits lie around them, not over them, as clutter (after the cluttered MNIST of Mnih
    et al. 2014, "Recurrent Models of Visual Attention").

    The modules, by the layer that ends it:

    - `figure`: a CNN that says of each pixel whether it is ink of a digit; labels 0 or 1.
    - `segmentation`: a CNN that sees that alone and says which object each pixel belongs
      to: 0 is the ground, 1 to 4 are the objects from left to right.
    - `reading`, the output: each object's pixels (the raw image times the mask) go through
      a small CNN, and an RNN (GRU) reads the four slots in order; 10 is "no object".

    Args:
        n: Integer, training scenes. There are 1,000 each for validation and test, of digits
            that occur in no other split. Defaults to 8,000.
        seed: Integer seed of the splits and scenes, at least 0. Defaults to 0.
        clutter: Integer, the pieces of 3x3 pixels in a scene, at least 0. Defaults to 8.

    Returns:
        A `Task` whose inputs are float32 of shape (n, 16, 48, 1) in [0, 1], with labels of
        shape (n, 16, 48) at both cut points. Its metric counts slots; `chance` is that of
        the best constant answer. There is no formula for the ceiling.

    Raises:
        ValueError: If a number is out of range.

    Example:

    >>> from keras_e2e import tasks
    >>> task = tasks.scenes(n=100)
    >>> task.train.x.shape, task.train.y["reading"].shape, list(task.cuts)
    ((100, 16, 48, 1), (100, 4), ['figure', 'segmentation'])
    """
    check_integer("n", n, 1)
    check_integer("seed", seed, 0)
    check_integer("clutter", clutter, 0)
    train, validation, test = (
        _scenes(images, classes, size, clutter, 3 * seed + number)
        for number, ((images, classes), size) in enumerate(
            zip(split_images("digits", seed), (n, HELD_OUT, HELD_OUT), strict=True)
        )
    )
    # The best constant answer to a slot: "none" where most are empty, else any class.
    counts = range(FEWEST, SLOTS + 1)
    filled = [np.mean([count > slot for count in counts]) for slot in range(SLOTS)]
    return Task(
        "scenes of digits",
        scene_model,
        train,
        validation,
        test,
        {
            "figure": Cut("binary_crossentropy", as_probability, 2),
            "segmentation": class_cut(SLOTS + 1),
        },
        "sparse_categorical_crossentropy",
        ["accuracy"],
        float(np.mean([max(share / NONE, 1.0 - share) for share in filled])),
    )


def scene_model(seed: int = 0) -> keras.Model:
    """Builds the stock Keras model of `scenes`, without boundaries.

    The layers, by name: `scene` (input) → `figure_1`, `figure_2` → `figure` → `objects_1`,
    `objects_2` → along the columns `order_1` to `order_4` → joined with `objects_2` again
    → `objects_3` → `segmentation` → `glimpse_1`, `glimpse_2` of each slot → `gru` →
    `reading`. Sizes chosen by hand to be quick on a CPU.

    Args:
        seed: Integer seed of the weights, at least 0. The same seed gives the same weights.
            Defaults to 0.

    Returns:
        A `keras.Model` from (batch, 16, 48, 1) to the classes of the four slots,
        (batch, 4, 11). Not compiled.

    Raises:
        ValueError: If `seed` is negative.

    Example:

    >>> from keras_e2e import tasks
    >>> model = tasks.scene_model()
    >>> model.get_layer("segmentation").output.shape, model.output_shape
    ((None, 16, 48, 5), (None, 4, 11))
    """
    check_integer("seed", seed, 0)
    draw, layers = seeded_initializers(seed, 16), keras.layers

    def conv(kind: type, name: str, filters: int, size: Any, **more: Any) -> Any:
        more = {"padding": "same", "activation": "relu", **more}
        return kind(filters, size, kernel_initializer=draw(), name=name, **more)

    image = keras.Input((HEIGHT, WIDTH, 1), name="scene")
    x = conv(layers.Conv2D, "figure_1", 16, 5, strides=2)(image)
    x = conv(layers.Conv2D, "figure_2", 16, 3)(x)
    up = {"strides": 2, "activation": "sigmoid"}
    x = figure = conv(layers.Conv2DTranspose, "figure", 1, 2, **up)(x)

    x = conv(layers.Conv2D, "objects_1", 16, 5, strides=2)(figure)
    local = conv(layers.Conv2D, "objects_2", 16, 3)(x)
    # Which one from the left is a matter of the columns: each is seen whole, and they
    # look at one another ever more widely.
    x = conv(layers.Conv2D, "order_1", 32, (HEIGHT // 2, 1), padding="valid")(local)
    x = layers.Reshape((WIDTH // 2, 32), name="columns")(x)
    for i, dilation in enumerate((1, 2, 4), 2):
        x = conv(layers.Conv1D, f"order_{i}", 32, 5, dilation_rate=dilation)(x)
    x = layers.Reshape((1, WIDTH // 2, 32), name="of_columns")(x)
    x = layers.UpSampling2D((HEIGHT // 2, 1), name="of_pixels")(x)
    x = layers.Concatenate(name="joined")([local, x])
    x = conv(layers.Conv2D, "objects_3", 16, 1)(x)
    up = {"strides": 2, "activation": "softmax"}
    masks = conv(layers.Conv2DTranspose, "segmentation", SLOTS + 1, 2, **up)(x)

    x = layers.Multiply(name="masked")([image, masks[..., 1:]])
    return keras.Model(image, _read(x, conv, draw), name="scene_model")


def _read(masked: Any, conv: Callable[..., Any], draw: Callable[..., Any]) -> Any:
    """The classes of the objects, from an image for each slot."""
    layers = keras.layers
    # Each slot is an image of its own: the raw one, as far as the mask lets it through.
    x = layers.Permute((3, 1, 2), name="slots")(masked)
    x = ops.reshape(x, (-1, HEIGHT, WIDTH, 1))
    x = conv(layers.Conv2D, "glimpse_1", 16, 5, strides=2)(x)
    x = conv(layers.Conv2D, "glimpse_2", 32, 3, strides=2)(x)
    x = layers.GlobalMaxPooling2D(name="seen")(x)
    x = ops.reshape(x, (-1, SLOTS, 32))
    x = layers.GRU(
        48,
        return_sequences=True,
        unroll=True,
        kernel_initializer=draw(),
        recurrent_initializer=draw(keras.initializers.Orthogonal),
        name="gru",
    )(x)
    reading = layers.Dense(
        NONE + 1, activation="softmax", kernel_initializer=draw(), name="reading"
    )(x)
    return reading


def _scenes(
    images: np.ndarray, classes: np.ndarray, n: int, clutter: int, seed: int
) -> Split:
    """Composes scenes from flat digits."""
    rng = np.random.default_rng(seed)
    images = images.reshape(-1, DIGIT, DIGIT)
    x = np.zeros((n, HEIGHT, WIDTH), "float32")
    for _ in range(clutter):
        # Cut out of the middle, where the ink is.
        tops, lefts = rng.integers(1, DIGIT - PIECE, (2, n))
        whole = images[rng.integers(len(images), size=n)]
        pieces = whole[_box(np.arange(n), tops, lefts, PIECE)]
        rows = rng.integers(HEIGHT - PIECE + 1, size=n)
        columns = rng.integers(WIDTH - PIECE + 1, size=n)
        x[_box(np.arange(n), rows, columns, PIECE)] = pieces

    masks = np.zeros(x.shape, "int32")
    reading = np.full((n, SLOTS), NONE, "int32")
    counts = rng.integers(FEWEST, SLOTS + 1, size=n)
    drawn = rng.integers(len(images), size=(n, SLOTS))
    tops = rng.integers(HEIGHT - DIGIT + 1, size=(n, SLOTS))
    # Room to spare, shared out at random before the objects.
    spare = rng.random((n, SLOTS)) * (WIDTH - DIGIT * counts + 1)[:, None]
    spare[np.arange(SLOTS) >= counts[:, None]] = np.inf
    spare.sort(axis=1)
    for slot in range(SLOTS):
        rows = np.flatnonzero(counts > slot)
        lefts = spare[rows, slot].astype(int) + DIGIT * slot
        digits = images[drawn[rows, slot]]
        place = _box(rows, tops[rows, slot], lefts, DIGIT)
        x[place] = digits
        masks[place] = np.where(digits > INK, slot + 1, 0)
        reading[rows, slot] = classes[drawn[rows, slot]]
    labels = {"figure": (masks > 0).astype("int32"), "segmentation": masks}
    return Split(x[..., None], {"reading": reading}, labels)


def _box(
    which: np.ndarray, tops: np.ndarray, lefts: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of a square box in each of the images."""
    inside = np.arange(size)
    rows = tops[:, None, None] + inside[:, None]
    return which[:, None, None], rows, lefts[:, None, None] + inside

"""Three small shapes among empty patches: are they all of one kind?

The task of Gulcehre & Bengio 2016 ("Knowledge Matters: Importance of Prior Information for
Optimization", JMLR 17), with their shapes or with images of classes.
"""

from collections.abc import Callable

import keras
import numpy as np

from keras_e2e.experiments.tasks.datasets import split_images
from keras_e2e.experiments.tasks.digit_tasks import ENCODERS
from keras_e2e.experiments.tasks.seeded import seeded_dense
from keras_e2e.experiments.tasks.task import Split, Task, class_cut
from keras_e2e.utils.validation import check_integer

# The five pentominoes that have a mirror image of their own and fit into a patch at twice
# the size, with their mirror images: ten classes, as in the paper.
SHAPES = {
    "L": "#. #. #. ##",
    "N": ".# .# ## #.",
    "P": "## ## #.",
    "F": ".## ##. .#.",
    "Y": ".# ## .# .#",
}
CLASSES = 10
EMPTY = 10
"""The class of a patch without a sprite."""
GRID, PATCH = 8, 8
"""Patches in a row or column of an image; pixels in a row or column of a patch."""
SPRITES = 3
HELD_OUT = 2000

Draw = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""Makes a patch for each of the classes given."""


def pentomino(sprites: str = "pentomino", n: int = 20000, seed: int = 0) -> Task:
    """Whether the three sprites in an image are all of the same class.

    An image of 64x64 pixels is a grid of 8x8 patches, three of which hold a sprite. In half
    of the images all three are of one class; in the others one is of another class than the
    two others.

    Of Gulcehre & Bengio 2016: the images, with ten pentominoes (five and their mirror
    images) turned by a multiple of 90 degrees, of single or double size, anywhere in their
    patch; the sizes of the network; and the hints at the cut point `shapes`, the class of
    each patch. Their optimizer, and the standardization that some of their networks have
    between the two parts, were left out.

    Args:
        sprites: String: "pentomino"; or images as they are, neither turned nor scaled:
            "digits" (8x8 pixels) or "fashion_mnist" (reduced to 7x7 pixels by averages).
            Defaults to "pentomino".
        n: Integer, training images, of 16 kB each. There are 2,000 each for validation and
            test, of digits or clothes that occur in no other split. Defaults to 20,000.
        seed: Integer seed of the splits and images, at least 0. Defaults to 0.

    Returns:
        A `Task` whose inputs are float32 of shape (n, 64, 64) in [0, 1], with labels of
        shape (n, 64), row by row, in which 10 is an empty patch. There is no formula for
        the ceiling.

    Raises:
        ValueError: If a number is out of range or the sprites are unknown.

    Example:

    >>> from keras_e2e import tasks
    >>> task = tasks.pentomino(n=100)
    >>> task.train.x.shape, {name: y.shape for name, y in task.train.targets().items()}
    ((100, 64, 64), {'same': (100, 1), 'shapes': (100, 64)})
    """
    check_integer("n", n, 1)
    check_integer("seed", seed, 0)
    known = ("pentomino", *ENCODERS)
    if sprites not in known:
        raise ValueError(f"sprites={sprites!r}: expected one of {sorted(known)}.")
    if sprites == "pentomino":
        ways: list[Draw] = [_pentominoes] * 3
    else:
        ways = [_of_images(_small(x), y) for x, y in split_images(sprites, seed)]
    train, validation, test = (
        _scenes(draw, size, np.random.default_rng(3 * seed + number))
        for number, (draw, size) in enumerate(
            zip(ways, (n, HELD_OUT, HELD_OUT), strict=True)
        )
    )
    return Task(
        f"three sprites of {sprites}",
        pentomino_model,
        train,
        validation,
        test,
        {"shapes": class_cut(CLASSES + 1)},
        "binary_crossentropy",
        ["accuracy"],
        0.5,
    )


def pentomino_model(seed: int = 0) -> keras.Model:
    """Builds the stock Keras model of `pentomino`, without boundaries.

    The layers, by name: `image` (input) → cut into patches → on each patch `encoder` (512,
    ReLU) → `shapes` (11, softmax) → `flatten` → `classifier` (512, ReLU) → `same` (1,
    sigmoid).

    Args:
        seed: Integer seed of the weights, at least 0. The same seed gives the same weights.
            Defaults to 0.

    Returns:
        A `keras.Model` from (batch, 64, 64) to the probability that all sprites are of one
        class, (batch, 1). Not compiled.

    Raises:
        ValueError: If `seed` is negative.

    Example:

    >>> from keras_e2e import tasks
    >>> model = tasks.pentomino_model()
    >>> model.get_layer("shapes").output.shape, model.output_shape
    ((None, 64, 11), (None, 1))
    """
    check_integer("seed", seed, 0)
    layers = keras.layers
    dense = seeded_dense(seed, 4)

    image = keras.Input((GRID * PATCH, GRID * PATCH), name="image")
    x = layers.Reshape((GRID, PATCH, GRID, PATCH), name="bands")(image)
    x = layers.Permute((1, 3, 2, 4), name="grid")(x)
    x = layers.Reshape((GRID * GRID, PATCH * PATCH), name="patches")(x)
    x = dense("encoder", 512, "relu")(x)
    x = dense("shapes", CLASSES + 1, "softmax")(x)
    x = layers.Flatten(name="flatten")(x)
    x = dense("classifier", 512, "relu")(x)
    return keras.Model(image, dense("same", 1, "sigmoid")(x), name="pentomino_model")


def _scenes(draw: Draw, n: int, rng: np.random.Generator) -> Split:
    """Draws classes, places and sprites."""
    same = rng.permutation(np.arange(n) % 2)
    classes = np.repeat(rng.integers(CLASSES, size=(n, 1)), SPRITES, axis=1)
    # Of three sprites that differ, the first is the odd one; where it lies is random.
    classes[:, 0] += (1 - same) * rng.integers(1, CLASSES, size=n)
    classes %= CLASSES
    places = rng.random((n, GRID * GRID)).argpartition(SPRITES, axis=1)[:, :SPRITES]
    rows = np.arange(n)[:, None]
    labels = np.full((n, GRID * GRID), EMPTY, "int32")
    labels[rows, places] = classes
    grid = np.zeros((n, GRID, PATCH, GRID, PATCH), "float32")
    grid[rows, places // GRID, :, places % GRID] = draw(classes, rng)
    x = grid.reshape(n, GRID * PATCH, GRID * PATCH)
    return Split(x, {"same": same[:, None].astype("float32")}, {"shapes": labels})


def _pentominoes(classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pentominoes of these classes: turned, scaled and moved at random."""
    images, sizes = _views()
    turns, scales = rng.integers(4, size=classes.shape), rng.integers(2, size=classes.shape)
    room = PATCH + 1 - sizes[classes, turns, scales]
    tops, lefts = np.moveaxis((rng.random((*classes.shape, 2)) * room).astype(int), -1, 0)
    inside = np.arange(PATCH)
    # A sprite lies in the upper left corner: moved within its room, nothing wraps around.
    rows = (inside[:, None] - tops[..., None, None]) % PATCH
    columns = (inside - lefts[..., None, None]) % PATCH
    which = (part[..., None, None] for part in (classes, turns, scales))
    return images[(*which, rows, columns)]


def _views() -> tuple[np.ndarray, np.ndarray]:
    """Images and sizes of all classes, by quarter turns and scale less one."""
    images = np.zeros((CLASSES, 4, 2, PATCH, PATCH), "float32")
    sizes = np.zeros((CLASSES, 4, 2, 2), int)
    drawn = [np.array([list(row) for row in s.split()]) == "#" for s in SHAPES.values()]
    for label, shape in enumerate([*drawn, *(np.fliplr(shape) for shape in drawn)]):
        for turns in range(4):
            for scale in (1, 2):
                view = np.kron(np.rot90(shape, turns), np.ones((scale, scale)))
                height, width = sizes[label, turns, scale - 1] = view.shape
                images[label, turns, scale - 1, :height, :width] = view
    return images, sizes


def _of_images(images: np.ndarray, labels: np.ndarray) -> Draw:
    """Draws from these images, uniformly and with replacement."""
    members = [np.flatnonzero(labels == label) for label in range(CLASSES)]

    def draw(classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        chosen = np.empty(classes.shape, int)
        for label, rows in enumerate(members):
            here = classes == label
            chosen[here] = rng.choice(rows, here.sum())
        return images[chosen]

    return draw


def _small(x: np.ndarray) -> np.ndarray:
    """Flat images as patches of 8x8; those of 28x28 by averages over 4x4 pixels."""
    side = round(x.shape[1] ** 0.5)
    if side == PATCH:
        return x.reshape(-1, PATCH, PATCH)
    block = side // (PATCH - 1)
    reduced = x.reshape(-1, PATCH - 1, block, PATCH - 1, block).mean(axis=(2, 4))
    return np.pad(reduced, ((0, 0), (0, 1), (0, 1)))

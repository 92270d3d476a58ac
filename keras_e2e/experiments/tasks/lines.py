"""Tuples of images of a line, by the parity of their slopes.

The experiment of Shalev-Shwartz, Shamir & Shammah 2017 ("Failures of Gradient-Based Deep
Learning", section 3.1): its images, its network and its settings.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_e2e.experiments.tasks.image_tuples import parity_ceiling
from keras_e2e.experiments.tasks.metrics import sign_accuracy
from keras_e2e.experiments.tasks.seeded import seeded_initializers
from keras_e2e.experiments.tasks.task import Cut, Split, Task, as_probability
from keras_e2e.utils.validation import check_integer

SIZE = 28
SHORTEST, LONGEST = 5, 23
HELD_OUT = 2000


def lines(k: int, n: int = 50000, seed: int = 0) -> Task:
    """Whether the number of rising lines among k images is odd.

    Each image is binary, 28x28, with one line: its angle is uniform in [0, pi], its length
    in [5, 23], its center in the image; what lies outside is cut off. A line rises if its
    angle is below pi/2. Lines near 0 and near pi look alike, so no reader of the images is
    always right.

    Of Shalev-Shwartz, Shamir & Shammah 2017, section 3.1: the images; the network, with the
    cut point `rising` where its first part ends; the hinge loss; batches of 200; Adam with
    a rate of 1e-3, betas of .9 and .99, and an epsilon of 1e-5. Of theirs are 500,000
    tuples, here `n`. They teach `rising` by the hinge loss of the value under the sigmoid,
    here it is by the cross-entropy.

    Args:
        k: Integer, the images in a tuple, at least 1.
        n: Integer, training tuples, of 784 k bytes each. There are 2,000 each for
            validation and test, of images of their own. With few tuples the network
            memorizes them. Defaults to 50,000.
        seed: Integer seed of the images, at least 0. Defaults to 0.

    Returns:
        A `Task` whose inputs are 0 or 1, uint8. The target is +1 or -1, the metric
        `sign_accuracy`, and the ceiling that of `parity_ceiling`.

    Raises:
        ValueError: If a number is out of range.

    Example:

    >>> from keras_e2e import tasks
    >>> task = tasks.lines(k=2, n=100)
    >>> task.train.x.shape, {name: y.shape for name, y in task.train.targets().items()}
    ((100, 2, 28, 28), {'parity': (100, 1), 'rising': (100, 2)})
    """
    check_integer("k", k, 1)
    check_integer("n", n, 1)
    check_integer("seed", seed, 0)
    train, validation, test = (
        _tuples(k, size, 3 * seed + number)
        for number, size in enumerate((n, HELD_OUT, HELD_OUT))
    )
    return Task(
        f"parity of {k} lines",
        lambda model_seed: lines_model(k, model_seed),
        train,
        validation,
        test,
        {"rising": Cut("binary_crossentropy", as_probability, 2)},
        "hinge",
        [sign_accuracy],
        0.5,
        lambda error: parity_ceiling(error, k),
    )


def lines_model(k: int, seed: int = 0) -> keras.Model:
    """Builds the stock Keras model of `lines`, without boundaries.

    The layers, by name: `images` (input) → on each image `conv_1`, `pool_1`, `conv_2`,
    `pool_2` (5x5, 16 channels, no activation) → `encoder_1` (50, ReLU) → `encoder_2` (100,
    ReLU) → `rising` (1, sigmoid) → `flatten` → `classifier` (100, ReLU) → `parity` (1).

    Args:
        k: Integer, the images in a tuple, at least 1.
        seed: Integer seed of the weights, at least 0. The same seed gives the same weights,
            drawn as in the authors' code: normal, truncated, with a standard deviation of
            one over the root of the inputs (of a convolution: of its channels). Defaults to
            0.

    Returns:
        A `keras.Model` from (batch, k, 28, 28) to a score, (batch, 1). Not compiled.

    Raises:
        ValueError: If `k` or `seed` is out of range.

    Example:

    >>> from keras_e2e import tasks
    >>> model = tasks.lines_model(k=3)
    >>> model.get_layer("rising").output.shape, model.output_shape
    ((None, 3, 1), (None, 1))
    """
    check_integer("k", k, 1)
    check_integer("seed", seed, 0)
    layers = keras.layers
    draw = seeded_initializers(seed, 7)

    def drawn(inputs: int) -> Any:
        return draw(keras.initializers.TruncatedNormal, stddev=inputs**-0.5)

    def dense(name: str, units: int, activation: str | None = None) -> Any:
        return layers.Dense(
            units, activation, kernel_initializer=drawn(x.shape[-1]), name=name
        )

    images = keras.Input((int(k), SIZE, SIZE), dtype="uint8", name="images")
    # The encoder is applied once, to the images of all tuples in a row.
    x = ops.reshape(ops.cast(images, keras.config.floatx()), (-1, SIZE, SIZE, 1))
    for i in (1, 2):
        start = drawn(x.shape[-1])
        x = layers.Conv2D(
            16, 5, padding="same", kernel_initializer=start, name=f"conv_{i}"
        )(x)
        x = layers.MaxPooling2D(name=f"pool_{i}")(x)
    x = ops.reshape(x, (-1, int(k), (SIZE // 4) ** 2 * 16))
    x = dense("encoder_1", 50, "relu")(x)
    x = dense("encoder_2", 100, "relu")(x)
    x = dense("rising", 1, "sigmoid")(x)
    x = layers.Flatten(name="flatten")(x)
    x = dense("classifier", 100, "relu")(x)
    return keras.Model(images, dense("parity", 1)(x), name="lines_model")


def _tuples(k: int, n: int, seed: int) -> Split:
    x, rising = _images(n * k, np.random.default_rng(seed))
    labels = rising.reshape(n, k)
    parity = 2.0 * (labels.sum(axis=1, keepdims=True) % 2) - 1.0
    return Split(
        x.reshape(n, k, SIZE, SIZE),
        {"parity": parity.astype("float32")},
        {"rising": labels},
    )


def _images(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Images of a line each, and whether it rises."""
    angles = rng.uniform(0, np.pi, count)
    centers = rng.uniform(0, SIZE, (2, count))
    halves = rng.uniform(SHORTEST, LONGEST, count) // 2
    # Rows count downwards.
    directions = np.stack([-np.sin(angles), np.cos(angles)])
    # Bytes: there are many of them.
    x = np.zeros((count, SIZE, SIZE), "uint8")
    # All lines at once, point by point from the center, to either side.
    for step in range(-(LONGEST // 2) + 1, LONGEST // 2):
        points = np.floor(centers + step * directions).astype(int)
        inside = ((points >= 0) & (points < SIZE)).all(axis=0) & (abs(step) < halves)
        rows, columns = points[:, inside]
        x[np.flatnonzero(inside), rows, columns] = 1
    return x, (angles < np.pi / 2).astype("int32")

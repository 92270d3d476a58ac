"""The k-tuple parity task: a module that reads images, a module that counts.

Each example is a tuple of k images; its label says whether the number of images of an
odd class is odd. It has the form of the k-tuples of Shalev-Shwartz, Shamir & Shammah
2017 ("Failures of Gradient-Based Deep Learning", section 3.1), with images of classes.
An encoder shared by the k images is the first module and a classifier on what it read
is the second. The classes of the images, the *symbols*, are the encoder's labels.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_e2e.experiments.tasks.seeded import seeded_dense
from keras_e2e.utils.validation import check_integer

MISSING = -1


class Tuples(NamedTuple):
    """Examples of the k-tuple parity task.

    Attributes:
        x: The images, float32 of shape (n, k, d), in the units of the images given.
        parity: 1 where the number of images of an odd class is odd, else 0; float32
            of shape (n, 1), as a sigmoid unit with binary cross-entropy expects it.
        symbols: The class of each image, int32 of shape (n, k).

    Example:

    >>> import numpy as np
    >>> from keras_e2e import tasks
    >>> symbols = np.array([[3, 4]], "int32")
    >>> data = tasks.Tuples(np.zeros((1, 2, 5)), np.array([[1.0]]), symbols)
    >>> data.symbols.shape
    (1, 2)
    """

    x: np.ndarray
    parity: np.ndarray
    symbols: np.ndarray


def parity_tuples(images: Any, labels: Any, k: int, n: int, seed: int = 0) -> Tuples:
    """Draws tuples of images, labeled by the parity of the count of odd classes.

    Every image is drawn on its own, uniformly and with replacement, so an image may
    stand in many tuples. Give training and test tuples images of their own. `x` takes
    4nkd bytes: 60,000 tuples of 4 Fashion-MNIST images are 0.75 GB.

    Args:
        images: Array of flat images, shape (images, d). Taken as float32, not scaled.
        labels: Array of the class of each image, integers of at least 0, shape (images,).
        k: Integer, the images in a tuple, at least 1.
        n: Integer, the number of tuples, at least 1.
        seed: Integer seed of the draw, at least 0. The same arguments give the same tuples.
            Defaults to 0.

    Returns:
        `Tuples(x, parity, symbols)` of shapes (n, k, d), (n, 1) and (n, k).

    Raises:
        ValueError: If the images are not flat or there are none, the labels are not
            integers of at least 0, one for each image, or `k`, `n` or `seed` is out
            of range.

    Example:

    >>> import numpy as np
    >>> from keras_e2e import tasks
    >>> images, labels = np.eye(10), np.arange(10)
    >>> data = tasks.parity_tuples(images, labels, k=3, n=100)
    >>> data.x.shape, data.parity.shape, data.symbols.shape
    ((100, 3, 10), (100, 1), (100, 3))
    >>> bool((data.parity[:, 0] == (data.symbols % 2).sum(axis=1) % 2).all())
    True
    """
    check_integer("k", k, 1)
    check_integer("n", n, 1)
    check_integer("seed", seed, 0)
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim != 2 or 0 in images.shape:
        raise ValueError(
            f"images has shape {images.shape}. Expected flat images, (images, d), at "
            "least one. Flatten them: images.reshape(len(images), -1)."
        )
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"labels has shape {labels.shape}. Expected one class for each of the "
            f"{len(images)} images, shape {images.shape[:1]}. Give both of the same "
            "data set; turn one-hot labels into classes by argmax(axis=-1)."
        )
    if labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels has dtype {labels.dtype}. Expected classes, integers of at least "
            '0. Convert them: labels.astype("int32").'
        )
    if labels.min() < 0:
        raise ValueError(
            f"labels has the value {labels.min()}. Expected classes, integers of at "
            "least 0. Leave images without a class out: images[labels >= 0]."
        )
    drawn = np.random.default_rng(seed).integers(len(images), size=(n, k))
    symbols = labels.astype("int32")[drawn]
    parity = (symbols % 2).sum(axis=1, keepdims=True) % 2
    return Tuples(
        images.astype("float32", copy=False)[drawn], parity.astype("float32"), symbols
    )


def hide_labels(symbols: Any, keep: int, seed: int = 0) -> np.ndarray:
    """Marks the symbols of all but some examples as missing (-1).

    For experiments with a budget of intermediate labels. An example keeps all of its
    symbols or none. The kept ones are drawn at random; with the same seed, a larger
    `keep` keeps those of a smaller one and adds to them.

    Args:
        symbols: Array of the complete labels, signed integers of at least 0, shape
            (n, ...), such as `Tuples.symbols`. It is not changed.
        keep: Integer, the number of examples that keep their symbols, from 0 to n. With
            tuples of k images that is `keep * k` labels.
        seed: Integer seed of the draw, at least 0. Defaults to 0.

    Returns:
        A copy of `symbols`, with -1 where a label is missing.

    Raises:
        ValueError: If `symbols` is not an array of complete signed integers, or
            `keep` or `seed` is out of range.

    Example:

    >>> import numpy as np
    >>> from keras_e2e import tasks
    >>> hidden = tasks.hide_labels(np.array([[1, 2], [3, 4], [5, 6]]), keep=1)
    >>> int((hidden == -1).sum())
    4
    """
    check_integer("keep", keep, 0)
    check_integer("seed", seed, 0)
    symbols = np.asarray(symbols)
    if symbols.ndim < 1 or symbols.dtype.kind != "i":
        raise ValueError(
            f"symbols has shape {symbols.shape} and dtype {symbols.dtype}. Expected "
            "an array (n, ...) of signed integers, which can hold the -1 of a missing "
            'label. Convert it: symbols.astype("int32").'
        )
    if keep > len(symbols):
        raise ValueError(
            f"keep={keep}: expected at most the {len(symbols)} examples of symbols. "
            "Give fewer, or more examples."
        )
    if (symbols < 0).any():
        raise ValueError(
            f"symbols has negative labels, {(symbols < 0).sum()} of them. Expected "
            "none to be missing yet, so that `keep` counts labeled examples. Give the "
            "complete labels."
        )
    hidden = symbols.copy()
    hidden[np.random.default_rng(seed).permutation(len(symbols))[keep:]] = MISSING
    return hidden


def parity_model(
    k: int,
    d: int,
    *,
    encoder: Sequence[int] = (128, 64),
    classes: int = 10,
    classifier: Sequence[int] = (128, 128),
    seed: int = 0,
) -> keras.Model:
    """Builds a stock Keras model for the k-tuple parity task, without boundaries.

    The layers, by name: `images` (input) → `encoder_1`, `encoder_2`, ... (Dense, ReLU)
    → `symbols` (Dense, softmax) → `flatten` → `classifier_1`, `classifier_2`, ...
    (Dense, ReLU) → `parity` (Dense, sigmoid). Up to `symbols` the layers work on each
    image by itself with the same weights. The place for a boundary is `symbols`.

    Args:
        k: Integer, the images in a tuple, at least 1.
        d: Integer, the values in an image: 64 for the digits, 784 for Fashion-MNIST.
        encoder: Tuple of the units of the encoder's hidden layers; may be empty. Defaults
            to (128, 64), which suits the digits; (256, 128) suits Fashion-MNIST. Both were
            chosen by hand, not tuned.
        classes: Integer, the units of `symbols`. Defaults to 10, as both data sets have.
        classifier: Tuple of the units of the classifier's hidden layers; may be empty.
            Defaults to (128, 128), chosen by hand.
        seed: Integer seed of the weights, at least 0. The same arguments give the same
            weights, whatever Keras's own seed is. Every layer draws from a seed of its own
            (Glorot uniform; biases are zero). Defaults to 0.

    Returns:
        A `keras.Model` from (batch, k, d) to the probability that the parity is 1,
        shape (batch, 1). Not compiled.

    Raises:
        ValueError: If a size is not a positive integer, or `seed` is negative.

    Example:

    >>> from keras_e2e import tasks
    >>> model = tasks.parity_model(k=3, d=64)
    >>> model.input_shape, model.get_layer("symbols").output.shape, model.output_shape
    ((None, 3, 64), (None, 3, 10), (None, 1))
    """
    last = ("parity", 1, "sigmoid")
    return tuple_model(k, d, encoder, classes, classifier, last, seed)


def tuple_model(
    k: int,
    d: int,
    encoder: Sequence[int],
    classes: int,
    classifier: Sequence[int],
    last: tuple[str, int, str],
    seed: int,
) -> keras.Model:
    """Builds `parity_model` with another last layer: its name, units and activation."""
    check_integer("k", k, 1)
    check_integer("d", d, 1)
    check_integer("classes", classes, 1)
    check_integer("seed", seed, 0)
    _check_sizes("encoder", encoder)
    _check_sizes("classifier", classifier)

    layers = [(f"encoder_{i}", units, "relu") for i, units in enumerate(encoder, 1)]
    layers += [("symbols", classes, "softmax")]
    layers += [(f"classifier_{i}", u, "relu") for i, u in enumerate(classifier, 1)]
    layers += [last]
    dense = seeded_dense(seed, len(layers))

    images = x = keras.Input((int(k), int(d)), name="images")
    for name, units, activation in layers:
        x = dense(name, units, activation)(x)
        if name == "symbols":
            x = keras.layers.Flatten(name="flatten")(x)
    return keras.Model(images, x, name=f"{last[0]}_model")


def parity_ceiling(error: float, k: int) -> float:
    """The best accuracy of the parity that an encoder's errors allow.

    If odd and even are confused with probability e, independently for each
    of the k images, then the number of errors is even with probability
    (1 + (1 - 2e)^k) / 2, and only then is the parity right (the piling-up lemma;
    Matsui 1993, "Linear Cryptanalysis Method for DES Cipher"). An e above one half
    is worth as much as 1 - e.

    Args:
        error: Float from 0 to 1, the e above: the rate of mistaking odd for even or the
            reverse, by the best decision from the encoder's activation. A rate measured
            otherwise is at least as high and, up to one half, gives a figure that is
            too low: the rate of wrong classes (3 for 5 is harmless here), or that of
            a softmax's largest value alone, where the classifier sees all values.
        k: Integer, the images in a tuple, at least 1.

    Returns:
        The accuracy, from 0.5 (chance) to 1.

    Raises:
        ValueError: If `error` is not from 0 to 1, or `k` is not a positive integer.

    Example:

    >>> from keras_e2e import tasks
    >>> [round(tasks.parity_ceiling(0.1, k), 3) for k in (1, 2, 4)]
    [0.9, 0.82, 0.705]
    """
    check_integer("k", k, 1)
    if not 0 <= error <= 1:
        raise ValueError(
            f"error={error!r}: expected a rate from 0 to 1. Divide a percentage by 100."
        )
    return float((1 + abs(1 - 2 * error) ** k) / 2)


def _check_sizes(name: str, sizes: Any) -> None:
    if isinstance(sizes, str) or not isinstance(sizes, Sequence):
        raise ValueError(
            f"{name}={sizes!r}: expected a sequence of layer sizes. For one layer of "
            "128 units give (128,), for none give ()."
        )
    for i, units in enumerate(sizes):
        check_integer(f"{name}[{i}]", units, 1)

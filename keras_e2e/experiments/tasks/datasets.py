"""Small image data sets as flat float32 arrays.

Every loader returns `(x_train, y_train), (x_test, y_test)`: `x` is float32 of shape
(images, pixels) in [0, 1], `y` is int32 of shape (images,) with classes from 0 to 9.
"""

import gzip
import math
import pathlib
import zlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_e2e.utils.validation import check_integer

Examples = tuple[np.ndarray, np.ndarray]

TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1

# Where the Debian package dataset-fashion-mnist puts its files.
FASHION_MNIST_FOLDER = pathlib.Path("/usr/share/datasets/fashion-mnist")
FASHION_MNIST_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


def load_digits(seed: int = 0) -> tuple[Examples, Examples]:
    """Loads scikit-learn's embedded handwritten digits; nothing is downloaded.

    1,797 images of 8x8 pixels, split at random into 80 % for training and 20 % for
    testing, with the classes in the same shares in both.

    Args:
        seed: Integer seed of the split, an integer from 0 to 2**32 - 1. The same seed gives
            the same split. Defaults to 0.

    Returns:
        `(x_train, y_train), (x_test, y_test)`: images of shapes (1437, 64) and
        (360, 64), float32 in [0, 1]; labels of shapes (1437,) and (360,), int32.

    Raises:
        ImportError: If scikit-learn is not installed.
        ValueError: If `seed` is not an integer in its range.

    Example:

    >>> from keras_e2e import tasks
    >>> (x_train, y_train), (x_test, y_test) = tasks.load_digits()
    >>> x_train.shape, y_train.shape, x_test.shape
    ((1437, 64), (1437,), (360, 64))
    """
    check_integer("seed", seed, 0)
    if seed >= 2**32:
        raise ValueError(f"seed={seed!r}: expected an integer from 0 to 2**32 - 1.")
    try:
        from sklearn import datasets, model_selection
    except ImportError as error:
        raise ImportError(
            "The digits come with scikit-learn, which cannot be imported "
            f"({error}). Install it: pip install 'keras-e2e[demo]'."
        ) from error
    digits = datasets.load_digits()
    x_train, x_test, y_train, y_test = model_selection.train_test_split(
        digits.data / 16.0,  # pixels are counts from 0 to 16
        digits.target,
        test_size=TEST_SHARE,
        random_state=seed,
        stratify=digits.target,
    )
    return _examples(x_train, y_train), _examples(x_test, y_test)


def load_fashion_mnist() -> tuple[Examples, Examples]:
    """Loads Fashion-MNIST (Xiao, Rasul & Vollgraf 2017, arXiv 1708.07747).

    70,000 images of 28x28 pixels in ten classes of clothing, with the split of their
    authors. The files of the Debian package `dataset-fashion-mnist` are read where all
    four are present; otherwise Keras downloads the data (30 MB) and keeps it.

    Returns:
        `(x_train, y_train), (x_test, y_test)`: images of shapes (60000, 784) and
        (10000, 784), float32 in [0, 1]; labels of shapes (60000,) and (10000,), int32.

    Raises:
        ValueError: If a file of the Debian package is damaged.
        OSError: If the package is absent and Keras cannot download the data.

    Example (not run with the tests, because it may download):

    >>> from keras_e2e import tasks
    >>> (x_train, y_train), _ = tasks.load_fashion_mnist()  # doctest: +SKIP
    >>> x_train.shape, y_train.shape  # doctest: +SKIP
    ((60000, 784), (60000,))
    """
    paths = [FASHION_MNIST_FOLDER / name for name in FASHION_MNIST_FILES]
    if all(path.is_file() for path in paths):
        x_train, y_train, x_test, y_test = (_read_idx(path) for path in paths)
    else:
        (x_train, y_train), (x_test, y_test) = _download_fashion_mnist()
    # The halves are turned into floats one by one: as uint8 they are small.
    return _pixels(x_train, y_train), _pixels(x_test, y_test)


DATASETS: dict[str, Callable[[], tuple[Examples, Examples]]] = {
    "digits": load_digits,
    "fashion_mnist": load_fashion_mnist,
}
"""Each data set's loader by its name, as `load` takes it."""


def load(name: str) -> tuple[Examples, Examples]:
    """Loads a data set by name, with its loader's defaults.

    Args:
        name: String, a key of `DATASETS`: "digits" or "fashion_mnist".

    Returns:
        `(x_train, y_train), (x_test, y_test)`: images float32 of shape
        (images, pixels) in [0, 1], labels int32 of shape (images,).

    Raises:
        ValueError: If there is no data set of that name.
        ImportError: If scikit-learn, which has the digits, is not installed.
        OSError: If Fashion-MNIST is neither installed nor can be downloaded.

    Example:

    >>> from keras_e2e import tasks
    >>> (x_train, y_train), (x_test, y_test) = tasks.load("digits")
    >>> len(x_train), len(x_test)
    (1437, 360)
    """
    if name not in DATASETS:
        raise ValueError(
            f"name={name!r} is not a known data set. Expected one of {sorted(DATASETS)}."
        )
    return DATASETS[name]()


def split_images(name: str, seed: int) -> list[Examples]:
    """Images and classes for training, validation and test, without an image in two.

    Of the training images a tenth is kept for validation.

    Args:
        name: String, a key of `DATASETS`.
        seed: Integer seed of the splits.
    """
    if name == "digits":  # Fashion-MNIST comes with a test set of its own
        (x, y), test = load_digits(seed)
    else:
        (x, y), test = load(name)
    order = np.random.default_rng(seed).permutation(len(x))
    kept = round(VALIDATION_SHARE * len(x))
    return [(x[rows], y[rows]) for rows in (order[kept:], order[:kept])] + [test]


def _examples(x: Any, y: Any) -> Examples:
    return np.asarray(x, "float32"), np.asarray(y, "int32")


def _pixels(images: np.ndarray, labels: np.ndarray) -> Examples:
    """Bytes of any image shape as flat floats in [0, 1]."""
    flat = images.reshape(len(images), -1).astype("float32")
    flat /= 255.0
    return _examples(flat, labels)


def _download_fashion_mnist() -> tuple[Examples, Examples]:
    try:
        return keras.datasets.fashion_mnist.load_data()
    except Exception as error:  # Keras raises a bare Exception where a download fails
        raise OSError(
            f"Fashion-MNIST is not in {FASHION_MNIST_FOLDER}, and Keras could not "
            f"download it: {error}. Install the Debian package "
            '(apt-get install dataset-fashion-mnist), or use the data set "digits", '
            "which needs no download."
        ) from error


def _read_idx(path: pathlib.Path) -> np.ndarray:
    """Reads a gzipped idx file of unsigned bytes.

    The header is two zero bytes, a type (8: unsigned byte), the number of axes, and
    the length of each axis as a big-endian 32-bit integer.
    """
    try:
        with gzip.open(path, "rb") as file:
            content = file.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _damaged(path, str(error)) from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise _damaged(path, f"it begins with {content[:3]!r}, not with an idx header")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise _damaged(path, "its header is cut short")
    shape = tuple(int(n) for n in np.frombuffer(content[4:start], ">u4"))
    found, expected = len(content) - start, math.prod(shape)
    if found != expected:
        raise _damaged(
            path, f"it holds {found} bytes of data; its shape {shape} takes {expected}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _damaged(path: pathlib.Path, what: str) -> ValueError:
    return ValueError(
        f"{path} is damaged: {what}. Reinstall the package dataset-fashion-mnist, or "
        "remove it and Keras downloads the data."
    )

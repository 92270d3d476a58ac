"""Tasks over tuples of images, by the symbols on them: parity, sum, a random table.

An encoder shared by the k images is the first module, cut at the layer `symbols`, a
softmax over the classes; a classifier on what it read is the second.
"""

from collections.abc import Callable

import keras
import numpy as np

from keras_e2e.experiments.tasks.datasets import split_images
from keras_e2e.experiments.tasks.image_tuples import (
    MISSING,
    parity_ceiling,
    parity_tuples,
    tuple_model,
)
from keras_e2e.experiments.tasks.task import Split, Task, class_cut
from keras_e2e.utils.validation import check_integer

# Chosen by hand for the demo, not tuned.
ENCODERS = {"digits": (128, 64), "fashion_mnist": (256, 128)}
HELD_OUT = 4000


def parity(
    k: int,
    data: str = "digits",
    n: int = 30000,
    seed: int = 0,
    labeled: int | None = None,
) -> Task:
    """Whether the number of images of an odd class is odd (`parity_tuples`).

    In the form of the k-tuples of Shalev-Shwartz, Shamir & Shammah 2017, section 3.1.

    Args:
        k: Integer, the images in a tuple, at least 1.
        data: String, the images: "digits" or "fashion_mnist". Defaults to "digits".
        n: Integer, training tuples. There are 4,000 each for validation and test, of images
            that occur in no other split. Defaults to 30,000.
        seed: Integer seed of the splits and draws, at least 0. Defaults to 0.
        labeled: Integer, the number of training images whose class is known, as many of
            each class as can be; the symbols of all others are -1, which
            `objectives.IntermediateTarget` takes for missing. Those of a smaller number
            are among those of a larger one. Defaults to None, which means all.

    Returns:
        A `Task` with the cut point `symbols` and the output `parity`.

    Raises:
        ValueError: If a number is out of range or the data is unknown.

    Example:

    >>> from keras_e2e import tasks
    >>> task = tasks.parity(k=2, n=100)
    >>> task.train.x.shape, sorted(task.train.targets()), task.chance
    ((100, 2, 64), ['parity', 'symbols'], 0.5)
    """
    return _task(
        f"parity of {k} {data}",
        (k, data, n, seed, labeled),
        lambda symbols: {"parity": _odd(symbols).sum(axis=1, keepdims=True) % 2.0},
        ("parity", 1, "sigmoid"),
        (128, 128),
        "binary_crossentropy",
        0.5,
        lambda error: parity_ceiling(error, k),
        _odd,
    )


def sum_mod_10(
    k: int,
    data: str = "digits",
    n: int = 30000,
    seed: int = 0,
    labeled: int | None = None,
) -> Task:
    """The last decimal of the sum of the classes of k images.

    Args:
        k: Integer, the images in a tuple, at least 1.
        data: String, the images: "digits" or "fashion_mnist". Defaults to "digits".
        n: Integer, training tuples; 4,000 each for validation and test. Defaults to 30,000.
        seed: Integer seed of the splits and draws, at least 0. Defaults to 0.
        labeled: Integer, the number of training images whose class is known, as many of
            each class as can be; the symbols of all others are -1, which
            `objectives.IntermediateTarget` takes for missing. Those of a smaller number
            are among those of a larger one. Defaults to None, which means all.

    Returns:
        A `Task` with the cut point `symbols` and the output `sum`. Its ceiling takes the
        errors of the first module for equally likely among the nine wrong classes.

    Raises:
        ValueError: If a number is out of range or the data is unknown.

    Example:

    >>> from keras_e2e import tasks
    >>> task = tasks.sum_mod_10(k=3, n=100)
    >>> task.build(0).output_shape, round(task.ceiling(0.1), 3)
    ((None, 10), 0.732)
    """
    return _task(
        f"sum mod 10 of {k} {data}",
        (k, data, n, seed, labeled),
        lambda symbols: {"sum": symbols.sum(axis=1, dtype="int32") % 10},
        ("sum", 10, "softmax"),
        (256,),
        "sparse_categorical_crossentropy",
        0.1,
        # Sums of independent errors on the circle of ten: each shrinks the deviation
        # from the uniform distribution by 1 - 10 e / 9.
        lambda error: 0.1 + 0.9 * (1.0 - error / 0.9) ** k,
    )


def random_table(
    k: int,
    data: str = "digits",
    n: int = 30000,
    seed: int = 0,
    labeled: int | None = None,
) -> Task:
    """One of ten values that a random table has for the tuple of classes.

    Nothing but the table relates classes and values: the second module has to learn each
    of its 10**k entries.

    Args:
        k: Integer, the images in a tuple, from 1 to 6.
        data: String, the images: "digits" or "fashion_mnist". Defaults to "digits".
        n: Integer, training tuples; 4,000 each for validation and test. Defaults to 30,000.
        seed: Integer seed of the table, the splits and the draws, at least 0. Defaults to
            0.
        labeled: Integer, the number of training images whose class is known, as many of
            each class as can be; the symbols of all others are -1, which
            `objectives.IntermediateTarget` takes for missing. Those of a smaller number
            are among those of a larger one. Defaults to None, which means all.

    Returns:
        A `Task` with the cut point `symbols` and the output `value`.

    Raises:
        ValueError: If a number is out of range or the data is unknown.

    Example:

    >>> from keras_e2e import tasks
    >>> task = tasks.random_table(k=2, n=100)
    >>> sorted(task.test.targets()), task.test.y["value"].shape
    (['symbols', 'value'], (4000,))
    """
    check_integer("k", k, 1)
    check_integer("seed", seed, 0)
    if k > 6:
        raise ValueError(f"k={k}: a table of 10**{k} entries is too large. Take 6 or less.")
    table = np.random.default_rng(seed).integers(0, 10, (10,) * k, dtype="int32")
    return _task(
        f"random table over {k} {data}",
        (k, data, n, seed, labeled),
        lambda symbols: {"value": table[tuple(symbols.T)]},
        ("value", 10, "softmax"),
        (256,),
        "sparse_categorical_crossentropy",
        0.1,
        lambda error: 0.1 + 0.9 * (1.0 - error) ** k,
    )


def _task(
    name: str,
    sizes: tuple[int, str, int, int, int | None],
    targets: Callable[[np.ndarray], dict[str, np.ndarray]],
    last: tuple[str, int, str],
    classifier: tuple[int, ...],
    loss: str,
    chance: float,
    ceiling: Callable[[float], float],
    needed: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> Task:
    k, data, n, seed, labeled = sizes
    check_integer("k", k, 1)
    check_integer("n", n, 1)
    check_integer("seed", seed, 0)
    if data not in ENCODERS:
        raise ValueError(f"data={data!r}: expected one of {sorted(ENCODERS)}.")
    images = split_images(data, seed)
    count, width = images[0][0].shape
    known = count if labeled is None else labeled
    check_labeled(known, count, data)
    splits = []
    for number, ((x, classes), size) in enumerate(
        zip(images, (n, HELD_OUT, HELD_OUT), strict=True)
    ):
        # Which image stands where, and from that its class and whether it is known.
        drawn = parity_tuples(x, np.arange(len(x)), k, size, seed=3 * seed + number)
        symbols = classes[drawn.symbols]
        y = targets(symbols)
        if number == 0:
            hidden = in_turn(classes, seed)[known:]
            symbols = np.where(np.isin(drawn.symbols, hidden), np.int32(MISSING), symbols)
        splits.append(Split(drawn.x, y, {"symbols": symbols}))

    def build(model_seed: int) -> keras.Model:
        return tuple_model(k, width, ENCODERS[data], 10, classifier, last, model_seed)

    return Task(
        name,
        build,
        splits[0],
        splits[1],
        splits[2],
        {"symbols": class_cut(10, needed)},
        loss,
        ["accuracy"],
        chance,
        ceiling,
    )


def check_labeled(known: int, count: int, data: str) -> None:
    """Raises ValueError unless so many training images can keep their labels."""
    check_integer("labeled", known, 0)
    if known > count:
        raise ValueError(
            f"labeled={known}: expected at most the {count} training images of {data}."
        )


def in_turn(classes: np.ndarray, seed: int) -> np.ndarray:
    """The numbers of images in an order that is drawn, one of each class in turn.

    Args:
        classes: The class of each image.
        seed: Integer seed of the order.
    """
    order = np.random.default_rng(seed).permutation(len(classes))
    rank = np.empty(len(classes), int)
    for label in np.unique(classes):
        mine = order[classes[order] == label]
        rank[mine] = np.arange(len(mine))
    return order[np.argsort(rank[order], kind="stable")]


def _odd(symbols: np.ndarray) -> np.ndarray:
    return (symbols % 2).astype("float32")

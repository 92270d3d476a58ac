"""How good and how honest predicted probabilities are: error, NLL, calibration."""

from typing import Any, NamedTuple

import numpy as np

# Keras bounds the logarithm of its cross-entropies by the same (keras.config.epsilon).
SMALLEST = 1e-7
# How far the probabilities of an example may be from adding up to 1 (half precision).
ROUNDING = 0.01


class Scores(NamedTuple):
    """What the predictions of a classifier are worth.

    Attributes:
        error: share of examples whose most probable class is not the label.
        nll: negative log likelihood: the mean of -log of the probability given to the
            label, in nats; probabilities below 1e-7 count as 1e-7.
        ece: expected calibration error, from 0 to 1 (`expected_calibration_error`).
    """

    error: float
    nll: float
    ece: float


def scores(probabilities: Any, labels: Any) -> Scores:
    """Error, negative log likelihood and calibration error of a classifier.

    Args:
        probabilities: shape (n, classes), each row adding up to 1; or those of the class
            1 alone, as of one sigmoid unit, shape (n,) or (n, 1).
        labels: classes, integers from 0, shape (n,) or (n, 1); or one-hot, the shape of
            the probabilities.

    Returns:
        `Scores(error, nll, ece)`.

    Raises:
        ValueError: no probabilities, or labels that do not fit them.

    Example:

    >>> from keras_e2e.models.ensembles.calibration import scores
    >>> found = scores([[0.5, 0.5], [0.9, 0.1]], [0, 1])
    >>> [round(value, 3) for value in found]
    [0.5, 1.498, 0.7]
    """
    p, classes = checked(probabilities, labels)
    given = p[np.arange(len(p)), classes]
    return Scores(
        float((p.argmax(axis=1) != classes).mean()),
        float(-np.log(np.maximum(given, SMALLEST)).mean()),
        expected_calibration_error(p, classes),
    )


def expected_calibration_error(probabilities: Any, labels: Any, bins: int = 15) -> float:
    """How far the confidence of predictions is from how often they are right.

    Guo et al. 2017, "On Calibration of Modern Neural Networks". The confidence of a
    prediction is its largest probability. The examples are sorted into bins of equal
    width by their confidence, bin b from (b - 1) / bins (exclusive) to b / bins
    (inclusive), and

        ECE = sum over the bins B of |B| / n * |accuracy(B) - mean confidence(B)|.

    It depends on the number of bins, and on few examples it is too large.

    Args:
        probabilities: as in `scores`.
        labels: as in `scores`.
        bins: how many. Default: 15, as in the paper.

    Returns:
        The error, from 0 (calibrated) to 1.

    Raises:
        ValueError: as in `scores`, or `bins` is no integer of at least 1.

    Example:

    >>> from keras_e2e.models.ensembles.calibration import expected_calibration_error
    >>> round(expected_calibration_error([[0.8, 0.2]] * 4, [0, 0, 0, 1]), 3)
    0.05
    """
    if not isinstance(bins, int | np.integer) or isinstance(bins, bool) or bins < 1:
        raise ValueError(f"bins={bins!r}: expected an integer of at least 1.")
    p, classes = checked(probabilities, labels)
    confidence, right = p.max(axis=1), p.argmax(axis=1) == classes
    edges = np.linspace(0.0, 1.0, bins + 1)[1:-1]
    place = np.digitize(confidence, edges, right=True)
    # |B| / n * |mean of a - mean of b| is |sum of a - sum of b| / n.
    gaps = np.bincount(place, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(p))


def checked(probabilities: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities as float64 of shape (n, classes), labels as integers of shape (n,).

    Raises:
        ValueError: as in `scores`.
    """
    p = np.asarray(probabilities, "float64")
    if p.ndim == 1 or (p.ndim == 2 and p.shape[1] == 1):
        p = np.stack([1.0 - p.ravel(), p.ravel()], axis=1)
    if p.ndim != 2 or not len(p):
        raise ValueError(
            f"probabilities has shape {p.shape}. Expected (n, classes), (n, 1) or (n,), "
            "with at least one example. Flatten further axes into examples."
        )
    # Written so that NaN does not pass.
    if not ((p >= 0).all() and (np.abs(p.sum(axis=1) - 1.0) < ROUNDING).all()):
        raise ValueError(
            f"probabilities has values from {p.min():.3g} to {p.max():.3g}, in rows that "
            f"add up to between {p.sum(axis=1).min():.3g} and "
            f"{p.sum(axis=1).max():.3g}. Expected probabilities, in rows that add up to "
            "1. Let the model end in a softmax, or in one sigmoid unit."
        )
    given = np.asarray(labels)
    classes = given.argmax(axis=1) if given.shape == p.shape else given
    if classes.shape == (len(p), 1):
        classes = classes[:, 0]
    if classes.shape != (len(p),):
        raise ValueError(
            f"labels has shape {given.shape}. Expected a class for each of {len(p)} "
            f"examples, shape ({len(p)},), or one-hot labels, shape {p.shape}."
        )
    whole = classes.astype("int64")
    if (whole != classes).any() or whole.min() < 0 or whole.max() >= p.shape[1]:
        raise ValueError(
            f"labels has values from {classes.min()} to {classes.max()}. Expected "
            f"classes, whole numbers from 0 to {p.shape[1] - 1}. Leave examples without a "
            "label out."
        )
    return p, whole

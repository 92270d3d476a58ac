"""Scores of predicted probabilities: error, negative log likelihood, calibration."""

from typing import Any, NamedTuple

import numpy as np

from keras_e2e.utils.validation import check_integer

# Keras bounds the logarithm of its cross-entropies by the same (keras.config.epsilon).
SMALLEST = 1e-7
# How far the probabilities of an example may be from adding up to 1 (half precision).
ROUNDING = 0.01


class Scores(NamedTuple):
    """Scores of the predictions of a classifier.

    Attributes:
        error: Share of examples whose most probable class is not the label.
        nll: Negative log likelihood: the mean of -log of the probability given to the
            label, in nats; probabilities below 1e-7 count as 1e-7.
        ece: Expected calibration error, from 0 to 1 (`expected_calibration_error`).

    Example:

    >>> import keras_e2e as e2e
    >>> e2e.ensembles.scores([[0.9, 0.1], [0.2, 0.8]], [0, 1]).error
    0.0
    """

    error: float
    nll: float
    ece: float


def scores(probabilities: Any, labels: Any) -> Scores:
    """Error, negative log likelihood and calibration error of a classifier.

    Args:
        probabilities: Array of shape `(n, num_classes)`, each row adding up to 1; or the
            probabilities of class 1 alone, as of one sigmoid unit, of shape `(n,)` or
            `(n, 1)`.
        labels: Array of classes, integers from 0, of shape `(n,)` or `(n, 1)`; or one-hot,
            of the shape of the probabilities.

    Returns:
        `Scores(error, nll, ece)`.

    Raises:
        ValueError: If `probabilities` are not probabilities, or the labels do not fit.

    Example:

    >>> import keras_e2e as e2e
    >>> found = e2e.ensembles.scores([[0.5, 0.5], [0.9, 0.1]], [0, 1])
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


def expected_calibration_error(
    probabilities: Any, labels: Any, num_bins: int = 15
) -> float:
    """How far the confidence of predictions is from how often they are correct.

    Guo et al. 2017, "On Calibration of Modern Neural Networks". The confidence of a
    prediction is its largest probability. The examples are sorted into bins of equal
    width by their confidence, bin b from (b - 1) / num_bins (exclusive) to b / num_bins
    (inclusive), and

        ECE = sum over the bins B of |B| / n * |accuracy(B) - mean confidence(B)|.

    It depends on the number of bins, and on few examples it is too large.

    Args:
        probabilities: As in `scores`.
        labels: As in `scores`.
        num_bins: Positive integer, the number of bins. Defaults to 15, as in the paper.

    Returns:
        The error, from 0 (calibrated) to 1.

    Raises:
        ValueError: As in `scores`, or if `num_bins` is not a positive integer.

    Example:

    >>> import keras_e2e as e2e
    >>> predicted = [[0.8, 0.2]] * 4
    >>> round(e2e.ensembles.expected_calibration_error(predicted, [0, 0, 0, 1]), 3)
    0.05
    """
    check_integer("num_bins", num_bins, 1)
    p, classes = checked(probabilities, labels)
    confidence, correct = p.max(axis=1), p.argmax(axis=1) == classes
    edges = np.linspace(0.0, 1.0, num_bins + 1)[1:-1]
    place = np.digitize(confidence, edges, right=True)
    # |B| / n * |mean of a - mean of b| is |sum of a - sum of b| / n.
    gaps = np.bincount(place, weights=correct - confidence, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(p))


def checked(probabilities: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities as float64 of shape (n, classes), labels as integers of shape (n,).

    Raises:
        ValueError: As in `scores`.
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

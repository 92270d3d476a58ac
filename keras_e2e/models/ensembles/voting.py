"""Layers that combine the predictions of an ensemble's members."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_e2e")
class MajorityVote(keras.layers.Layer):
    """Combines probabilities by the number of members that favor a class.

    In inference each member has one vote, for its most probable class (for one sigmoid
    unit: for the class 1 if it is above one half). The mean of the probabilities counts
    as one vote more, shared out among the classes: it decides ties and no more than that,
    and a class without a vote keeps a probability above zero.

    In training it is the mean of the probabilities, for a count of votes has no
    gradient.

    Call arguments:
        predictions: List of the members' probabilities, each of shape
            `(batch_size, ..., num_classes)` or `(batch_size, ..., 1)`.
        training: Boolean, whether the layer is called in training.

    Returns:
        (votes + mean probability) / (number of members + 1), of the shape of a prediction.

    Example:

    >>> import numpy as np, keras_e2e as e2e
    >>> vote = e2e.ensembles.MajorityVote()
    >>> votes = vote([np.array([[0.6, 0.4]]), np.array([[0.0, 1.0]])])
    >>> print(np.asarray(votes).round(3))
    [[0.433 0.567]]
    """

    def call(self, predictions, training=False):
        stacked = ops.stack(predictions)
        mean = ops.mean(stacked, axis=0)
        if training:
            return mean
        if stacked.shape[-1] == 1:
            votes = ops.cast(stacked > 0.5, mean.dtype)
        else:
            favored = ops.argmax(stacked, axis=-1)
            votes = ops.one_hot(favored, stacked.shape[-1], dtype=mean.dtype)
        return (ops.sum(votes, axis=0) + mean) / (len(predictions) + 1)


@keras.saving.register_keras_serializable("keras_e2e")
class WeightedMean(keras.layers.Layer):
    """The average of predictions, each with a fixed weight.

    Args:
        shares: List of the weights, one for each prediction; they add up to 1.

    Call arguments:
        predictions: List of predictions of one shape.

    Returns:
        A prediction of that shape.

    Example:

    >>> import keras, keras_e2e as e2e
    >>> vote = e2e.ensembles.WeightedMean([0.25, 0.75])
    >>> float(vote([keras.ops.array(0.0), keras.ops.array(4.0)]))
    3.0
    """

    def __init__(self, shares: list[float], **kwargs: Any):
        super().__init__(**kwargs)
        self.shares = list(shares)

    def call(self, predictions):
        return sum(s * p for s, p in zip(self.shares, predictions, strict=True))

    def get_config(self):
        return {**super().get_config(), "shares": self.shares}

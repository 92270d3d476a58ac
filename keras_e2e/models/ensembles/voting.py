"""Layers that combine the predictions of an ensemble's members."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_e2e")
class MajorityVote(keras.layers.Layer):
    """Combines probabilities by the number of members that favour a class.

    In inference each member has one vote, for its most probable class (for one sigmoid
    unit: for the class 1 if it is above one half). The mean of the probabilities counts
    as one vote more, shared out among the classes: it decides ties and no more than that,
    and a class without a vote keeps a probability above zero.

    In training it is the mean of the probabilities, for a count of votes has no
    gradient.

    Call arguments:
        predictions: list of the members' probabilities, shape (batch, ..., classes) or
            (batch, ..., 1) each.
        training: whether it is training.

    Returns:
        (votes + mean probability) / (members + 1), of the shape of a prediction.

    Example:

    >>> import numpy as np
    >>> from keras_e2e.models.ensembles.voting import MajorityVote
    >>> votes = MajorityVote()([np.array([[0.6, 0.4]]), np.array([[0.0, 1.0]])])
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
            favoured = ops.argmax(stacked, axis=-1)
            votes = ops.one_hot(favoured, stacked.shape[-1], dtype=mean.dtype)
        return (ops.sum(votes, axis=0) + mean) / (len(predictions) + 1)


@keras.saving.register_keras_serializable("keras_e2e")
class WeightedMean(keras.layers.Layer):
    """The average of predictions, each with a fixed weight.

    Args:
        shares: the weights, one for each prediction; they add up to 1.

    Call arguments:
        predictions: list of predictions of one shape.

    Returns:
        A prediction of that shape.

    Example:

    >>> from keras import ops
    >>> from keras_e2e.models.ensembles.voting import WeightedMean
    >>> float(WeightedMean([0.25, 0.75])([ops.array(0.0), ops.array(4.0)]))
    3.0
    """

    def __init__(self, shares: list[float], **kwargs: Any):
        super().__init__(**kwargs)
        self.shares = list(shares)

    def call(self, predictions):
        return sum(s * p for s, p in zip(self.shares, predictions, strict=True))

    def get_config(self):
        return {**super().get_config(), "shares": self.shares}

"""How often a score has the sign of its target: the accuracy beside a hinge loss."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_e2e")
def sign_accuracy(y_true: Any, y_pred: Any) -> Any:
    """The share of scores on the right side of zero, a metric for `compile`.

    Keras's own binary accuracy takes no threshold of 0.

    Args:
        y_true: Tensor of targets, -1 or +1, shape (batch, ..., scores).
        y_pred: Tensor of scores, of the same shape. A score of 0 counts as negative.

    Returns:
        For each example the share of its scores that are right, shape (batch, ...).

    Example:

    >>> import numpy as np
    >>> from keras_e2e import tasks
    >>> targets = np.array([[1.0], [-1.0], [-1.0]])
    >>> scores = np.array([[0.2], [-3.0], [5.0]])
    >>> np.asarray(tasks.sign_accuracy(targets, scores)).tolist()
    [1.0, 1.0, 0.0]
    """
    right = ops.equal(ops.greater(y_true, 0), ops.greater(y_pred, 0))
    return ops.mean(ops.cast(right, keras.config.floatx()), axis=-1)

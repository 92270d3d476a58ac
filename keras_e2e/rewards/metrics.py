"""What a policy's outputs say of its training."""

from typing import Any

import keras
from keras import ops

from keras_e2e.rewards.distributions import get_distribution
from keras_e2e.rewards.losses import unpack_targets
from keras_e2e.utils.validation import check_number


class _PolicyMetric(keras.metrics.MeanMetricWrapper):
    """The mean of a value of each example."""

    def __init__(self, distribution: str, name: str, dtype: Any = None):
        self.distribution = get_distribution(type(self).__name__, distribution)
        super().__init__(self._values_of_tensors, name=name, dtype=dtype)

    def _values_of_tensors(self, y_true: Any, y_pred: Any) -> Any:
        return self.values(y_true, ops.convert_to_tensor(y_pred))

    def values(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the value of each example."""
        raise NotImplementedError(f"{type(self).__name__} must define values.")

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "dtype": self.dtype,
            "distribution": self.distribution.name,
        }


@keras.saving.register_keras_serializable("keras_e2e")
class PolicyEntropy(_PolicyMetric):
    """The entropy of the policy, in nats: how undecided it is.

    `log(n)` of n actions is a policy that chooses blindly, 0 one that always does the same.
    One that falls to 0 before the returns rise is stuck; a larger `entropy` in the loss
    keeps it open.

    Args:
        distribution: As in `PolicyGradient`. Defaults to `"categorical"`.
        name: String, name of the metric. Defaults to `"entropy"`.
        dtype: Dtype of the metric.

    Example:

    >>> import keras_e2e as e2e
    >>> metric = e2e.rewards.PolicyEntropy()
    >>> metric.update_state([[0.0, 1.0, -0.693]], [[0.0, 0.0]])
    >>> round(float(metric.result()), 3)
    0.693
    """

    def __init__(
        self, distribution: str = "categorical", name: str = "entropy", dtype: Any = None
    ):
        super().__init__(distribution, name, dtype)

    def values(self, y_true: Any, y_pred: Any) -> Any:
        return self.distribution.entropy(y_pred)


@keras.saving.register_keras_serializable("keras_e2e")
class ApproximateKL(_PolicyMetric):
    """How far the policy has moved from the one that acted, in nats.

    The mean over actions of `r - 1 - log(r)`, r the ratio of their probabilities: an
    estimate of the Kullback-Leibler divergence that is never negative (Schulman 2020,
    "Approximating KL divergence"). Far above 0.05, steps are too large or too many.

    Args:
        distribution: As in `PolicyGradient`. Defaults to `"categorical"`.
        name: String, name of the metric. Defaults to `"kl"`.
        dtype: Dtype of the metric.

    Example:

    >>> import numpy as np, keras_e2e as e2e
    >>> metric = e2e.rewards.ApproximateKL()
    >>> metric.update_state([[0.0, 1.0, np.log(0.5)]], [[0.0, 0.0]])
    >>> round(float(metric.result()), 3)
    0.0
    """

    def __init__(
        self, distribution: str = "categorical", name: str = "kl", dtype: Any = None
    ):
        super().__init__(distribution, name, dtype)

    def values(self, y_true: Any, y_pred: Any) -> Any:
        actions, _, old = unpack_targets(y_true)
        moved = self.distribution.log_prob(y_pred, actions) - ops.cast(old, y_pred.dtype)
        return ops.expm1(moved) - moved


@keras.saving.register_keras_serializable("keras_e2e")
class ClipFraction(_PolicyMetric):
    """The share of actions whose ratio of probabilities `PPO` clips.

    Args:
        clip: As in `PPO`. Defaults to 0.2.
        distribution: As in `PolicyGradient`. Defaults to `"categorical"`.
        name: String, name of the metric. Defaults to `"clip_fraction"`.
        dtype: Dtype of the metric.

    Raises:
        ValueError: If `clip` is not a number above 0.

    Example:

    >>> import numpy as np, keras_e2e as e2e
    >>> metric = e2e.rewards.ClipFraction()
    >>> metric.update_state([[0.0, 1.0, np.log(0.25)]], [[0.0, 0.0]])
    >>> float(metric.result())
    1.0
    """

    def __init__(
        self,
        clip: float = 0.2,
        distribution: str = "categorical",
        name: str = "clip_fraction",
        dtype: Any = None,
    ):
        self.clip = check_number("ClipFraction: clip", clip, above=0)
        super().__init__(distribution, name, dtype)

    def values(self, y_true: Any, y_pred: Any) -> Any:
        actions, _, old = unpack_targets(y_true)
        moved = self.distribution.log_prob(y_pred, actions) - ops.cast(old, y_pred.dtype)
        return ops.cast(ops.abs(ops.exp(moved) - 1) > self.clip, y_pred.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "clip": self.clip}

"""Losses that train a policy on what its actions brought."""

from typing import Any

import keras
from keras import ops

from keras_e2e.rewards.distributions import get_distribution
from keras_e2e.utils.validation import check_number

# In `y_true`, behind the entries of the action: its advantage and the logarithm of the
# probability with which it was chosen.
NUM_EXTRA_TARGETS = 2

# The ratio of two densities may be larger than any float32, and zero times infinity is the
# gradient of what was clipped. Far beyond what is ever felt.
MOST_LOG_RATIO = 80.0


def unpack_targets(y_true: Any) -> tuple[Any, Any, Any]:
    """Returns actions, advantages and logarithms of probabilities."""
    y_true = ops.convert_to_tensor(y_true)
    return y_true[..., :-NUM_EXTRA_TARGETS], y_true[..., -2], y_true[..., -1]


class PolicyLoss(keras.losses.Loss):
    """What the losses of policies share: the distribution and the entropy's share.

    Args:
        distribution: `"categorical"` or `"gaussian"`.
        entropy: Float, 0 or larger, what the entropy of the policy is worth.
        name: String, name of the loss.
        kwargs: Other arguments of `keras.losses.Loss`.

    Attributes:
        is_surrogate: Boolean, that the gradient alone means something: the value is near 0
            whatever the policy is worth, and no verdict rests on it. A loss of your own may
            have this attribute, too.
    """

    is_surrogate = True

    def __init__(self, distribution: str, entropy: float, name: str, **kwargs: Any):
        who = type(self).__name__
        self.distribution = get_distribution(who, distribution)
        self.entropy = check_number(f"{who}: entropy", entropy, least=0)
        super().__init__(name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        y_pred = ops.convert_to_tensor(y_pred)
        actions, advantages, old = unpack_targets(y_true)
        self._check(actions.shape[-1], y_pred.shape[-1])
        log_probs = self.distribution.log_prob(y_pred, actions)
        value = self.surrogate(
            log_probs, ops.cast(old, y_pred.dtype), ops.cast(advantages, y_pred.dtype)
        )
        if self.entropy:
            value = value - self.entropy * self.distribution.entropy(y_pred)
        return value

    def _check(self, entries: int, outputs: int) -> None:
        name = self.distribution.name
        if name == "categorical" and entries != 1:
            found = f"actions of {entries} numbers"
        elif name == "gaussian" and outputs != 2 * entries:
            found = f"{outputs} outputs for actions of {entries} numbers"
        else:
            return
        raise ValueError(
            f"{type(self).__name__}(distribution={name!r}) found {found}. Expected one "
            "index and a logit for each action ('categorical'), or two outputs for each "
            "number ('gaussian'), and in y_true, behind the action, its advantage and the "
            "logarithm of its probability: what Rollouts yields."
        )

    def surrogate(self, log_probs: Any, old: Any, advantages: Any) -> Any:
        """Returns the loss of each action without the entropy's share, to be minimized."""
        raise NotImplementedError(f"{type(self).__name__} must define surrogate.")

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "distribution": self.distribution.name,
            "entropy": self.entropy,
        }


@keras.saving.register_keras_serializable("keras_e2e")
class PolicyGradient(PolicyLoss):
    """The policy gradient: actions that brought more than expected become more likely.

    `-advantage * log(probability of the action) - entropy * entropy of the policy`, by
    example (Williams 1992; with a value as what was expected, an actor-critic). It is
    right for actions of the present policy alone: use each rollout once
    (`Rollouts(passes=1)`) and as one batch.

    Args:
        distribution: What the policy's outputs are: `"categorical"`, a logit for each
            action, or `"gaussian"`, the mean of each of the action's numbers and then the
            logarithm of each standard deviation. Defaults to `"categorical"`.
        entropy: Float, 0 or larger, what a nat of the policy's entropy is worth: it keeps
            the policy from being sure too early. Defaults to 0.0.
        name: String, name of the loss. Defaults to `"policy_gradient"`.
        kwargs: Other arguments of `keras.losses.Loss`.

    Raises:
        ValueError: If `distribution` is unknown or `entropy` is not such a number.

    Example: two actions, equally likely; the first brought 2 more than expected.

    >>> import keras_e2e as e2e
    >>> y_true = [[0.0, 2.0, -0.693]]     # action, advantage, log of its probability
    >>> loss = e2e.rewards.PolicyGradient()
    >>> round(float(loss(y_true, [[0.0, 0.0]])), 3)
    1.386
    """

    def __init__(
        self,
        distribution: str = "categorical",
        entropy: float = 0.0,
        name: str = "policy_gradient",
        **kwargs: Any,
    ):
        super().__init__(distribution, entropy, name, **kwargs)

    def surrogate(self, log_probs: Any, old: Any, advantages: Any) -> Any:
        return -advantages * log_probs


@keras.saving.register_keras_serializable("keras_e2e")
class PPO(PolicyLoss):
    """Proximal policy optimization with a clipped ratio (Schulman et al. 2017).

    With the ratio r of the action's probabilities under the policy that learns and the one
    that acted, by example: `-min(r * advantage, clip(r, 1 - c, 1 + c) * advantage) -
    entropy * entropy of the policy`. What moved the policy further than c in the
    advantage's direction has no gradient, so a rollout may be used several times.

    Args:
        clip: Float above 0, the c. Defaults to 0.2, as in the paper.
        distribution: As in `PolicyGradient`. Defaults to `"categorical"`.
        entropy: As in `PolicyGradient`. Defaults to 0.0; the paper took 0.01 for Atari.
        name: String, name of the loss. Defaults to `"ppo"`.
        kwargs: Other arguments of `keras.losses.Loss`.

    Raises:
        ValueError: If an argument is not as described.

    Example: the action has become twice as likely, more than the clipped 1.2.

    >>> import keras_e2e as e2e
    >>> import numpy as np
    >>> y_true = [[0.0, 1.0, np.log(0.25)]]
    >>> round(float(e2e.rewards.PPO()(y_true, [[0.0, 0.0]])), 3)
    -1.2
    """

    def __init__(
        self,
        clip: float = 0.2,
        distribution: str = "categorical",
        entropy: float = 0.0,
        name: str = "ppo",
        **kwargs: Any,
    ):
        self.clip = check_number("PPO: clip", clip, above=0)
        super().__init__(distribution, entropy, name, **kwargs)

    def surrogate(self, log_probs: Any, old: Any, advantages: Any) -> Any:
        ratio = ops.exp(ops.minimum(log_probs - old, MOST_LOG_RATIO))
        clipped = ops.clip(ratio, 1 - self.clip, 1 + self.clip)
        return -ops.minimum(ratio * advantages, clipped * advantages)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "clip": self.clip}

"""What a policy's outputs say of actions: probabilities of a few, or a density."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_e2e.utils.validation import did_you_mean

# The density of a normal distribution has no bound: a policy that is sure of its action
# would divide by zero, one that knows nothing overflow. Wide enough never to be felt.
LOG_STD_BOUNDS = (-20.0, 20.0)


class Distribution(NamedTuple):
    """A family of distributions over actions.

    Attributes:
        name: String.
        log_prob: Function of outputs `(..., num_outputs)` and actions `(..., entries)` that
            returns the logarithm of the action's probability or density, `(...)`.
        entropy: Function of outputs that returns the entropy in nats, `(...)`.
        sample: Function of outputs, as an array of NumPy, and of a generator that returns
            actions `(..., entries)`.
        mode: Function of such outputs that returns the most likely actions.
    """

    name: str
    log_prob: Callable[[Any, Any], Any]
    entropy: Callable[[Any], Any]
    sample: Callable[[np.ndarray, np.random.Generator], np.ndarray]
    mode: Callable[[np.ndarray], np.ndarray]


def _categorical_log_prob(outputs: Any, actions: Any) -> Any:
    index = ops.cast(actions[..., 0], "int32")
    chosen = ops.one_hot(index, outputs.shape[-1], dtype=outputs.dtype)
    return ops.sum(ops.log_softmax(outputs) * chosen, axis=-1)


def _categorical_entropy(outputs: Any) -> Any:
    log_probs = ops.log_softmax(outputs)
    return -ops.sum(ops.exp(log_probs) * log_probs, axis=-1)


def _categorical_sample(outputs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    # The largest of logits with Gumbel noise is distributed as their softmax says.
    return _categorical_mode(outputs + rng.gumbel(size=outputs.shape))


def _categorical_mode(outputs: np.ndarray) -> np.ndarray:
    return np.argmax(outputs, axis=-1)[..., None].astype("float32")


def _halves(outputs: Any) -> tuple[Any, Any]:
    mean, log_std = ops.split(outputs, 2, axis=-1)
    return mean, ops.clip(log_std, *LOG_STD_BOUNDS)


def _gaussian_log_prob(outputs: Any, actions: Any) -> Any:
    mean, log_std = _halves(outputs)
    scaled = (ops.cast(actions, outputs.dtype) - mean) * ops.exp(-log_std)
    constant = 0.5 * math.log(2 * math.pi)
    return -ops.sum(0.5 * ops.square(scaled) + log_std + constant, axis=-1)


def _gaussian_entropy(outputs: Any) -> Any:
    _, log_std = _halves(outputs)
    return ops.sum(log_std + 0.5 * math.log(2 * math.pi * math.e), axis=-1)


def _gaussian_sample(outputs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    mean, log_std = np.split(outputs, 2, axis=-1)
    std = np.exp(np.clip(log_std, *LOG_STD_BOUNDS))
    return (mean + std * rng.standard_normal(mean.shape)).astype("float32")


def _gaussian_mode(outputs: np.ndarray) -> np.ndarray:
    return np.split(outputs, 2, axis=-1)[0].astype("float32")


DISTRIBUTIONS = {
    distribution.name: distribution
    for distribution in (
        Distribution(
            "categorical",
            _categorical_log_prob,
            _categorical_entropy,
            _categorical_sample,
            _categorical_mode,
        ),
        Distribution(
            "gaussian",
            _gaussian_log_prob,
            _gaussian_entropy,
            _gaussian_sample,
            _gaussian_mode,
        ),
    )
}


def get_distribution(who: str, name: Any) -> Distribution:
    """Returns the distribution of a name.

    Args:
        who: What was given the name, for the error.
        name: `"categorical"` or `"gaussian"`.

    Raises:
        ValueError: If there is none of that name.
    """
    if isinstance(name, str) and name in DISTRIBUTIONS:
        return DISTRIBUTIONS[name]
    raise ValueError(
        f"{who}: distribution={name!r} is unknown. Expected one of: "
        f"{', '.join(DISTRIBUTIONS)}.{did_you_mean(name, DISTRIBUTIONS)}"
    )

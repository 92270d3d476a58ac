"""Layers of policies: a spread of actions that is learned, observations of one scale."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops

from keras_e2e.rewards.distributions import LOG_STD_BOUNDS
from keras_e2e.utils import compat
from keras_e2e.utils.validation import check_number

# Observations that normalization layers are shown at a time.
SHOWN_AT_A_TIME = 1024


@keras.saving.register_keras_serializable("keras_e2e")
class GaussianPolicy(keras.layers.Layer):
    """Makes of the means of an action's numbers the outputs of a Gaussian policy.

    The means, and behind them the logarithms of the standard deviations: weights that do
    not depend on the observation, as in PPO's paper (Schulman et al. 2017). Losses and
    metrics then take `distribution="gaussian"`.

    Args:
        initial_log_std: Float from -20 to 20, what the logarithms are at first. Defaults
            to 0.0: a standard deviation of 1.
        kwargs: Other arguments of `keras.layers.Layer`.

    Call arguments:
        mean: Tensor `(..., entries)`.

    Returns:
        Tensor `(..., 2 * entries)`.

    Raises:
        ValueError: If `initial_log_std` is not such a number.

    Example:

    >>> import keras, keras_e2e as e2e
    >>> layer = e2e.rewards.GaussianPolicy()
    >>> [float(v) for v in layer(keras.ops.array([[0.5]]))[0]]
    [0.5, 0.0]
    """

    def __init__(self, initial_log_std: float = 0.0, **kwargs: Any):
        self.initial_log_std = check_number(
            "GaussianPolicy: initial_log_std",
            initial_log_std,
            least=LOG_STD_BOUNDS[0],
            most=LOG_STD_BOUNDS[1],
        )
        super().__init__(**kwargs)

    def build(self, input_shape: Any) -> None:
        self.log_std = self.add_weight(
            name="log_std",
            shape=(input_shape[-1],),
            initializer=keras.initializers.Constant(self.initial_log_std),
        )

    def call(self, mean: Any) -> Any:
        log_std = ops.cast(self.log_std, mean.dtype)
        return ops.concatenate([mean, ops.broadcast_to(log_std, ops.shape(mean))], axis=-1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (*input_shape[:-1], 2 * input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "initial_log_std": self.initial_log_std}


@keras.saving.register_keras_serializable("keras_e2e")
class ObservationNormalization(keras.layers.Layer):
    """Gives each number of the observations mean 0 and variance 1, of all seen so far.

    Unlike `keras.layers.BatchNormalization` it does not learn from the batches of the
    training step: `Rollouts` tells it of the observations of each rollout, once it was
    trained on, so the policy that acts and the one that learns see the same numbers. Mean
    and variance are weights, saved with the model.

    Args:
        clip: Float above 0: what lies further from 0 is cut off there. Defaults to 10.0,
            as in OpenAI's baselines.
        epsilon: Float above 0, added to the variance. Defaults to 1e-8, as there.
        kwargs: Other arguments of `keras.layers.Layer`.

    Call arguments:
        observations: Tensor `(..., features)`; each feature has its own mean.

    Raises:
        ValueError: If an argument is not as described.

    Example:

    >>> import keras, keras_e2e as e2e
    >>> layer = e2e.rewards.ObservationNormalization()
    >>> layer.adapt([[1.0], [3.0]])
    >>> [round(float(v), 3) for v in layer(keras.ops.array([[2.0], [4.0]]))[:, 0]]
    [0.0, 2.0]
    """

    def __init__(self, clip: float = 10.0, epsilon: float = 1e-8, **kwargs: Any):
        self.clip = check_number("ObservationNormalization: clip", clip, above=0)
        self.epsilon = check_number("ObservationNormalization: epsilon", epsilon, above=0)
        # Keras would round observations to the compute dtype before they are on one scale.
        super().__init__(autocast=False, **kwargs)
        self._adapting = False

    def build(self, input_shape: Any) -> None:
        def weight(name: str, shape: tuple, initializer: str) -> Any:
            return self.add_weight(
                name=name,
                shape=shape,
                initializer=initializer,
                dtype="float32",
                autocast=False,
                trainable=False,
            )

        self.mean = weight("mean", (input_shape[-1],), "zeros")
        self.variance = weight("variance", (input_shape[-1],), "ones")
        self.count = weight("count", (), "zeros")

    def call(self, observations: Any) -> Any:
        if self._adapting:
            self.adapt(observations)
        scaled = ops.cast(observations, "float32") - self.mean
        scaled = scaled * ops.rsqrt(self.variance + self.epsilon)
        return ops.cast(ops.clip(scaled, -self.clip, self.clip), self.compute_dtype)

    def adapt(self, observations: Any) -> None:
        """Takes observations into mean and variance.

        Args:
            observations: Array `(..., features)`.
        """
        observations = ops.cast(observations, "float32")
        if not self.built:
            self.build(observations.shape)
        rows = ops.reshape(observations, (-1, observations.shape[-1]))
        mean, variance = ops.moments(rows, axes=0)
        # Chan et al. 1979: the moments of two samples together.
        added = ops.cast(ops.shape(rows)[0], "float32")
        total = self.count + added
        share = added / total
        moved = mean - self.mean
        spread = ops.square(moved) * share * (1 - share)
        self.variance.assign(self.variance * (1 - share) + variance * share + spread)
        self.mean.assign(self.mean + moved * share)
        self.count.assign(total)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "clip": self.clip, "epsilon": self.epsilon}

    @classmethod
    @contextmanager
    def adapting(cls, layers: Iterable["ObservationNormalization"]) -> Iterator[None]:
        """In this context the layers learn from whatever they are called with.

        Args:
            layers: The layers.
        """
        layers = list(layers)
        for layer in layers:
            layer._adapting = True
        try:
            yield
        finally:
            for layer in layers:
                layer._adapting = False


def show_observations(
    model: keras.Model, observations: Any, as_inputs: Callable[[Any], Any]
) -> None:
    """Shows observations to all layers of a model that normalize them.

    Args:
        model: The model.
        observations: Array `(examples, ...)`, or a dict of them.
        as_inputs: Function from observations to what the model is called with.
    """
    layers = [
        x for x in compat.all_layers(model) if isinstance(x, ObservationNormalization)
    ]
    if not layers:
        return
    with ObservationNormalization.adapting(layers):
        for begin in range(0, len(keras.tree.flatten(observations)[0]), SHOWN_AT_A_TIME):
            end = begin + SHOWN_AT_A_TIME
            some = keras.tree.map_structure(
                lambda a, span=slice(begin, end): a[span], observations
            )
            model(as_inputs(some), training=False)

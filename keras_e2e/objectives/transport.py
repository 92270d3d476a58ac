"""Transport regularization: an objective that keeps a module close to the identity."""

import math
from typing import Any

import keras
from keras import ops

from keras_e2e.objectives.base import LocalObjective
from keras_e2e.objectives.mixture import Mixture
from keras_e2e.objectives.registry import get, register
from keras_e2e.objectives.specs import Batch, ModelSpec
from keras_e2e.utils.validation import check_number


@register("transport")
@keras.saving.register_keras_serializable("keras_e2e")
class Transport(Mixture):
    """Adds to an objective what it costs a module to move its input.

    Transport-regularized greedy learning (TRGL, Karkar et al. 2023, "Module-wise Training
    of Neural Networks via the Minimizing Movement Scheme"). Early modules that are trained
    by losses of their own overfit and leave later ones little to do; a module that is to
    stay near its input does no more than it must. With the module's input `x` and its
    activation `h`:

        loss = objective(h) + mean((h - x)^2) / (2 * tau)

    the mean over the entries of an example. The paper takes it over residual blocks, here
    it is over the module. Where `h` has another shape than `x`, `x` is placed as by a
    residual connection without weights (He et al. 2015, option A): of its positions, a
    stride takes as many as `h` has, and channels are cut or padded with zeros. Where the
    module makes a vector of a map or sequence, `x` is flattened if it has as many entries,
    or else averaged over its positions.

    Args:
        objective: The objective that is added to: a `LocalObjective` with a loss, an alias
            or a dict from objective to factor. Defaults to `"prediction"`.
        tau: Number above 0: the smaller, the less a module moves. Defaults to 1.0, as in
            the authors' commands for a ResNet-110 in 4 to 16 modules, which halve it in
            the first half of the modules; in 2 modules they have 100.
        **kwargs: `weight` and `reach` of the whole, as in `LocalObjective`.

    Raises:
        ValueError: If `tau` is not a number above 0, or if `objective` is None, a `Signal`,
            which has no loss, or has a weight or reach of its own. When the model is made:
            if the module has several inputs, or one of integers, or one whose positions its
            activation does not have.

    Example:

    >>> import keras, keras_e2e as e2e
    >>> base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, name="code"),
    ...                          keras.layers.Dense(3, activation="softmax")])
    >>> objective = e2e.objectives.Transport("predsim", tau=0.5)
    >>> model = e2e.modularize(base, {"code": objective}, training_mode="local")
    >>> type(objective.parts[0]).__name__
    'PredSim'
    """

    def __init__(self, objective: Any = "prediction", *, tau: float = 1.0, **kwargs: Any):
        if objective is None:
            raise ValueError(
                "Transport(None): expected the objective that it adds to, such as "
                "'prediction'. A penalty alone would train a module to do nothing."
            )
        tau = check_number("Transport: tau", tau, above=0)
        super().__init__({get(objective): 1.0}, **kwargs)
        self.tau = tau

    def build_head(self, activation: keras.KerasTensor, model: ModelSpec) -> None:
        alone = f"Give this boundary {type(self.parts[0]).__name__} alone."
        source = model.module_input
        if isinstance(source, list):
            raise ValueError(
                f"Transport: the module has {len(source)} inputs; expected one, from which "
                f"its activation is moved. {alone}"
            )
        before, after = tuple(source.shape), tuple(activation.shape)
        if not keras.backend.is_float_dtype(source.dtype) or len(after) not in (
            2,
            len(before),
        ):
            raise ValueError(
                f"Transport: the module makes of an input of shape {before} and dtype "
                f"{source.dtype} an activation of shape {after}, which is not a movement. "
                "Expected an input of floating-point numbers, with the axes of the "
                f"activation, or a vector as the activation. {alone}"
            )
        super().build_head(activation, model)

    def loss(self, activation: Any, batch: Batch) -> Any:
        """Returns the penalty alone."""
        moved = ops.cast(activation, "float32")
        start = ops.stop_gradient(ops.cast(batch.module_input, "float32"))
        return ops.square(moved - _placed(start, moved)) / (2.0 * self.tau)

    def compute_loss(self, activation: Any, batch: Batch) -> Any:
        penalty = LocalObjective.compute_loss(self, activation, batch)
        return super().compute_loss(activation, batch) + penalty

    def get_config(self):
        config = {k: v for k, v in super().get_config().items() if k != "objectives"}
        objective = keras.saving.serialize_keras_object(self.parts[0])
        return {**config, "objective": objective, "tau": self.tau}

    @classmethod
    def from_config(cls, config):
        objective = keras.saving.deserialize_keras_object(config["objective"])
        return super(Mixture, cls).from_config({**config, "objective": objective})


def _placed(start: Any, moved: Any) -> Any:
    """Returns a tensor in the shape of another one, without weights."""
    if len(start.shape) > len(moved.shape):
        start = _as_vector(start, moved.shape[-1])
    here, there = ops.shape(start), ops.shape(moved)
    for axis in range(1, len(start.shape) - 1):
        size, wanted = here[axis], there[axis]
        if isinstance(size, int) and isinstance(wanted, int) and size == wanted:
            continue
        # As a stride does: the first of each group of positions.
        start = ops.take(start, ops.arange(wanted) * size // wanted, axis=axis)
    missing = moved.shape[-1] - start.shape[-1]
    if missing > 0:
        start = ops.pad(start, [(0, 0)] * (len(start.shape) - 1) + [(0, missing)])
    return start[..., : moved.shape[-1]]


def _as_vector(start: Any, size: int) -> Any:
    """Returns a map or sequence as one vector: of that size if it has as many entries."""
    entries = start.shape[1:]
    if None not in entries and math.prod(entries) == size:
        return ops.reshape(start, (-1, size))
    return ops.mean(start, axis=tuple(range(1, len(start.shape) - 1)))

"""The contract of a local objective."""

import contextlib
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import keras
from keras import ops

from keras_e2e.objectives.losses import check_values, mean_over_batch
from keras_e2e.objectives.specs import Batch, Exit, ModelSpec, Output, OutputSpec
from keras_e2e.utils import compat
from keras_e2e.utils.shapes import agree, begins_with
from keras_e2e.utils.validation import check_number, check_places, check_reach

__all__ = ["Batch", "Exit", "LocalObjective", "ModelSpec", "Output", "OutputSpec"]

# The arguments of the base class, which subclasses need not know.
_OWN = ("weight", "reach", "tensors")


class LocalObjective(keras.layers.Layer):
    """The loss that trains one module from its own activation.

    A subclass implements `loss`. If it needs a head (a small network between the
    activation and what is compared), it makes it in `build_head`. It is a Keras layer:
    what it assigns to itself is tracked, trained, saved and loaded, and a subclass whose
    constructor arguments are simple (numbers, strings) needs no `get_config`. Register it
    with `keras.saving.register_keras_serializable`, so that a saved model finds it.

    Args:
        weight: Number, 0 or larger, or a
            `keras.optimizers.schedules.LearningRateSchedule` over the steps in which
            the objective counted: the factor of the loss. It multiplies the weight that
            the training mode gives. Defaults to 1.0.
        reach: Over how many modules the gradient flows back in `local` mode, this one
            included: 1 trains the module alone, 2 also the one before it (overlapping
            local learning, Laskin et al. 2020), `"all"` everything before. Defaults to
            `None`, which leaves it to the mode, `TrainingMode("local", reach=...)`, where
            it is 1 by default.
        tensors: String, integer or list of them, for a boundary that passes several
            tensors: which of these it is given, by name (as in `modularize`) or place. If
            they are several they are concatenated along the last axis; unless all other
            axes are the same, each is averaged over those first. Defaults to `None`: those
            that lead to no other one inside of the module.
        **kwargs: Arguments of `keras.layers.Layer`.

    Attributes:
        requires_labels: Boolean, whether `y` must hold intermediate labels under the
            boundary's name. Checked before a step is taken.
        requires_targets: Boolean, whether `y` must hold the targets of the model.
        requires_earlier: Boolean, whether it reads `batch.earlier`, for which all modules
            upstream must run in a step.
        feedback_source: None for an objective with a loss. For one that sends the module
            a signal instead (`objectives.Signal`), where it takes that from.

    Raises:
        ValueError: If `weight`, `reach` or `tensors` is invalid.

    Example:

    An objective that keeps activations sparse.

    >>> import keras, keras_e2e as e2e
    >>> class Sparse(e2e.objectives.LocalObjective):
    ...     def loss(self, activation, batch):
    ...         return keras.ops.abs(activation)
    >>> boundary = e2e.ModuleBoundary(Sparse(weight=0.1), name="code")
    """

    requires_labels: bool = False
    requires_targets: bool = False
    requires_earlier: bool = False
    feedback_source: str | None = None
    built: bool
    _late: tuple[str, ...] = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        # Keras makes the config of a class without a `get_config` of its own, if all that
        # it was given is simple. A schedule or NumPy number is not; `get_config` adds both.
        simple = {k: v for k, v in kwargs.items() if k not in _OWN}
        return super().__new__(cls, *args, **simple)

    def __init__(
        self,
        *,
        weight: Any = 1.0,
        reach: int | str | None = None,
        tensors: Any = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        kind = type(self).__name__
        schedule = _is_schedule(weight)
        if not schedule:
            other = ", or a keras.optimizers.schedules.LearningRateSchedule"
            weight = check_number(f"{kind}: weight", weight, least=0, alternative=other)
        self.weight = weight
        self.reach = check_reach(reach, kind)
        self.tensors = check_places(tensors, f"{kind}: tensors")
        if schedule:
            # Not the optimizer's: on JAX a traced step would not see that one move.
            self.weight_steps = self.add_weight(
                shape=(),
                initializer="zeros",
                trainable=False,
                dtype="float32",
                name="weight_steps",
            )

    def weight_now(self) -> Any:
        """Returns the weight in this step: a number, or a scalar tensor."""
        return self.weight(self.weight_steps) if _is_schedule(self.weight) else self.weight

    def advance_weight(self) -> None:
        """Counts a step in which the objective counted, if its weight has a schedule."""
        if _is_schedule(self.weight):
            self.weight_steps.assign(self.weight_steps + 1.0)

    @compat.default_config
    def get_config(self):
        # Only what was given: a subclass need not know these arguments.
        config = super().get_config()
        if _is_schedule(self.weight):
            config["weight"] = keras.saving.serialize_keras_object(self.weight)
        elif self.weight != 1.0:
            config["weight"] = self.weight
        if self.reach is not None:
            config["reach"] = self.reach
        if self.tensors is not None:
            config["tensors"] = list(self.tensors)
        return config

    @classmethod
    def from_config(cls, config):
        if isinstance(config.get("weight"), dict):
            config = {
                **config,
                "weight": keras.saving.deserialize_keras_object(config["weight"]),
            }
        return super().from_config(config)

    def extra_inputs(self) -> Mapping[Hashable, Callable[[Batch], Any]]:
        """Asks for further forward passes of the model, on other inputs.

        Returns:
            Dict with, for each pass, a key and a function from the batch to the inputs of
            that pass. Passes with equal keys are made once for all boundaries. The
            activations come back as `batch.extra_activations[key]`. By default there are
            none.
        """
        return {}

    def build_head(self, activation: keras.KerasTensor, model: ModelSpec) -> None:
        """Makes the variables of the head. By default there are none.

        Args:
            activation: `keras.KerasTensor` with the shape and dtype of the boundary's
                activation.
            model: `ModelSpec`, the shapes around it.
        """

    def loss(self, activation: Any, batch: Batch) -> Any:
        """Returns per-example values of the loss.

        Args:
            activation: Tensor, the boundary's activation, of shape `(batch, ...)`.
            batch: `Batch` with the labels, inputs and weights that go with it.

        Returns:
            A tensor whose first axis is the batch. The model averages it with the sample
            weights (where these have more axes than the tensor, with their mean over
            those). Do not average over the batch here: under a distribution strategy the
            loss would be too large. If the tensor has the axes of the activation's Keras
            mask (a value for each token, say), masked positions do not count.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement loss(activation, batch)."
        )

    def compute_loss(self, activation: Any, batch: Batch) -> Any:
        """Returns the scalar that is added to the model's loss.

        Override this instead of `loss` only to average in another way. The result must be
        scaled as `keras.losses.Loss` scales it.

        Args:
            activation: As in `loss`.
            batch: As in `loss`.

        Raises:
            ValueError: If `loss` returned anything but a value for each example.
        """
        values = self.loss(activation, batch)
        values = check_values(values, activation, batch, type(self).__name__)
        # The weight of an example applies to all values of its loss.
        weight, mask = batch.sample_weight, compat.mask_of(activation)
        if weight is not None:
            sizes = [None if size == 1 else size for size in weight.shape]
            if not agree(values.shape, sizes):
                # Of weights for positions that the loss has not, an example has the mean.
                parts = tuple(range(1, len(sizes)))
                weight = ops.mean(ops.cast(weight, values.dtype), axis=parts)
        kept = 1 if weight is None else len(weight.shape)
        if mask is not None and begins_with(values.shape, mask.shape):
            kept = max(kept, len(mask.shape))
            while weight is not None and len(weight.shape) < kept:
                weight = ops.expand_dims(weight, -1)  # Keras would not broadcast it
        else:
            mask = None
        if len(values.shape) > kept:
            values = ops.mean(values, axis=tuple(range(kept, len(values.shape))))
        if weight is not None and len(weight.shape) > len(values.shape):
            # Of weights for each token, say, an example has the mean.
            parts = tuple(range(len(values.shape), len(weight.shape)))
            weight = ops.mean(ops.cast(weight, values.dtype), axis=parts)
        compat.set_mask(values, mask)
        return mean_over_batch(values, weight)

    def exits(self, outputs: tuple[Output, ...]) -> tuple[Exit, ...]:
        """Returns what the head predicts, for early exit and evaluation.

        Args:
            outputs: Tuple of `Output`: the model's outputs with their compiled losses.

        Returns:
            Tuple of `Exit`. By default it is empty.
        """
        return ()

    def idle_networks(self, outputs: tuple[Output, ...]) -> list[keras.layers.Layer]:
        """Returns the networks of the head that nothing trains. By default there are none.

        Args:
            outputs: Tuple of `Output`: the model's outputs with their compiled losses.
        """
        return []

    def head_metrics(self) -> list[keras.metrics.Metric]:
        """Returns the metrics of the head's predictions. By default there are none.

        `compute_loss` updates them in steps in which the objective counts, `measure` in
        all others.
        """
        return []

    def measure(self, activation: Any, batch: Batch) -> None:
        """Updates `head_metrics` in inference mode, without a loss.

        Called where the boundary is crossed and the objective does not count: in
        evaluation, and in modes that leave it out.

        Args:
            activation: As in `loss`.
            batch: As in `loss`.
        """

    def build_for(self, activation: keras.KerasTensor, model: ModelSpec) -> None:
        """Calls `build_head` once. The model calls this; you need not.

        Args:
            activation: As in `build_head`.
            model: As in `build_head`.
        """
        if not self.built:
            self.build_head(activation, model)
            self.built = True

    @contextlib.contextmanager
    def refusing_new_weights(self) -> Iterator[None]:
        """Raises ValueError if `loss`, called inside, makes weights: nothing trains them.

        The optimizer does not know them, and a loaded model has no place for them. What a
        user adds to a head that is built (`enable_lora`, say) is the user's.
        """
        known = set(map(id, self.weights))
        yield
        self._late += tuple(w.path for w in self.weights if id(w) not in known)
        if self._late:
            raise ValueError(
                f"{type(self).__name__} made weights in its loss, {[*self._late]}, which "
                "nothing would train and no file bring back. Build the layer in "
                "build_head: layer.build(activation.shape), or the shape it is given."
            )


def _is_schedule(weight: Any) -> bool:
    return isinstance(weight, keras.optimizers.schedules.LearningRateSchedule)

"""The contract of a local objective."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_e2e import _compat


class Output(NamedTuple):
    """One output of the model, as a local objective sees it.

    Attributes:
        name: the output's name, as in `model.output_names`.
        y: its target, or None when none was given.
        sample_weight: its sample weights, or None.
        loss: `loss(y_true, y_pred, sample_weight)`, the compiled loss of this
            output times its loss weight, reduced to a scalar; None when the
            model was compiled without a loss for it.
        compiled_loss: the loss as it was given to `compile`.
    """

    name: str
    y: Any
    sample_weight: Any
    loss: Callable | None
    compiled_loss: Any = None


class Batch(NamedTuple):
    """What a local objective may look at, beside its activation.

    Attributes:
        x: the model's inputs.
        outputs: the model's outputs with their targets and compiled losses.
        labels: the intermediate labels given in `y` under the boundary's name,
            or None.
        sample_weight: weights of shape `(batch,)` for this objective, or None.
        module_input: what the module itself was given, gradient stopped.
    """

    x: Any
    outputs: tuple[Output, ...]
    labels: Any
    sample_weight: Any
    module_input: Any


class OutputSpec(NamedTuple):
    """Shape of one model output and how the model ends there.

    Attributes:
        name: the output's name.
        spec: a `keras.KerasTensor` with the output's shape and dtype.
        ending: maps a head's raw values to what the model puts out (a softmax,
            say), or None when the model does not show how it ends.
    """

    name: str
    spec: keras.KerasTensor
    ending: Callable | None


class ModelSpec(NamedTuple):
    """What is known of the model when an objective builds its head.

    Attributes:
        module_input: a `keras.KerasTensor` (or several, in a list): what the
            module is given.
        inputs: the model's inputs, flat.
        outputs: one `OutputSpec` for each output.
    """

    module_input: Any
    inputs: list
    outputs: tuple[OutputSpec, ...]


class BatchMean(keras.losses.Loss):
    """Averages per-example values as Keras averages a compiled loss.

    Sample weights, and under a distribution strategy the division by the
    number of replicas, are then Keras's own.
    """

    def call(self, y_true, y_pred):
        return y_pred


class LocalObjective(keras.layers.Layer):
    """The loss that trains one module from its own activation.

    A subclass implements `loss`. If it needs a head, it makes it in
    `build_head`. Being a Keras layer, what it assigns to itself is tracked,
    trained, saved and loaded; simple constructor arguments need no
    `get_config`.

    Attributes:
        needs: what must be in `y` for this objective: None (nothing),
            `"target"` (the model's own targets) or `"labels"` (intermediate
            labels under the boundary's name). Checked before a step is taken.

    Example: keep activations sparse.

    >>> import keras, keras_e2e as e2e
    >>> class Sparse(e2e.objectives.LocalObjective):
    ...     def loss(self, activation, batch):
    ...         return keras.ops.abs(activation)
    >>> boundary = e2e.ModuleBoundary(Sparse(), name="code")
    """

    needs: str | None = None
    built: bool

    def build_head(self, activation: keras.KerasTensor, model: ModelSpec) -> None:
        """Makes the variables of the head. The default makes none.

        Args:
            activation: shape and dtype of the boundary's activation.
            model: shapes around it.
        """

    def loss(self, activation: Any, batch: Batch) -> Any:
        """Per-example loss values.

        Args:
            activation: the boundary's activation, `(batch, ...)`.
            batch: labels, inputs and weights that go with it.

        Returns:
            A tensor whose first axis is the batch. The model averages it with
            the sample weights; never average over the batch yourself, the
            loss would then be too large under a distribution strategy. Where
            it has the axes of the activation's Keras mask (a value for each
            token, say), masked positions do not count.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement loss(activation, batch)."
        )

    def compute_loss(self, activation: Any, batch: Batch) -> Any:
        """The scalar that is added to the model's loss.

        Override this instead of `loss` only to reduce in another way; the
        result must be scaled as `keras.losses.Loss` scales it.
        """
        values = ops.cast(self.loss(activation, batch), keras.config.floatx())
        # Weights of examples weigh all that an example's loss consists of.
        weight, mask = batch.sample_weight, _compat.mask_of(activation)
        kept = 1 if weight is None else len(weight.shape)
        if mask is not None and _begins_with(values.shape, mask.shape):
            kept = max(kept, len(mask.shape))
            while weight is not None and len(weight.shape) < kept:
                weight = ops.expand_dims(weight, -1)  # Keras would not broadcast it
        else:
            mask = None
        if len(values.shape) > kept:
            values = ops.mean(values, axis=tuple(range(kept, len(values.shape))))
        _compat.set_mask(values, mask)
        return BatchMean()(values, values, weight)

    def build_for(self, activation: keras.KerasTensor, model: ModelSpec) -> None:
        """Builds the head once; called by the model, never by the user."""
        if not self.built:
            self.build_head(activation, model)
            self.built = True


def _begins_with(shape: tuple, axes: tuple) -> bool:
    """Whether the first axes of a shape are these; unknown sizes fit any."""
    return len(shape) >= len(axes) and all(
        a is None or b is None or a == b for a, b in zip(shape, axes, strict=False)
    )

"""Decoupled neural interfaces: a boundary that predicts its signal."""

import math
from typing import Any

import keras
from keras import ops

from keras_e2e.objectives import heads
from keras_e2e.objectives.registry import register
from keras_e2e.objectives.signal import Signal
from keras_e2e.objectives.specs import Batch, ModelSpec


@register("synthetic_gradient")
@keras.saving.register_keras_serializable("keras_e2e")
class SyntheticGradient(Signal):
    """Predicts the signal at its boundary, and trains the module by the prediction.

    Jaderberg et al. 2017, "Decoupled Neural Interfaces using Synthetic Gradients". A head
    `M(h)`, or `M(h, y)`, predicts for each example the gradient of its loss with respect to
    the activation `h`, which is the signal at the boundary. The module is trained by the
    prediction. The head is trained by half the squared distance from what the next module
    then sends back, which is the true gradient of its own loss, or what its own boundary
    predicts. Both happen in one step here, so it decouples the learning, not the waiting.

    Args:
        conditional: Boolean, whether `M` is given the model's targets too (cDNI, in the
            paper by far the better one: 63 and 82 percent against 84.5 for
            backpropagation). Class indices are given one-hot. Defaults to `True`.
        head: `"linear"` or `"mlp"` (two hidden layers). Its last layer begins at zero, as
            in the paper, so that the module does not change in the first step. Defaults to
            `"mlp"`.
        **kwargs: `weight`, as in `Signal`. It has no `reach`.

    Raises:
        ValueError: If `head` is unknown, or if `reach` is given. When the model is made: if
            the size of the activation or of an output is not known.

    Example:

    >>> import keras_e2e as e2e
    >>> e2e.objectives.SyntheticGradient(conditional=False).requires_targets
    False
    """

    feedback_source = "boundary"
    network: keras.layers.Layer

    def __init__(self, *, conditional: bool = True, head: str = "mlp", **kwargs: Any):
        super().__init__(**kwargs)
        if head not in ("linear", "mlp"):
            raise ValueError(
                f"SyntheticGradient(head={head!r}): expected 'linear' or 'mlp', which keep "
                "the activation's positions."
            )
        self.conditional, self.head = conditional, head

    @property
    def requires_targets(self):  # type: ignore[override]
        return self.conditional

    def build_head(self, activation: keras.KerasTensor, model: ModelSpec) -> None:
        shape = tuple(activation.shape)
        self.outputs = {o.name: tuple(o.spec.shape[1:]) for o in model.outputs}
        context = 0
        if self.conditional:
            for name, axes in self.outputs.items():
                if None in axes:
                    raise ValueError(
                        "SyntheticGradient is given the targets, and the size of the "
                        f"output {name!r} is not known: {axes}. Use conditional=False."
                    )
                context += math.prod(axes)
        seen = keras.KerasTensor((*shape[:-1], shape[-1] + context), activation.dtype)
        self.network = heads.make_head(self.head, seen, shape, self.dtype_policy)
        last = next(x for x in reversed(self.network.layers) if x.weights)
        last.kernel.assign(ops.zeros(last.kernel.shape, last.kernel.dtype))

    def predict_gradient(self, output: Any, outputs: tuple) -> Any:
        if not self.conditional:
            return self.network(output, training=True)
        given = [self._as_features(o) for o in outputs]
        if not given:
            raise ValueError(
                "SyntheticGradient(conditional=True) is given the targets, which are known "
                "in fit and train_on_batch only. Use those, or conditional=False."
            )
        context = ops.cast(ops.concatenate(given, axis=1), output.dtype)
        # The same for every position.
        for axis in range(1, len(output.shape) - 1):
            context = ops.expand_dims(context, axis)
        shape = ops.shape(output)
        context = ops.broadcast_to(context, (*shape[:-1], context.shape[-1]))
        return self.network(ops.concatenate([output, context], axis=-1), training=True)

    def _as_features(self, output: Any) -> Any:
        """Returns an output's targets as `(batch, features)`."""
        if output.y is None:
            raise ValueError(
                "SyntheticGradient(conditional=True) is given the targets, and y holds "
                f"none for the output {output.name!r}. Use conditional=False."
            )
        y, axes = ops.convert_to_tensor(output.y), self.outputs[output.name]
        given = tuple(y.shape[1:])
        if given not in (axes, axes[:-1], (*axes[:-1], 1)):
            raise ValueError(
                f"SyntheticGradient(conditional=True) is given the targets, and y has the "
                f"shape {given} for the output {output.name!r} of shape {axes}, neither "
                "values nor class indices of it (a policy's hold its actions and "
                "advantages, for one). Use conditional=False."
            )
        if axes and given != axes:
            y = ops.squeeze(y, -1) if given == (*axes[:-1], 1) else y
            y = ops.one_hot(ops.cast(y, "int32"), axes[-1]) if axes[-1] > 1 else y
        return ops.reshape(ops.cast(y, "float32"), (-1, math.prod(axes)))

    def loss(self, activation: Any, batch: Batch) -> Any:
        sent = ops.cast(batch.predicted_gradient, "float32")
        fixed = ops.stop_gradient(sent)
        axes = tuple(range(1, len(sent.shape)))
        # The gradient of the first term is what is sent to the module. That of the second
        # is what is sent, to the head; what came back is subtracted at the boundary: the
        # gradient of half their squared distance. Their values have no meaning: 0.
        value = ops.sum(ops.cast(activation, "float32") * fixed, axis=axes)
        value = value + ops.sum(sent * fixed, axis=axes)
        return value - ops.stop_gradient(value)

    def get_config(self):
        return {**super().get_config(), "conditional": self.conditional, "head": self.head}

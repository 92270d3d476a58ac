"""Decoupled neural interfaces: a boundary that predicts its signal."""

from typing import Any

import keras
from keras import ops

from keras_e2e.objectives import heads
from keras_e2e.objectives.base import Batch, ModelSpec
from keras_e2e.objectives.registry import register
from keras_e2e.objectives.signal import Signal


@register("synthetic_gradient")
@keras.saving.register_keras_serializable("keras_e2e")
class SyntheticGradient(Signal):
    """Learns to predict the signal at the boundary, and teaches by the prediction.

    Jaderberg et al. 2017, "Decoupled Neural Interfaces using Synthetic Gradients". A head
    `M(h)`, or `M(h, y)`, predicts for each example the gradient of its loss with respect to
    the activation. The module is trained by the prediction; the head by half the squared
    distance from what the next module then sends back, which is the true gradient of its
    own loss, or what its own boundary predicts. Both happen in one step here, so it
    decouples the learning, not the waiting.

    Args:
        conditional: whether `M` sees the model's targets too (cDNI, in the paper by far the
            better one: 63 and 82 percent against 84.5 for backpropagation). Class indices
            are seen one-hot.
        head: `"linear"` or `"mlp"` (two hidden layers; the default). Its last layer
            begins at zero, as in the paper, so that the module stands still at first.
        **kwargs: `weight`, as in `LocalObjective`.

    Raises:
        ValueError: another head; an activation or output whose size is not known.

    Example:

    >>> import keras_e2e as e2e
    >>> e2e.objectives.SyntheticGradient(conditional=False).requires_targets
    False
    """

    feedback_source = "boundary"

    def __init__(self, *, conditional: bool = True, head: str = "mlp", **kwargs: Any):
        super().__init__(**kwargs)
        if head not in ("linear", "mlp"):
            raise ValueError(
                f"SyntheticGradient(head={head!r}): expected 'linear' or 'mlp', which keep "
                "the activation's positions."
            )
        self.conditional, self.head = conditional, head
        self.network: keras.layers.Layer | None = None

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
                        f"SyntheticGradient sees the targets, and the size of the output "
                        f"{name!r} is not known: {axes}. Use conditional=False."
                    )
                size = 1
                for axis in axes:
                    size *= axis
                context += size
        seen = keras.KerasTensor((*shape[:-1], shape[-1] + context), activation.dtype)
        self.network = heads.make_head(self.head, seen, shape, self.dtype_policy)
        last = next(x for x in reversed(self.network.layers) if x.weights)
        last.kernel.assign(ops.zeros(last.kernel.shape, last.kernel.dtype))

    def predict_gradient(self, output: Any, outputs: tuple) -> Any:
        assert self.network is not None, "build_head comes first"
        if not self.conditional:
            return self.network(output, training=True)
        shown = [self._shown(o) for o in outputs]
        if not shown:
            raise ValueError(
                "SyntheticGradient(conditional=True) sees the targets, which are known in "
                "fit and train_on_batch only. Use those, or conditional=False."
            )
        context = ops.cast(ops.concatenate(shown, axis=1), output.dtype)
        # The same for every position.
        for axis in range(1, len(output.shape) - 1):
            context = ops.expand_dims(context, axis)
        shape = ops.shape(output)
        context = ops.broadcast_to(context, (*shape[:-1], context.shape[-1]))
        return self.network(ops.concatenate([output, context], axis=-1), training=True)

    def _shown(self, output: Any) -> Any:
        """An output's targets as `(batch, features)`."""
        if output.y is None:
            raise ValueError(
                f"SyntheticGradient(conditional=True) sees the targets, and y holds none "
                f"for the output {output.name!r}. Use conditional=False."
            )
        y, axes = ops.convert_to_tensor(output.y), self.outputs[output.name]
        if tuple(y.shape[1:]) != axes and axes:
            y = ops.squeeze(y, -1) if y.shape[1:] == (*axes[:-1], 1) else y
            y = ops.one_hot(ops.cast(y, "int32"), axes[-1]) if axes[-1] > 1 else y
        size = 1
        for axis in axes:
            size *= axis
        return ops.reshape(ops.cast(y, "float32"), (-1, size))

    def loss(self, activation: Any, batch: Batch) -> Any:
        sent = ops.cast(batch.predicted_gradient, "float32")
        told = ops.stop_gradient(sent)
        axes = tuple(range(1, len(sent.shape)))
        # The gradient of the first is what is sent to the module. That of the second is
        # what is sent, to the head; what came back is taken from it at the boundary: the
        # gradient of half their squared distance. Their values mean nothing: 0 is shown.
        value = ops.sum(ops.cast(activation, "float32") * told, axis=axes)
        value = value + ops.sum(sent * told, axis=axes)
        return value - ops.stop_gradient(value)

    def get_config(self):
        return {**super().get_config(), "conditional": self.conditional, "head": self.head}

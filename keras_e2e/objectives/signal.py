"""The contract of objectives that send a module a signal in place of a loss."""

from typing import Any

from keras import ops

from keras_e2e.objectives.base import LocalObjective
from keras_e2e.objectives.specs import Batch


class Signal(LocalObjective):
    """Trains a module by a signal of its own making, in place of a loss.

    The signal at a boundary is the gradient of the loss with respect to the boundary's
    output: what the module before it is trained by. In backpropagation it comes from the
    modules that follow. In modes where the boundary stops the gradient (`local`, `mixed`),
    that true signal does not get through, and a `Signal` sends the module another one: the
    error at the model's outputs, projected by a fixed map, say, or a predicted gradient. In
    all other modes the true signal gets through, and a `Signal` has no effect. It has no
    loss: it adds 0 to the model's loss.

    A subclass sets `feedback_source`, which says where it takes its signal from, and
    implements one method:

    - `"outputs"` (the model's outputs): `project_feedback`.
    - `"following"` (the end of the next module): `project_feedback`.
    - `"boundary"` (what the next module sends back at the boundary itself):
      `predict_gradient`.

    Args:
        **kwargs: `weight`, the factor of the signal, as in `LocalObjective`. A signal
            trains the module before its boundary only, so it has no `reach`.

    Raises:
        ValueError: If `reach` is given.

    Example:

    The error at the model's outputs, sent to every unit alike.

    >>> import keras, keras_e2e as e2e
    >>> class Broadcast(e2e.objectives.Signal):
    ...     feedback_source = "outputs"
    ...     def build_head(self, activation, model):
    ...         self.sizes = [output.spec.shape[-1] for output in model.outputs]
    ...     def project_feedback(self, activation, index):
    ...         mean = keras.ops.mean(activation, axis=-1, keepdims=True)
    ...         return [keras.ops.repeat(mean, size, axis=-1) for size in self.sizes]
    >>> boundary = e2e.ModuleBoundary(Broadcast(), name="code")
    """

    feedback_source = "outputs"

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        if self.reach is not None:
            raise ValueError(
                f"{type(self).__name__}(reach={self.reach!r}): a signal trains the module "
                "before its boundary and has no reach. Leave `reach` out."
            )

    def project_feedback(self, activation: Any, index: int) -> list:
        """Returns a linear map of the activation for each tensor that is the source.

        The gradient with respect to such a tensor comes back through the map, transposed,
        as the module's signal.

        Args:
            activation: Tensor, the boundary's activation.
            index: Integer, which of the modules that come next, if there are several; 0
                for the model's outputs.

        Returns:
            A list with a tensor of the shape of each tensor at the source.
        """
        raise NotImplementedError

    def predict_gradient(self, output: Any, outputs: tuple) -> Any:
        """Predicts the gradient of the loss with respect to the boundary's output.

        Args:
            output: Tensor, what the next module is given.
            outputs: Tuple of `Output`: the model's outputs with their targets; empty
                outside `fit` and `train_on_batch`.
        """
        raise NotImplementedError

    def loss(self, activation: Any, batch: Batch) -> Any:
        return ops.zeros((ops.shape(activation)[0],))

"""The contract of objectives that send a module a signal in place of a loss."""

from typing import Any

from keras import ops

from keras_e2e.objectives.base import Batch, LocalObjective


class Signal(LocalObjective):
    """Teaches a module by a signal that stands in for the true one.

    The boundary stops the true signal (the gradient of the losses behind it) and sends
    another one upstream. A signal counts where the boundary stops the gradient, in
    `local` and `mixed` mode; elsewhere the true one gets through and nothing stands in
    for it. It has no loss of its own: what it adds to the model's loss is 0.

    A subclass says in `feedback_source` where it hears a signal and implements

    - `project_feedback(activation, index)` for `feedback_source = "outputs"` (the model's outputs) or
      `"following"` (the end of the next module; `index` counts them, where several
      follow): a linear map of the activation for each tensor there, of that tensor's
      shape. The gradient with respect to the tensor comes back through the map,
      transposed, as the module's signal.
    - `predict_gradient(output, outputs)` for `feedback_source = "boundary"` (what the next module
      sends back at the boundary itself).
    """

    feedback_source = "outputs"

    def project_feedback(self, activation: Any, index: int) -> list:
        """A map of the activation for each tensor that is listened to."""
        raise NotImplementedError

    def predict_gradient(self, output: Any, outputs: tuple) -> Any:
        """The signal, predicted from what the next module is given."""
        raise NotImplementedError

    def loss(self, activation: Any, batch: Batch) -> Any:
        return ops.zeros((ops.shape(activation)[0],))

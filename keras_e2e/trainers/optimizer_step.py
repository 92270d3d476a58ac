"""What the optimizer makes of a step: whether it takes it, and which one it is."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_e2e.utils import compat


class Outcome(NamedTuple):
    """What became of a step, once its gradients were applied.

    Attributes:
        batches: Scalar, how many batches the optimizer has taken so far.
        taken: Boolean scalar, whether it was an iteration of the optimizer, in which the
            weights may change; None where that is so in any case.
        measured: Boolean scalar, whether the step is a measurement; None as before.
    """

    batches: Any
    taken: Any = None
    measured: Any = None


class OptimizerStep:
    """A step of the optimizer; made before the gradients are applied.

    An optimizer may put a step off (gradient accumulation) or skip it, as
    `LossScaleOptimizer` does where gradients overflow. No weight changes then, and what is
    measured says nothing of the training. If gradients are not finite though the loss is
    not scaled up, no scale is to blame: that is a measurement.

    Args:
        optimizer: The model's optimizer.
        applies: Boolean, whether there are gradients to apply at all.
        read: Function that returns what a variable is now, as a tensor that later steps
            do not change.

    Attributes:
        scale: Scalar, the loss scale of the gradients. To apply them may change it.
    """

    def __init__(self, optimizer: Any, applies: bool, read: Callable[[Any], Any]):
        self.optimizer, self._read = optimizer, read
        self.scale = optimizer.scale_loss(ops.ones(()))
        stock = type(optimizer).apply is keras.optimizers.Optimizer.apply
        always = stock and not optimizer.gradient_accumulation_steps
        self.may_pass = applies and not always
        if self.may_pass:
            self._batches, self._iterations = self._batches_now(), self._iterations_now()

    def outcome(self, gradients: Sequence) -> Outcome:
        """What became of the step; called after the gradients were applied.

        Args:
            gradients: List of the gradients, None where there is none.
        """
        batches = self._batches_now()
        if not self.may_pass:
            return Outcome(batches)
        taken = self._iterations_now() > self._iterations
        checks = [
            ops.all(ops.isfinite(ops.convert_to_tensor(g)))
            for g in gradients
            if g is not None
        ]
        blown = ops.logical_not(ops.all(ops.stack(checks)))
        skipped = ops.equal(batches, self._batches)
        at_fault = skipped & blown & (self.scale <= 1.0)
        return Outcome(batches, taken, taken | at_fault)

    def _batches_now(self) -> Any:
        return self._read(compat.batches_taken(self.optimizer))

    def _iterations_now(self) -> Any:
        return self._read(self.optimizer.iterations)

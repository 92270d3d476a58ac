"""The training step on TensorFlow: Keras's own numbers, plus diagnostics when due."""

import warnings
from typing import Any

import keras
import tensorflow as tf
from keras import tree

from keras_e2e.diagnostics.quantity import Quantity
from keras_e2e.trainers.tensorflow.extra_passes import Passes, first_tensor
from keras_e2e.trainers.tensorflow.gradients import Backward
from keras_e2e.trainers.tensorflow.instrumentation import StepInstrumentation
from keras_e2e.trainers.tensorflow.recorder import Recorder
from keras_e2e.utils import compat


class ModularStep:
    """Mixin with the TensorFlow `train_step` of modular models.

    It follows Keras's own step call by call. It differs in two ways: variables that
    must not move in the training mode are left out of the apply, and an instrumented
    step also asks the tape for the signals at the boundaries.
    """

    _modular: Any
    name: str

    def train_step(self, data):
        state = self._modular
        instrumented = state.instrumented
        metric_variables = len(self.metrics_variables)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        apart = bool(state.flow().separate)
        with tf.GradientTape(persistent=apart) as tape:
            state.local.tap = _tap(tape if instrumented else None)
            state.local.targets = (y, sample_weight)
            try:
                y_pred = self(x, training=True)
            finally:
                state.local.tap = None
                del state.local.targets
            loss = self.compute_loss(
                x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True
            )
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            compat.loss_tracker(self).update_state(
                loss * tf.cast(replicas, loss.dtype) if replicas > 1 else loss,
                sample_weight=tf.shape(first_tensor(x))[0],
            )
            backward = Backward(self, tape, loss)
        still = state.still_variables()
        variables = [v for v in self.trainable_variables if id(v) not in still]
        if instrumented:
            passes = Passes(self, x, y, sample_weight)
            instrumentation = StepInstrumentation(
                self, y_pred, passes, state.recorder, instrumented
            )
            gradients, signals = instrumentation.differentiate(backward, variables)
        else:
            gradients = backward.gradients(variables)
        del tape, backward  # a persistent tape holds every activation
        if variables:
            with tf.control_dependencies(_forward(state.mode, loss, y_pred)):
                self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        else:
            warnings.warn(
                f"{self.name!r} has nothing to train in mode '{state.mode}'.",
                stacklevel=2,
            )
        if instrumented:
            instrumentation.record(variables, gradients, signals)
        self._forget_forward()
        logs = self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        if len(self.metrics_variables) == metric_variables:
            # Else Keras has just made its metrics, in a trace that TensorFlow repeats.
            state.traces[(str(state.mode), instrumented)] += 1
        return logs

    def _instrument(self, quantities: list[Quantity]) -> Recorder:
        state = self._modular
        if not state.modules:
            raise RuntimeError(
                f"{self.name!r}: the modules are not known yet. Call "
                "model.examine(x_of_a_few_examples) before instrument()."
            )
        if state.recorder is None or not state.recorder.fits(state.modules, quantities):
            with self.distribute_strategy.scope():  # type: ignore[attr-defined]
                state.recorder = Recorder(state.modules, quantities)
            # Instrumented steps write to the recorder they were traced with.
            state.functions = {k: f for k, f in state.functions.items() if not k[1]}
        elif any(
            a is not b for a, b in zip(state.recorder.quantities, quantities, strict=True)
        ):
            # Asked for anew, by another callback: the steps serve, the averages do not.
            state.recorder.quantities = quantities
            state.recorder.reset()
        return state.recorder


def _tap(tape: tf.GradientTape | None) -> Any:
    def tap(tensor):
        tensor = _summed_apart(tensor)
        if tape is not None:
            tape.watch(tensor)
        return tensor

    return tap


@tf.custom_gradient
def _summed_apart(tensor: Any) -> Any:
    """The tensor, whose gradient is a sum of its own.

    What comes back from the next module's branches is summed here, and then added to
    what comes from the heads, whether or not the step reads it. Else TensorFlow would
    make one sum of both where nobody reads the first, in another order: with
    diagnostics the weights would differ in the last bit.
    """
    shape = tensor.shape
    # Unlike tf.identity, this one is left in place by the graph optimizer.
    return tf.identity(tensor), lambda gradient: tf.ensure_shape(gradient, shape)


def _forward(mode: Any, loss: Any, y_pred: Any) -> list:
    """What a step must have computed before a weight moves.

    TensorFlow puts each read of a weight before its update. Keras sends all gradients
    through one operation (`all_reduce` to a single replica), in which each seems to
    depend on all, so the graph optimizer drops that order as implied, and then the
    operation. A read from which no gradient of the same weight is made, such as that of
    a clean pass beside the corrupted one that teaches, could then come too late.
    End to end such reads are rare, and the step is Keras's own, to the bit.
    """
    if mode.name == "end_to_end":
        return []
    return [tensor for tensor in tree.flatten((loss, y_pred)) if tensor is not None]

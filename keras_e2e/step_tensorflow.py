"""The training step on TensorFlow: Keras's own numbers, plus diagnostics when due."""

import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_e2e import _compat
from keras_e2e.backward_tensorflow import Backward
from keras_e2e.diagnostics.quantity import ModuleView, Quantity


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
            _compat.loss_tracker(self).update_state(
                loss * tf.cast(replicas, loss.dtype) if replicas > 1 else loss,
                sample_weight=tf.shape(_first_tensor(x))[0],
            )
            backward = Backward(self, tape, loss)
        still = state.still_variables()
        variables = [v for v in self.trainable_variables if id(v) not in still]
        if instrumented:
            probe = _Probe(self, y_pred, loss)
            gradients, signals = probe.differentiate(backward, variables)
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
            probe.record(state.recorder, variables, gradients, signals)
        self._forget_forward()
        logs = self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        if len(self.metrics_variables) == metric_variables:
            # Else Keras has just made its metrics, in a trace that TensorFlow repeats.
            state.traces[(str(state.mode), instrumented)] += 1
        return logs

    def _instrument(self, quantities: list[Quantity]) -> "Recorder":
        state = self._modular
        if not state.modules:
            raise RuntimeError(
                f"{self.name!r}: the modules are not known yet. Call "
                "model.examine(x_of_a_few_examples) before instrument()."
            )
        if state.recorder is None or state.recorder.quantities != quantities:
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


def _first_tensor(x: Any) -> Any:
    return next(tensor for tensor in tree.flatten(x) if tensor is not None)


class Recorder:
    """Where instrumented steps write; read by callbacks.

    One variable with the numbers, `[modules, quantities]`, and what the quantities keep
    between steps. Keras does not track them: they are in no weights, logs or files. Each
    replica holds its own copy with the same values, so writing needs no synchronisation.

    Attributes:
        module_names: the rows.
        quantities: the columns.
    """

    def __init__(self, modules: list, quantities: list[Quantity]):
        self.module_names = [module.name for module in modules]
        self.quantities = quantities
        # The numbers, and 1 where the quantity applies to the module, else 0.
        self.values = _local_variable((2, len(modules), len(quantities)))
        self.kept = [
            [
                [_local_variable(s) for s in quantity.init_state(_shapes(module))]
                for quantity in quantities
            ]
            for module in modules
        ]

    def read(self) -> dict[str, dict[str, float]]:
        """The numbers of the latest instrumented step, by quantity and module.

        One transfer. Holds no entry where a quantity does not apply to a module; NaN
        and infinity are as they came out.
        """
        values, applies = self.values.numpy().tolist()
        return {
            quantity.name: {
                name: values[row][column]
                for row, name in enumerate(self.module_names)
                if applies[row][column]
            }
            for column, quantity in enumerate(self.quantities)
        }

    def reset(self) -> None:
        """Forgets the running averages, which belong to the loss of one mode."""
        for variable in tree.flatten(self.kept):
            variable.assign(tf.zeros_like(variable))

    def write(self, views: list[ModuleView]) -> None:
        """Computes every quantity of every module; called in a traced step."""
        rows, applies = [], []
        for row, view in enumerate(views):
            columns = []
            for column, quantity in enumerate(self.quantities):
                kept = self.kept[row][column]
                value, following = quantity.compute(view, [tf.identity(v) for v in kept])
                for variable, new in zip(kept, following, strict=True):
                    variable.assign(new)
                applies.append(0.0 if value is None else 1.0)
                columns.append(tf.cast(np.nan if value is None else value, tf.float32))
            rows.append(tf.stack(columns))
        shown = tf.reshape(tf.constant(applies, tf.float32), self.values.shape[1:])
        self.values.assign(tf.stack([tf.stack(rows), shown]))


class _Probe:
    """What one instrumented step collects, from the tape to the recorder."""

    def __init__(self, model: Any, y_pred: Any, loss: Any):
        self.model = model
        self.collector = model._take_forward()
        self.outputs = [] if y_pred is None else tree.flatten(y_pred)
        self.loss = loss

    def differentiate(self, backward, variables) -> tuple[list, dict]:
        """Gradients of the variables and signals at the crossings, in one pass."""
        crossings = self.collector.crossings
        taps = [
            *self.outputs,
            *[c.activation for c in crossings],
            *[c.output for c in crossings],
        ]
        # A cross-entropy on probabilities is computed from the values under them.
        raw = [_compat.logits_of(tensor) for tensor in taps]
        found = backward.gradients(variables, [*taps, *raw], self._places() * 2)
        self.before = [tf.identity(v) for v in variables]
        gradients, found = found[: len(variables)], found[len(variables) :]
        direct, below = found[: len(taps)], found[len(taps) :]
        # Always those where there are any: in mixed precision a cast hides them from the
        # loss, and the reading must not depend on the precision.
        signals = [d if b is None else b for d, b in zip(direct, below, strict=True)]
        ends = len(self.outputs), len(self.outputs) + len(crossings)
        return gradients, {
            "outputs": signals[: ends[0]],
            "activations": signals[ends[0] : ends[1]],
            "boundary_outputs": signals[ends[1] :],
        }

    def _places(self) -> list[frozenset[str]]:
        """For each tap the modules whose losses speak through it."""
        modules = self.model._modular.modules
        crossed = [c.boundary.module for c in self.collector.crossings]
        following = {
            name: frozenset(m.name for m in modules if name in m.inputs) for name in crossed
        }
        return [
            *[frozenset([modules[-1].name])] * len(self.outputs),
            *[frozenset([name]) for name in crossed],
            *[following[name] for name in crossed],
        ]

    def record(self, recorder, variables, gradients, signals) -> None:
        scale = self.model.optimizer.scale_loss(tf.ones(()))
        strategy = tf.distribute.get_strategy()
        alone = strategy.num_replicas_in_sync == 1

        def total(tensor):
            if alone:
                return tensor
            context = tf.distribute.get_replica_context()
            return context.all_reduce(tf.distribute.ReduceOp.SUM, tensor)

        def unscaled(tensor):
            if tensor is None:
                return None
            return tf.cast(tf.convert_to_tensor(tensor), tf.float32) / scale

        before = {id(v): old for v, old in zip(variables, self.before, strict=True)}
        taught_by = {
            # Keras leaves the static shape of some gradients open.
            id(v): total(tf.ensure_shape(unscaled(g), v.shape))
            for v, g in zip(variables, gradients, strict=True)
            if g is not None
        }
        crossings = self.collector.crossings
        views = []
        for module in self.model._modular.modules:
            ends = [i for i, c in enumerate(crossings) if c.boundary is module.boundary]
            starts = [
                i for i, c in enumerate(crossings) if c.boundary.module in module.inputs
            ]
            taught = [signals["activations"][i] for i in ends]
            if module.boundary is None:
                taught = signals["outputs"]
            theirs = module.trainable_variables
            moving = [v for v in theirs if id(v) in before]
            views.append(
                ModuleView(
                    name=module.name,
                    variables=[before[id(v)] for v in moving],
                    gradients=[taught_by.get(id(v)) for v in theirs],
                    updates=[v - before[id(v)] for v in moving],
                    loss=self._loss_of(module),
                    activation=_joined(
                        [tf.cast(crossings[i].activation, tf.float32) for i in ends]
                    ),
                    signal=_joined([unscaled(t) for t in taught]),
                    input_signal=_joined(
                        [unscaled(signals["boundary_outputs"][i]) for i in starts]
                    ),
                    total=total,
                )
            )
        recorder.write(views)

    def _loss_of(self, module) -> Any:
        """The local loss of a module; for the last one what is left of the total."""
        losses = self.collector.losses
        if module.boundary is not None:
            return losses.get(module.name)
        if not self.outputs:
            return None
        return self.collector.task_loss


def _joined(tensors: list) -> Any:
    """Several tensors as one `(batch, features)` or as it is; None if one is absent."""
    if not tensors or any(t is None for t in tensors):
        return None
    if len(tensors) == 1:
        return tensors[0]
    # Outputs of several shapes, or several crossings: examples stay in the first axis.
    flat = [tf.reshape(t, (tf.shape(t)[0], -1)) for t in tensors]
    return tf.concat(flat, axis=1)


def _shapes(module: Any) -> list[tuple]:
    return [tuple(v.shape) for v in module.trainable_variables]


def _local_variable(shape: tuple) -> tf.Variable:
    """A variable of which each replica writes its own copy."""
    return tf.Variable(
        tf.zeros(shape),
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )

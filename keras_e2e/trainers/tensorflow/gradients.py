"""From the losses to the gradients, each as soon as its loss is there."""

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from keras import ops, tree

from keras_e2e.modules.forward_record import ForwardRecord
from keras_e2e.modules.loss_parts import LossPart
from keras_e2e.modules.step_context import StepContext, step_context
from keras_e2e.objectives.global_batch import meeting
from keras_e2e.trainers.one_pass import why_one_pass
from keras_e2e.trainers.part_losses import part_loss, part_penalties, part_variables
from keras_e2e.trainers.sharing import refuse_inseparable_losses, shares_variables
from keras_e2e.trainers.step_loss import losses_under_way, refuse_incomplete_step
from keras_e2e.trainers.step_losses import StepLosses
from keras_e2e.utils import compat
from keras_e2e.utils.compat import calls
from keras_e2e.utils.compat.multi_worker import several_workers
from keras_e2e.utils.compat.order import after
from keras_e2e.utils.graphs import unique


class StepGradients:
    """The gradients of one step.

    Losses that meet in a module are one sum and need one backward pass; where the gradient
    stops at a boundary there are several (`loss_parts`). Each is made where the forward
    pass has just crossed the last boundary that it takes, and the next module's input waits
    for it: so the activations of one module are given up before the next one makes its own.
    (Run eagerly, TensorFlow keeps them all.) Where that cannot be (`why_one_pass`), all are
    made when the pass is over.

    The pass and `finish` run inside of `tape`, `take` after it is closed.

    Args:
        model: The modular model.
        context: The `StepContext` of the step.
        x: The inputs.
        variables: List of the variables that the step may change.
        scale: Function that scales a loss. Defaults to `None`: as the optimizer requires.
        tapped: Boolean, whether the gradients at the outputs of the model and on both
            sides of the boundaries are wanted too. Defaults to `False`.
        apply: Function that applies gradients as soon as there are those of a module; or
            None, the default, where all are applied at the end.

    Attributes:
        tape: The `tf.GradientTape` of the pass.
        variables: List of the variables whose gradients were not applied yet.
        applied: Boolean, whether some were.
    """

    def __init__(
        self,
        model: Any,
        context: StepContext,
        x: Any,
        variables: Sequence,
        scale: Callable[[Any], Any] | None = None,
        tapped: bool = False,
        apply: Callable[[list, list], None] | None = None,
    ):
        self._apply, self.applied = apply, False
        self._model, self._context, self._x = model, context, x
        self._scale_loss = scale or model.optimizer.scale_loss
        self.variables, self._tapped = list(variables), tapped
        flow, ordered = model._modular.flow(), why_one_pass(model) is None
        self._sharing = shares_variables(model)
        self._parts = flow.parts if ordered or flow.separate or self._sharing else ()
        self._pending = list(self._parts)
        self._ready: list[tuple] = []
        self.tape = tf.GradientTape(persistent=len(self._parts) > 1)
        self._found: dict[int, Any] = {}
        self._crossed: Counter = Counter()
        self._outputs: list = []
        # Names decide the order of sums in TensorFlow: those of the operations that follow
        # must not depend on the layer in whose call they are made.
        self._scope = tf.get_current_name_scope()
        if ordered and len(self._parts) > 1:
            refuse_incomplete_step(model)
            context.hold = self._hold

    def finish(self, loss: Any, y_pred: Any) -> None:
        """Notes the loss of the step and its outputs, when the pass is over.

        Args:
            loss: Scalar, the sum of all losses.
            y_pred: The model's outputs, or None.
        """
        if self._sharing and self._context.mode is None:  # not a pass for diagnostics
            refuse_inseparable_losses(self._model)
        self._outputs = [] if y_pred is None else tree.flatten(y_pred)
        if len(self._parts) > 1:
            losses = self._context.losses
            self._ready = [(part, self._loss(part, losses)) for part in self._pending]
        else:
            self._ready = [(None, self._scale(loss))]

    def take(self) -> list:
        """The gradients of the variables; None where there is none."""
        for part, loss in self._ready:
            if loss is not None:
                self._differentiate(part, loss, self._context.record)
        del self.tape  # which holds every activation
        return [self._found.get(id(v)) for v in self.variables]

    def at(self, tensor: Any) -> Any:
        """The gradient at an output of the model or at a boundary; None for none."""
        return self._found.get(id(tensor))

    def _hold(self, record: ForwardRecord, boundary: Any, outputs: list) -> list:
        """Takes the gradients that can be taken now; what goes on waits for them."""
        outputs = self._held(record, boundary, outputs)
        if self._context.left is not None:
            self._context.left(boundary.module)
        return outputs

    def _held(self, record: ForwardRecord, boundary: Any, outputs: list) -> list:
        self._crossed[boundary.module] += 1
        due = [part for part in self._pending if self._is_complete(part)]
        if not due:
            return outputs
        self._pending = [part for part in self._pending if part not in due]
        made: list = []
        # As if the pass were not under way: a head may repeat calls of the model's layers.
        outside = step_context(self._model._modular, gate=None, hold=None)
        with _scope(self._scope), calls.outside_of_calls(), outside:
            losses = losses_under_way(self._model, self._context, self._x, record)
            for part in due:
                loss = self._loss(part, losses)
                if loss is None:
                    continue
                with self.tape.stop_recording():
                    made += [loss, *self._differentiate(part, loss, record)]
            if self._apply is not None and made:
                with self.tape.stop_recording(), _after(made):
                    made = self._apply_complete(self._apply, due) or made
        if not made:
            return outputs
        return after(outputs, made)

    def _apply_complete(self, apply: Callable[[list, list], None], due: list) -> list:
        """Applies the gradients of modules that are complete. Returns what to wait for."""
        waiting = {name for part in self._pending for name in part.trains}
        trained = {name for part in due for name in part.trains} - waiting
        modules = [m for m in self._model._modular.modules if m.name in trained]
        own = {id(v) for module in modules for v in module.all_variables}
        variables = [v for v in self.variables if id(v) in own]
        gradients = [self._found.pop(id(v), None) for v in variables]
        if all(gradient is None for gradient in gradients):
            return []
        apply(gradients, variables)
        self.applied = True
        applied = {id(v) for v in variables}
        self.variables = [v for v in self.variables if id(v) not in applied]
        return [tf.convert_to_tensor(v) for v in variables]

    def _is_complete(self, part: LossPart) -> bool:
        modules = [m for m in self._model._modular.modules if m.name in part.ends]
        return all(m.boundary and self._crossed[m.name] == m.crossings for m in modules)

    def _loss(self, part: LossPart, losses: StepLosses) -> Any:
        """The loss of a part, scaled; None for none."""
        penalties = functools.partial(
            part_penalties, self._model, part, self.variables, self._context.testing
        )
        loss = part_loss(part, losses, penalties)
        return None if loss is None else self._scale(loss)

    def _scale(self, loss: Any) -> Any:
        share = self._context.share
        if share is not None:
            loss = loss * ops.cast(share, loss.dtype)
        return self._scale_loss(loss)

    def _sources(self, part: LossPart | None, record: ForwardRecord | None) -> list:
        """What a part is differentiated by; everything where the loss is one."""
        variables = self.variables
        if part is not None:
            variables = part_variables(self._model, part, variables)
        return [*variables, *(self._taps(part, record) if self._tapped else ())]

    def _taps(self, part: LossPart | None, record: ForwardRecord | None) -> list:
        """The tensors at boundaries and outputs through which the losses of a part flow."""
        modules = self._model._modular.modules
        trained = {m.name for m in modules} if part is None else part.trains
        taps = list(self._outputs) if modules[-1].name in trained else []
        for crossing in record.crossings if record is not None else ():
            name = crossing.boundary.module
            if name in trained:
                taps += crossing.inputs
            if any(name in m.inputs for m in modules if m.name in trained):
                taps += crossing.outputs
        # A cross-entropy on probabilities is computed from the values under them.
        taps = unique([*taps, *map(compat.logits_of, taps)])
        return [tensor for tensor in taps if tensor.dtype.is_floating]

    def _differentiate(self, part: LossPart | None, loss: Any, record: Any) -> list:
        """Adds the gradients of a part to those that there are. Returns the new ones."""
        sources = self._sources(part, record)
        with meeting():  # gradients go where the examples of all replicas came from
            found = self.tape.gradient(loss, sources)
        new = [(s, g) for s, g in zip(sources, found, strict=True) if g is not None]
        for source, gradient in new:
            before = self._found.get(id(source))
            total = gradient if before is None else _sum(before, gradient)
            self._found[id(source)] = total
        return [gradient for _, gradient in new]


def unscaled(gradient: Any, scale: Any) -> Any:
    """A gradient in float32, without the loss scale of mixed precision; None for None."""
    if gradient is None:
        return None
    return tf.cast(tf.convert_to_tensor(gradient), tf.float32) / scale


def over_replicas(tensor: Any) -> Any:
    """The sum of a tensor over the replicas; the tensor itself on one device."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return tensor
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensor)


def of_chief(tensor: Any) -> Any:
    """The tensor of the first replica of the chief; the tensor itself on one worker."""
    if not several_workers(tf.distribute.get_strategy()):
        return tensor
    context = tf.distribute.get_replica_context()
    is_first = tf.equal(context.replica_id_in_sync_group, 0)
    return over_replicas(tf.where(is_first, tensor, tf.zeros_like(tensor)))


def _sum(first: Any, second: Any) -> Any:
    # An embedding's gradient may be sparse.
    return tf.convert_to_tensor(first) + tf.convert_to_tensor(second)


def _after(made: list) -> Any:
    """A context whose operations wait for these tensors; of a sparse one for its values."""
    return tf.control_dependencies([getattr(t, "values", t) for t in made])


def _scope(name: str) -> Any:
    """The name scope of this full name."""
    return tf.name_scope(f"{name}/" if name else "/")

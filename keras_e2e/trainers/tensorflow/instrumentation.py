"""What one instrumented step collects of each module."""

from typing import Any

import tensorflow as tf
from keras import tree

from keras_e2e.diagnostics.quantity import ModuleView
from keras_e2e.trainers.tensorflow.extra_passes import Passes, first_tensor
from keras_e2e.trainers.tensorflow.recorder import Recorder
from keras_e2e.utils import compat


class StepInstrumentation:
    """What one instrumented step collects, from the tape to the recorder.

    Args:
        model: the modular model, after its loss was computed.
        y_pred: what it put out.
        passes: further passes over the batch.
        recorder: where the numbers go.
        level: how much is due: `READING` or `PERIODIC`.
    """

    def __init__(
        self, model: Any, y_pred: Any, passes: Passes, recorder: Recorder, level: int
    ):
        self.model, self.passes = model, passes
        self.recorder, self.level = recorder, level
        self.needs = recorder.needs(level)
        self.collector = model._take_forward()
        self.outputs = [] if y_pred is None else tree.flatten(y_pred)

    def differentiate(self, backward, variables) -> tuple[list, dict]:
        """Gradients of the variables and signals at the crossings, in one pass."""
        crossings = self.collector.crossings
        taps = [
            *self.outputs,
            *[c.activation for c in crossings],
            *[c.output for c in crossings],
        ]
        # A cross-entropy on probabilities is computed from the values under them.
        raw = [compat.logits_of(tensor) for tensor in taps]
        found = backward.gradients(variables, [*taps, *raw], self._places() * 2)
        self.before = [tf.identity(v) for v in variables]
        self.further = self._further()
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

    def record(self, variables, gradients, signals) -> None:
        """Makes the views of the modules, after the step, and has them written."""
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

        def summed(found):
            """Gradients by variable, over all replicas."""
            return {
                # Keras leaves the static shape of some gradients open.
                id(v): total(tf.ensure_shape(unscaled(found[id(v)]), v.shape))
                for v in self.model.trainable_variables
                if found.get(id(v)) is not None
            }

        before = {id(v): old for v, old in zip(variables, self.before, strict=True)}
        trained_by = summed({id(v): g for v, g in zip(variables, gradients, strict=True)})
        further = self.further
        if "later" in self.needs:
            further["later"] = self.passes.later()
        halves = [summed(half) for half in further.get("halves") or ()]
        others = {
            name: summed(further[name])
            for name in ("local", "later")
            if further.get(name) is not None
        }
        examples = total(
            tf.cast(tf.shape(first_tensor(self.passes.batch[0]))[0], tf.float32)
        )
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
            updates = [v - before[id(v)] if id(v) in before else None for v in theirs]

            def of(found, theirs=theirs):
                return [found.get(id(v)) for v in theirs]

            views.append(
                ModuleView(
                    name=module.name,
                    variables=[before[id(v)] for v in theirs if id(v) in before],
                    gradients=of(trained_by),
                    updates=updates,
                    loss=self._loss_of(module),
                    activation=_joined(
                        [tf.cast(crossings[i].activation, tf.float32) for i in ends]
                    ),
                    signal=_joined([unscaled(t) for t in taught]),
                    input_signal=_joined(
                        [unscaled(signals["boundary_outputs"][i]) for i in starts]
                    ),
                    total=total,
                    num_examples=examples,
                    halves=(of(halves[0]), of(halves[1])) if halves else None,
                    local_gradients=of(others["local"]) if "local" in others else None,
                    later_gradients=of(others["later"]) if "later" in others else None,
                    classes=further.get("classes"),
                    mask=compat.mask_of(crossings[ends[0]].output)
                    if len(ends) == 1
                    else None,
                )
            )
        self.recorder.write(views, self.level)

    def _further(self) -> dict:
        """What quantities need beyond the step itself, before it moves anything."""
        made = {
            "halves": self.passes.halves,
            "local": self.passes.local,
            "classes": self.passes.classes,
        }
        return {name: make() for name, make in made.items() if name in self.needs}

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

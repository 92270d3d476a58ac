"""Extra passes over the batch of a step, for diagnostics: they have no side effects."""

from typing import Any

import keras
import tensorflow as tf
from keras import tree

from keras_e2e.modules.step_context import step_context
from keras_e2e.modules.training_mode import TrainingMode
from keras_e2e.trainers.local_losses import build_outputs, missing
from keras_e2e.trainers.tensorflow.gradients import StepGradients, over_replicas, unscaled
from keras_e2e.utils import compat
from keras_e2e.utils.graphs import unique


class ExtraPasses:
    """Gradients on the batch of the step under way, or on parts of it.

    They are those of the loss that the step minimizes, penalties included, in float32 and
    without the loss scale of mixed precision; not finite where they overflow at that scale.
    Nothing that a pass assigns is kept: no moving statistic, no seed, no metric. A pass
    whose targets or labels are not in the batch is not made.

    Args:
        model: The modular model.
        x: The batch's inputs, whole.
        y: Its targets.
        sample_weight: Its weights, or None.
    """

    def __init__(self, model: Any, x: Any, y: Any, sample_weight: Any):
        self.model = model
        self.batch = (x, y, sample_weight)
        self.given = model._split(y, sample_weight)

    def halves(self) -> tuple[dict, dict] | None:
        """Gradients of the task loss, end to end, on both halves of the batch.

        By `id` of the variable. An odd example is left out. None where there are labels
        of boundaries only, and where the model takes batches of one size only.
        """
        if self._only_labels() or _takes_whole_batches(self.model):
            return None
        count = tf.shape(first_tensor(self.batch[0]))[0] // 2
        mode = TrainingMode("end_to_end")
        first = tree.map_structure(lambda t: _rows(t, None, count), self.batch)
        second = tree.map_structure(lambda t: _rows(t, count, 2 * count), self.batch)
        # The mean over a half counts each example twice. Counted once, as in the step, it
        # overflows in mixed precision no sooner than the step.
        return self._gradients(mode, first, 0.5), self._gradients(mode, second, 0.5)

    def local(self) -> dict | None:
        """Gradients of all local objectives; None where a boundary has none."""
        for module in self.model._modular.modules:
            if module.boundary is None:
                continue
            labels = self.given.labels.get(module.name)
            if module.objective is None or missing(module, self.given.y, labels):
                return None
        if self._only_labels():
            return None
        return self._gradients(TrainingMode("local"), self.batch)

    def later(self) -> dict:
        """Gradients of the loss of the mode, with the present weights."""
        return self._gradients(self.model._modular.mode, self.batch)

    def classes(self) -> Any:
        """The targets of the only output as `(batch, classes)`, if they are classes.

        Those of a cross-entropy are. None for any others.
        """
        model = self.model
        output, *more = build_outputs(model, model._modular.keys(), self.given.y, None)
        shape = model._modular.outputs[0].spec.shape
        if more or output.y is None or len(shape) != 2 or not shape[1]:
            return None
        if "crossentropy" not in _name(output.compiled_loss):
            return None
        y = tf.convert_to_tensor(output.y)
        if y.shape.rank == 2 and shape[1] > 1 and y.shape[1] == shape[1]:
            return tf.cast(y, tf.float32)
        return tf.one_hot(tf.cast(tf.reshape(y, (-1,)), tf.int32), max(shape[1], 2))

    def reference(self, y_pred: Any, task_loss: Any) -> tuple | None:
        """The compiled loss of predictions, and of their mean given for every example.

        The task loss is the first of them where it has no penalties.
        """
        compiled = compat.compiled_loss(self.model)
        if y_pred is None or compiled is None or self.given.y is None:
            return None
        y, weight = self.given.y, self.given.sample_weight
        penalized = bool(self.model.losses)
        with keras.StatelessScope():  # a loss of several outputs keeps metrics
            constant = tree.map_structure(_mean_for_all, y_pred)
            own = compiled(y, y_pred, sample_weight=weight) if penalized else task_loss
            return own, compiled(y, constant, sample_weight=weight)

    def _only_labels(self) -> bool:
        return self.given.y is None and bool(self.given.labels)

    def _gradients(self, mode: TrainingMode, batch: Any, share: float = 1.0) -> dict:
        """By `id` of the variable; `share` is a factor of the scale of the loss."""
        x, y, sample_weight = batch
        state = self.model._modular
        variables = state.steps.variables(self.model)
        change = step_context(
            state, mode=mode, targets=(y, sample_weight), tap=None, hold=None
        )

        def scale(loss: Any) -> Any:
            return self.model.optimizer.scale_loss(loss) * share

        with change as context:
            gradients = StepGradients(self.model, context, x, variables, scale)
            # With values, or Keras finds none for its penalties of weights; those that were
            # thawed after the step was compiled have penalties, too.
            known = unique([*variables, *self.model.trainable_variables])
            with gradients.tape:
                values = [(v, v.value) for v in known]
                with keras.StatelessScope(values, collect_losses=True):
                    y_pred = self.model(x, training=True)
                    loss = self.model.compute_loss(
                        x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True
                    )
                    if loss is None:
                        return {}
                    gradients.finish(loss, y_pred)
            found = gradients.take()
        factor = scale(tf.ones(()))
        return {id(v): unscaled(g, factor) for v, g in zip(variables, found, strict=True)}


def _takes_whole_batches(model: Any) -> bool:
    """Whether half a batch would not do: a layer keeps a state for each example."""
    sizes = [tensor.shape[0] for tensor in getattr(model, "inputs", None) or ()]
    stateful = [getattr(layer, "stateful", False) for layer in compat.all_layers(model)]
    return any(size is not None for size in sizes) or any(stateful)


def first_tensor(x: Any) -> Any:
    """The first tensor of a structure: its first axis is the batch."""
    return next(tensor for tensor in tree.flatten(x) if tensor is not None)


def _mean_for_all(prediction: Any) -> Any:
    """The mean over the whole batch, for each example; padding does not count."""
    values = tf.cast(prediction, tf.float32)
    mask = compat.mask_of(prediction)
    if mask is None:
        counts = tf.ones_like(values)
    else:
        features = [1] * (values.shape.rank - mask.shape.rank)
        shape = tf.concat([tf.shape(mask), tf.constant(features, tf.int32)], axis=0)
        counts = tf.reshape(tf.cast(mask, values.dtype), shape)
    weighted, total = (
        over_replicas(tf.reduce_sum(each, axis=0, keepdims=True))
        for each in (values * counts, counts)
    )
    mean = tf.math.divide_no_nan(weighted, total)
    constant = mean + tf.zeros_like(values)
    compat.set_mask(constant, mask)
    return constant


def _rows(tensor: Any, begin: Any, end: Any) -> Any:
    return None if tensor is None else tensor[begin:end]


def _name(loss: Any) -> str:
    """A loss's name without underscores: `"binarycrossentropy"`."""
    name = loss if isinstance(loss, str) else getattr(loss, "name", None)
    return str(name or getattr(loss, "__name__", "")).lower().replace("_", "")

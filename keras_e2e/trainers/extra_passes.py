"""Extra passes over the batch of a step, for diagnostics: they have no side effects."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_e2e.modules.training_mode import TrainingMode
from keras_e2e.objectives.losses import loss_name
from keras_e2e.trainers.local_losses import build_outputs, missing
from keras_e2e.utils import compat
from keras_e2e.utils.data import num_examples


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
        of boundaries only, where the model takes batches of one size only, and of sparse
        inputs.
        """
        if self._only_labels() or _takes_whole_batches(self.model):
            return None
        there = [t for t in tree.flatten(self.batch) if t is not None]
        if not all(hasattr(tensor, "__getitem__") for tensor in there):
            return None  # sparse tensors have no slices
        count = num_examples(self.batch[0]) // 2
        if isinstance(count, int) and count == 0:
            return None
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
        name = loss_name(output.compiled_loss).lower().replace("_", "")
        if "crossentropy" not in name:
            return None
        y = ops.convert_to_tensor(output.y)
        if len(y.shape) == 2 and shape[1] > 1 and y.shape[1] == shape[1]:
            return ops.cast(y, "float32")
        places = ops.cast(ops.reshape(y, (-1,)), "int32")
        return ops.one_hot(places, max(shape[1], 2), dtype="float32")

    def reference(
        self, y_pred: Any, task_loss: Any, total: Callable[[Any], Any], *, penalized: bool
    ) -> tuple | None:
        """The compiled loss of predictions, and of their mean given for every example.

        The task loss is the first of them where it has no penalties.

        Args:
            y_pred: The model's outputs, or None.
            task_loss: Scalar, the task loss.
            total: Function that sums a tensor over the replicas.
            penalized: Boolean, whether the task loss has penalties in it.
        """
        compiled = compat.compiled_loss(self.model)
        if y_pred is None or compiled is None or self.given.y is None:
            return None
        y, weight = self.given.y, self.given.sample_weight
        # A loss of several outputs keeps metrics, whose values JAX has put aside.
        kept = [(v, np.zeros(v.shape, v.dtype)) for v in compiled.variables]
        with keras.StatelessScope(kept):
            constant = tree.map_structure(lambda p: _mean_for_all(p, total), y_pred)
            own = compiled(y, y_pred, sample_weight=weight) if penalized else task_loss
            return own, compiled(y, constant, sample_weight=weight)

    def _only_labels(self) -> bool:
        return self.given.y is None and bool(self.given.labels)

    def _gradients(self, mode: TrainingMode, batch: Any, share: float = 1.0) -> dict:
        """By `id` of the variable; `share` is a factor of the scale of the loss."""
        raise NotImplementedError


def _takes_whole_batches(model: Any) -> bool:
    """Whether half a batch would not do: a layer keeps a state for each example."""
    sizes = [tensor.shape[0] for tensor in getattr(model, "inputs", None) or ()]
    stateful = [getattr(layer, "stateful", False) for layer in compat.all_layers(model)]
    return any(size is not None for size in sizes) or any(stateful)


def _mean_for_all(prediction: Any, total: Callable[[Any], Any]) -> Any:
    """The mean over the whole batch, for each example; padding does not count."""
    values = ops.cast(prediction, "float32")
    mask = compat.mask_of(prediction)
    counts = ops.ones_like(values)
    if mask is not None:
        features = [1] * (len(values.shape) - len(mask.shape))
        counts = ops.reshape(ops.cast(mask, values.dtype), (*ops.shape(mask), *features))
    weighted, number = (
        total(ops.sum(each, axis=0, keepdims=True)) for each in (values * counts, counts)
    )
    constant = ops.divide_no_nan(weighted, number) + ops.zeros_like(values)
    compat.set_mask(constant, mask)
    return constant


def _rows(tensor: Any, begin: Any, end: Any) -> Any:
    return None if tensor is None else tensor[begin:end]

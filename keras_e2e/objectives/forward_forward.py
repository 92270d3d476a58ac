"""The Forward-Forward algorithm: two forward passes instead of a backward one."""

import math
from typing import Any

import keras
from keras import ops, tree

from keras_e2e.objectives.base import LocalObjective
from keras_e2e.objectives.class_labels import check_num_classes, labeled_output, one_hot
from keras_e2e.objectives.global_batch import GlobalBatch
from keras_e2e.objectives.registry import register
from keras_e2e.objectives.specs import Batch, ModelSpec
from keras_e2e.utils.validation import check_number, check_seed


@register("forward_forward")
@keras.saving.register_keras_serializable("keras_e2e")
class ForwardForward(LocalObjective):
    """High goodness for inputs with their true label, low for those with a wrong one.

    Hinton 2022, "The Forward-Forward Algorithm": the goodness of an example is the mean of
    its squared activations, the loss is
    `softplus(threshold - goodness(true)) + softplus(goodness(wrong) - threshold)`. The
    model is run twice more in each step: the first `num_classes` values of its (flattened)
    first input are overwritten by the label, one-hot, once by the true one and once by
    another one drawn at random.

    A layer must not read off the length of its input what the layer before knew: begin
    each module after the first with `keras.layers.RMSNormalization()`, which leaves lengths
    near the root of the number of units, as Hinton does. The last module is trained by the
    task loss on the input as it is, without a label, and `model.predict` is its answer in
    one pass. `goodness_predict(model, x)` tries every label instead.

    Args:
        threshold: Number, the goodness between true and wrong. Defaults to 2.0. (Hinton
            sums the squares and takes the number of units, which is 1 here; public code
            that takes the mean commonly uses 2.)
        overlay: Number, the value that stands for the label. Defaults to 1.0, the largest
            value of an input between 0 and 1.
        output_name: String, name of the model output whose targets are the labels.
            Defaults to `None`: the only output.
        num_classes: Integer, the number of classes. Defaults to `None`: the size of that
            output.
        seed: Integer seed of the random wrong labels. Defaults to `None`: a seed that is
            drawn.
        **kwargs: `weight` and `reach`, as in `LocalObjective`.

    Raises:
        ValueError: If an argument is out of range. When the model is made: if the output
            does not score classes, or if the input has fewer values than there are
            classes, or an unknown number of them.

    Example:

    >>> import keras_e2e as e2e
    >>> e2e.objectives.ForwardForward(threshold=1.0).requires_targets
    True
    """

    requires_targets = True

    def __init__(
        self,
        *,
        threshold: float = 2.0,
        overlay: float = 1.0,
        output_name: str | None = None,
        num_classes: int | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.threshold = check_number("ForwardForward: threshold", threshold)
        self.overlay = check_number("ForwardForward: overlay", overlay)
        self.output_name = output_name
        self.num_classes = check_num_classes(self, num_classes)
        self.seed = check_seed("ForwardForward: seed", seed)
        self.generator = keras.random.SeedGenerator(self.seed)

    def build_head(self, activation: keras.KerasTensor, model: ModelSpec) -> None:
        self.labeled, self.scored = labeled_output(
            self, model, self.output_name, self.num_classes
        )
        shape = tuple(model.inputs[0].shape)
        size = math.prod(axis or 0 for axis in shape[1:])
        if size < self.scored:
            raise ValueError(
                f"ForwardForward writes a label of {self.scored} values over the first "
                f"values of the model's input, which has shape {shape}: too few, or of "
                "unknown number. Pad the input."
            )

    def extra_inputs(self):
        kind = ("label overlay", self.labeled, self.scored, self.overlay)
        return {(*kind, "true"): self._true, (*kind, "wrong"): self._wrong}

    def loss(self, activation: Any, batch: Batch) -> Any:
        # `extra_inputs` names the true label first.
        true, wrong = (batch.extra_activations[key] for key in self.extra_inputs())
        good = ops.softplus(self.threshold - goodness(true))
        return good + ops.softplus(goodness(wrong) - self.threshold)

    def _true(self, batch: Batch) -> Any:
        labels = one_hot(self, batch, self.labeled, self.scored)
        return overlaid(batch.x, labels * self.overlay)

    def _wrong(self, batch: Batch) -> Any:
        labels = ops.argmax(one_hot(self, batch, self.labeled, self.scored), axis=1)
        # Between 1 and scored - 1 further on: never the true one.
        every = GlobalBatch(labels)
        draws = every.own(keras.random.uniform((every.size,), seed=self.generator))
        steps = 1 + ops.cast(ops.floor(draws * (self.scored - 1)), "int32")
        others = (
            ops.cast(labels, "int32") + ops.minimum(steps, self.scored - 1)
        ) % self.scored
        wrong = ops.one_hot(others, self.scored, dtype="float32")
        return overlaid(batch.x, wrong * self.overlay)

    def get_config(self):
        config = super().get_config()
        config.update(
            threshold=self.threshold,
            overlay=self.overlay,
            output_name=self.output_name,
            num_classes=self.num_classes,
            seed=self.seed,
        )
        return config


def goodness(activation: Any) -> Any:
    """Returns the mean of the squared activations of each example, float32 `(batch,)`."""
    squares = ops.square(ops.cast(activation, "float32"))
    return ops.mean(squares, axis=tuple(range(1, len(squares.shape))))


def overlaid(x: Any, labels: Any) -> Any:
    """Returns the model's inputs with labels over the first values of the first of them."""
    first, *rest = tree.flatten(x)
    first = ops.convert_to_tensor(first)
    flat = ops.reshape(first, (ops.shape(first)[0], -1))
    flat = ops.concatenate(
        [ops.cast(labels, first.dtype), flat[:, labels.shape[1] :]], axis=1
    )
    return tree.pack_sequence_as(x, [ops.reshape(flat, ops.shape(first)), *rest])

"""Intermediate labels: the "semantic" supervision of a module."""

from typing import Any

import keras
from keras import ops

from keras_e2e.objectives import heads
from keras_e2e.objectives.base import Batch, Exit, LocalObjective, ModelSpec, Output
from keras_e2e.objectives.prediction import (
    deserialize_loss,
    ending_for_loss,
    serialize_loss,
)
from keras_e2e.objectives.registry import register


@register("intermediate_target")
@keras.saving.register_keras_serializable("keras_e2e")
class IntermediateTarget(LocalObjective):
    """Trains a module on intermediate labels of its own.

    The labels come in `y` under the boundary's name:
    `model.fit(x, {"parity": p, "symbols": s})`. They may be missing for most
    examples: a negative integer label, or a float label that holds a NaN, is missing.
    Missing labels count as sample weight zero does in Keras: the loss is the sum over
    the labelled divided by the size of the batch. So a batch counts by how many
    labels it brings, an epoch's gradient is that of the labelled set whatever the
    batches, replicas add up to one device, and a batch without a label has exactly
    zero loss and gradient.

    Args:
        loss: a Keras loss (name, function or object). Default: sparse categorical
            cross-entropy.
        head: None when the activation itself is the prediction (say, it ends in a
            softmax); otherwise a head of `heads.make_head` (a kind, or a layer of your
            own), which then needs `units`.
        units: size of the head's last axis: the number of classes, for example.
        per_position: whether the head predicts a label for each position of the
            activation (a token, a pixel) rather than one for the whole.
        activation: what the head ends with. Default: what the loss expects, softmax or
            sigmoid for a cross-entropy on probabilities and nothing for any other. Not
            taken without a head.

    Raises:
        ValueError: a head without `units` or the reverse; labels that are not given,
            or whose shape does not fit the activation.

    Example:

    >>> import keras_e2e as e2e
    >>> e2e.objectives.IntermediateTarget(head="mlp", units=5).requires_labels
    True
    """

    requires_labels = True

    def __init__(
        self,
        loss: Any = "sparse_categorical_crossentropy",
        *,
        head: Any = None,
        units: int | None = None,
        per_position: bool = False,
        activation: Any = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if (head is None) != (units is None):
            raise ValueError(
                f"IntermediateTarget(head={head!r}, units={units!r}): a head needs `units`, and "
                "without a head the activation itself is the prediction. Give both or "
                "neither."
            )
        if head is None and (activation is not None or per_position):
            raise ValueError(
                "IntermediateTarget(activation=..., per_position=...) say how a head works; give "
                "`head` and `units` too."
            )
        self.loss_spec = loss
        self.head = heads.validate_head(head)
        self.units = units
        self.per_position = per_position
        if head is not None and activation is None:
            activation = ending_for_loss(loss)
        self.activation = keras.activations.get(activation)
        self.network = None

    def build_head(self, activation: keras.KerasTensor, model: ModelSpec) -> None:
        if self.head is not None:
            positions = activation.shape[1:-1] if self.per_position else ()
            self.network = heads.make_head(
                self.head,
                activation,
                (None, *positions, self.units),
                self.dtype_policy,
                model.following_blocks,
            )

    def exits(self, outputs: tuple[Output, ...]) -> tuple[Exit, ...]:
        ending = None if self.network is None else self.activation
        return (Exit(None, self.network, ending),)

    def loss(self, activation: Any, batch: Batch) -> Any:
        prediction = activation
        if self.network is not None:
            raw = self.network(activation, training=batch.training)
            prediction = self.activation(raw)
        labels = ops.convert_to_tensor(batch.labels)
        labels = self._fit_shape(labels, prediction)
        loss = keras.losses.get(self.loss_spec)
        present, labels = _present(labels)
        call = loss.call if isinstance(loss, keras.losses.Loss) else loss
        values = call(labels, ops.cast(prediction, keras.config.floatx()))
        present = _reduce_to(present, len(values.shape))
        # Both sides of `where` are finite, so that a missing label leaves exactly
        # zero in the gradient, not zero times infinity.
        return ops.where(present, values, ops.zeros_like(values))

    def _fit_shape(self, labels: Any, prediction: Any) -> Any:
        """Labels as the loss wants them, or an error that names both shapes."""
        shape, wanted = tuple(labels.shape), tuple(prediction.shape)
        sparse = "sparse" in _loss_name(self.loss_spec)
        expected = wanted[:-1] if sparse else wanted
        if sparse and len(shape) == len(wanted) and shape[-1] == 1:
            labels, shape = ops.squeeze(labels, -1), shape[:-1]
        if not sparse and len(shape) == len(wanted) - 1 and wanted[-1] == 1:
            labels, shape = ops.expand_dims(labels, -1), (*shape, 1)
        fits = len(shape) == len(expected) and all(
            a is None or b is None or a == b
            for a, b in zip(shape[1:], expected[1:], strict=True)
        )
        if not fits:
            raise ValueError(
                f"Target labels have shape {shape}; a prediction of shape {wanted} "
                f"under the loss {_loss_name(self.loss_spec)!r} needs labels of shape "
                f"{expected}. Reshape the labels, or give the objective a head."
            )
        return labels

    def get_config(self):
        config = super().get_config()
        config.update(
            loss=serialize_loss(self.loss_spec),
            head=heads.serialize(self.head),
            units=self.units,
            per_position=self.per_position,
            activation=None
            if self.head is None
            else keras.activations.serialize(self.activation),
        )
        return config

    @classmethod
    def from_config(cls, config):
        config = {**config, "loss": deserialize_loss(config.get("loss"))}
        config["head"] = heads.deserialize(config.get("head"))
        return super().from_config(config)


def _loss_name(loss: Any) -> str:
    if isinstance(loss, str):
        return loss
    return str(getattr(loss, "name", None) or getattr(loss, "__name__", loss))


def _present(labels: Any) -> tuple[Any, Any]:
    """Which labels are there, and the labels with the missing ones set to 0."""
    dtype = keras.backend.standardize_dtype(labels.dtype)
    if "float" in dtype:
        present = ops.logical_not(ops.isnan(labels))
    else:
        present = ops.greater_equal(labels, 0)
    return present, ops.where(present, labels, ops.zeros_like(labels))


def _reduce_to(present: Any, rank: int) -> Any:
    """A label of several numbers is there when each of them is."""
    while len(present.shape) > rank:
        present = ops.all(present, axis=-1)
    return present

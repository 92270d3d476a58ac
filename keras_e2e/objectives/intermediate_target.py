"""Intermediate labels: supervision of a module by targets of its own."""

from typing import Any, NamedTuple

import keras
from keras import ops

from keras_e2e.objectives import head_metrics, heads
from keras_e2e.objectives.base import LocalObjective
from keras_e2e.objectives.losses import (
    check_activation,
    check_loss,
    deserialize_loss,
    ending_for_loss,
    loss_name,
    serialize_loss,
)
from keras_e2e.objectives.registry import register
from keras_e2e.objectives.specs import Batch, Exit, ModelSpec, Output
from keras_e2e.utils.validation import check_integer


class Labeled(NamedTuple):
    """What a module predicts of its labels.

    Attributes:
        prediction: Tensor, the prediction.
        labels: Tensor, the labels, 0 where they are missing.
        present: Boolean tensor of their shape, which of them are there.
    """

    prediction: Any
    labels: Any
    present: Any

    def update(self, metric: keras.metrics.Metric) -> None:
        """Updates a metric with the labels that are there."""
        rank = len(self.prediction.shape) - 1
        weight = ops.cast(_reduce_to(self.present, rank), keras.config.floatx())
        metric.update_state(self.labels, self.prediction, weight)


@register("intermediate_target")
@keras.saving.register_keras_serializable("keras_e2e")
class IntermediateTarget(LocalObjective):
    """Trains a module on intermediate labels of its own.

    The labels come in `y` under the boundary's name, besides the targets of the model's
    outputs: `model.fit(x, {"parity": p, "symbols": s})`. They may be missing for most
    examples: a negative integer label, or a float label that holds a NaN, is missing.
    Missing labels count as sample weight zero does in Keras: the loss is the sum over
    the labeled examples divided by the size of the batch. So a batch counts by how many
    labels it has, an epoch's gradient is that of the labeled set whatever the batches,
    replicas add up to one device, and a batch without a label has exactly zero loss and
    gradient.

    Args:
        loss: Name of a Keras loss, a function `loss(y_true, y_pred)` or a
            `keras.losses.Loss`. Defaults to `"sparse_categorical_crossentropy"`.
        head: The head, a small network that makes a prediction of the activation: a
            string such as `"mlp"` (see `heads.make_head`) or a Keras layer of your own;
            `units` must be given too. Defaults to `None`: the activation itself is the
            prediction (it ends in a softmax, say).
        units: Integer, size of the last axis of the head's prediction, such as the number
            of classes. Required with a head, and only then. Defaults to `None`.
        per_position: Boolean, whether the head predicts a label for each position of the
            activation (a token, a pixel) rather than one for the whole. Defaults to
            `False`.
        activation: Name of a Keras activation, or a function: what the head ends with.
            Only with a head. Defaults to `None`, what the loss expects: softmax or
            sigmoid for a cross-entropy on probabilities, else nothing.
        metrics: A list of metrics of the prediction, such as `["accuracy"]`, over the
            labels that are there, without sample weights: in the logs as
            `<boundary>_accuracy`, and in `evaluate_modules`. Defaults to `None`.
        **kwargs: `weight` and `reach`, as in `LocalObjective`.

    Raises:
        ValueError: If the loss, head or activation is unknown or a lambda, or if only one
            of `head` and `units` is given. In training: if the shape of the labels does
            not fit the prediction.
        TypeError: If `head` is neither a string nor a layer.

    Example:

    >>> import keras, keras_e2e as e2e, numpy as np
    >>> base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="code"),
    ...                          keras.layers.Dense(1, name="score")])
    >>> objective = e2e.objectives.IntermediateTarget(head="mlp", units=5)
    >>> model = e2e.modularize(base, {"code": objective}, training_mode="local")
    >>> model.compile("sgd", "mse")
    >>> y = {"score": np.zeros(6), "code": np.array([0, 4, 2, -1, -1, -1])}
    >>> history = model.fit(np.ones((6, 8)), y, verbose=0)
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
        metrics: Any = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.asked = head_metrics.HeadMetrics(metrics, "IntermediateTarget")
        self.own_metrics: list = []
        if (head is None) != (units is None):
            raise ValueError(
                f"IntermediateTarget(head={head!r}, units={units!r}): a head needs "
                "`units`, and without a head the activation itself is the prediction. Give "
                "both or neither."
            )
        if head is None and (activation is not None or per_position):
            raise ValueError(
                "IntermediateTarget: `activation` and `per_position` describe a head, and "
                "there is none. Give `head` and `units` too."
            )
        self.loss_spec = check_loss(loss, "IntermediateTarget")
        self.head = heads.validate_head(head)
        self.units = None
        if units is not None:
            self.units = check_integer("IntermediateTarget: units", units, 1)
        self.per_position = per_position
        own = check_activation(activation, "IntermediateTarget")
        self.activation = own or keras.activations.linear
        if head is not None and own is None:
            self.activation = ending_for_loss(self.loss_spec)
        self.network = None

    def build_head(self, activation: keras.KerasTensor, model: ModelSpec) -> None:
        (self.own_metrics,) = self.asked.make(["labels"], model.name, "IntermediateTarget")
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
        found = self.labeled(activation, batch)
        if batch.training:
            self._update(found)
        loss = keras.losses.get(self.loss_spec)
        call = loss.call if isinstance(loss, keras.losses.Loss) else loss
        values = call(found.labels, ops.cast(found.prediction, keras.config.floatx()))
        present = _reduce_to(found.present, len(values.shape))
        # Both sides of `where` are finite, so that a missing label leaves exactly zero in
        # the gradient, not zero times infinity.
        return ops.where(present, values, ops.zeros_like(values))

    def labeled(self, activation: Any, batch: Batch) -> Labeled:
        """Returns the prediction and the labels in the shape that the loss takes.

        Args:
            activation: As in `loss`.
            batch: As in `loss`.
        """
        prediction = activation
        if self.network is not None:
            raw = self.network(activation, training=batch.training)
            prediction = self.activation(raw)
        labels = self._fit_shape(ops.convert_to_tensor(batch.labels), prediction)
        present, labels = _present(labels)
        return Labeled(prediction, labels, present)

    def head_metrics(self) -> list[keras.metrics.Metric]:
        return list(self.own_metrics)

    def measure(self, activation: Any, batch: Batch) -> None:
        if self.own_metrics and batch.labels is not None:
            self._update(self.labeled(activation, batch._replace(training=False)))

    def _update(self, found: Labeled) -> None:
        for metric in self.own_metrics:
            found.update(metric)

    def _fit_shape(self, labels: Any, prediction: Any) -> Any:
        """Returns labels in the shape that the loss takes.

        Raises:
            ValueError: If they do not fit; names both shapes.
        """
        # The size of the batch is no part of it, and is not known on every backend.
        shape, wanted = ((None, *tensor.shape[1:]) for tensor in (labels, prediction))
        sparse = "sparse" in loss_name(self.loss_spec)
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
                f"The labels have shape {shape}; a prediction of shape {wanted} "
                f"under the loss {loss_name(self.loss_spec)!r} needs labels of shape "
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
        if self.asked.given:
            config["metrics"] = self.asked.get_config()
        return config

    @classmethod
    def from_config(cls, config):
        config = {**config, "loss": deserialize_loss(config.get("loss"))}
        config["head"] = heads.deserialize(config.get("head"))
        if "metrics" in config:
            config["metrics"] = head_metrics.from_config(config["metrics"])
        return super().from_config(config)


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

"""Prediction of the model's own target from a module's activation."""

from typing import Any

import keras
from keras import ops

from keras_e2e.objectives import head_metrics, heads
from keras_e2e.objectives.base import LocalObjective
from keras_e2e.objectives.losses import (
    check_activation,
    check_loss,
    deserialize_loss,
    ending_for_loss,
    loss_object,
    serialize_loss,
)
from keras_e2e.objectives.registry import register
from keras_e2e.objectives.specs import Batch, Exit, ModelSpec, Output, OutputSpec


@register("pred", "prediction")
@keras.saving.register_keras_serializable("keras_e2e")
class Prediction(LocalObjective):
    """Trains a module to predict the model's own target through an auxiliary head.

    The objective of greedy layer-wise and decoupled training (Belilovsky et al. 2019,
    2020) and of local-loss `pred` (Noekland & Eidnes 2019).

    Args:
        head: The head, a small network that makes a prediction of the activation. One of
            the strings `"linear"`, `"gap_linear"`, `"mlp"`, `"conv_mlp"` and `"conv1"`
            (see `heads.make_head`), a Keras layer or model of your own, or a head made of
            the model's own layers: `keras_e2e.AugLocal()`,
            `keras_e2e.MomentumAuxiliary()`. Defaults to `None`, which chooses by the
            activation's shape.
        output_name: String, name of the model output whose target is predicted. Defaults
            to `None`: all outputs.
        loss: Name of a Keras loss, a function `loss(y_true, y_pred)` or a
            `keras.losses.Loss`. Defaults to `None`: the loss that the model is compiled
            with, with its loss weight.
        activation: Name of a Keras activation, or a function: what the head ends with.
            Defaults to `None`: what the model's output ends with, so that the compiled
            loss fits. If the model does not show that (a subclassed model), the loss
            decides: softmax or sigmoid for a cross-entropy on probabilities, else
            nothing.
        metrics: Metrics of the head's predictions, which `fit` and `evaluate` log as
            `<boundary>_<metric>`: a list as in `compile`, or a dict from output name to
            such a list. Defaults to `None`: no metrics. In training modes that do not
            train the head they measure it in inference mode; in modes that leave out the
            module they are not logged.
        **kwargs: `weight` and `reach`, as in `LocalObjective`.

    Raises:
        ValueError: If the head, loss, activation or a metric is unknown or a lambda. When
            the model is made: if `output_name` is not an output of the model, or if one
            layer is to be the head of several outputs.
        TypeError: If `head` is neither a string nor a layer.

    Example:

    >>> import keras, keras_e2e as e2e
    >>> base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="code"),
    ...                          keras.layers.Dense(3, activation="softmax")])
    >>> objective = e2e.objectives.Prediction("mlp", metrics=["accuracy"])
    >>> model = e2e.modularize(base, {"code": objective}, training_mode="local")
    >>> [metric.name for metric in objective.head_metrics()]
    ['code_accuracy']
    """

    requires_targets = True

    def __init__(
        self,
        head: Any = None,
        *,
        output_name: str | None = None,
        loss: Any = None,
        activation: Any = None,
        metrics: Any = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.head = heads.validate_head(head)
        self.output_name = output_name
        self.asked = head_metrics.HeadMetrics(metrics, type(self).__name__)
        self.metrics_by_output: list = []
        own = None if loss is None else check_loss(loss, type(self).__name__)
        self.loss_spec = own
        self.own_loss = None if own is None else loss_object(own)
        self.activation = check_activation(activation, type(self).__name__)
        self.endings: tuple = ()
        self.networks: list = []

    def build_head(self, activation: keras.KerasTensor, model: ModelSpec) -> None:
        names = [output.name for output in model.outputs]
        if self.output_name is not None and self.output_name not in names:
            raise ValueError(
                f"Prediction(output_name={self.output_name!r}): the model has no such "
                f"output. Its outputs: {names}. Name one of them, or leave output_name out."
            )
        chosen = [o for o in model.outputs if self.output_name in (None, o.name)]
        if len(chosen) > 1 and isinstance(self.head, keras.layers.Layer):
            raise ValueError(
                f"Prediction(head={self.head.name!r}): one layer cannot be the head of the "
                f"outputs {names}. Name one with output_name=..., or use a kind of head."
            )
        endings = []
        for output in chosen:
            self.networks.append(self.make_network(activation, output, model))
            endings.append(self.activation or output.ending)
        self.endings = tuple(endings)
        self.metrics_by_output = self.asked.make(
            [output.name for output in chosen], model.name, type(self).__name__
        )

    def make_network(
        self, activation: keras.KerasTensor, output: OutputSpec, model: ModelSpec
    ) -> keras.layers.Layer:
        """Returns the head that predicts one output, built.

        Args:
            activation: As in `build_head`.
            output: `OutputSpec` of the output.
            model: As in `build_head`.
        """
        return heads.make_head(
            self.head,
            activation,
            output.spec.shape,
            self.dtype_policy,
            model.following_blocks,
        )

    def exits(self, outputs: tuple[Output, ...]) -> tuple[Exit, ...]:
        chosen = [o for o in outputs if self.output_name in (None, o.name)]
        return tuple(
            Exit(
                output.name,
                network,
                ending or ending_for_loss(self.loss_spec or output.compiled_loss),
            )
            for network, ending, output in zip(
                self.networks, self.endings, chosen, strict=True
            )
        )

    def predict(
        self, activation: Any, outputs: tuple[Output, ...], training: bool = True
    ) -> list:
        """Returns the head's predictions, a tensor for each output that is predicted.

        Args:
            activation: Tensor, the boundary's activation.
            outputs: Tuple of the `Output`s that are predicted.
            training: Boolean, whether the head runs in training mode. Defaults to
                `True`.
        """
        return [way.predict(activation, training) for way in self.exits(outputs)]

    def compute_loss(self, activation: Any, batch: Batch) -> Any:
        outputs = tuple(o for o in batch.outputs if self.output_name in (None, o.name))
        total = 0.0
        predictions = self.predict(activation, outputs, batch.training)
        if batch.training:
            self._update(outputs, predictions)
        for output, y_pred in zip(outputs, predictions, strict=True):
            loss = self.own_loss or output.loss
            if loss is not None and output.y is not None:
                total = total + _loss_of(loss, output, y_pred)
        return ops.convert_to_tensor(total)

    def idle_networks(self, outputs: tuple[Output, ...]) -> list[keras.layers.Layer]:
        """Returns the networks that predict outputs without a loss."""
        chosen = [o for o in outputs if self.output_name in (None, o.name)]
        return [
            network
            for network, output in zip(self.networks, chosen, strict=True)
            if (self.own_loss or output.loss) is None
        ]

    def head_metrics(self) -> list[keras.metrics.Metric]:
        return [metric for metrics in self.metrics_by_output for metric in metrics]

    def measure(self, activation: Any, batch: Batch) -> None:
        if self.head_metrics():
            outputs = tuple(o for o in batch.outputs if self.output_name in (None, o.name))
            self._update(outputs, self.predict(activation, outputs, training=False))

    def _update(self, outputs: tuple[Output, ...], predictions: list) -> None:
        for metrics, output, y_pred in zip(
            self.metrics_by_output, outputs, predictions, strict=True
        ):
            for metric in metrics if output.y is not None else ():
                try:
                    metric.update_state(output.y, y_pred)
                except (TypeError, ValueError) as error:
                    raise ValueError(
                        f"The metric {metric.name!r} does not fit targets of shape "
                        f"{tuple(output.y.shape)} and predictions of shape "
                        f"{tuple(y_pred.shape)}. Use another metric. Keras says: {error}"
                    ) from error

    def get_config(self):
        config = super().get_config()
        config.update(
            head=heads.serialize(self.head),
            output_name=self.output_name,
            loss=serialize_loss(self.loss_spec),
            activation=None
            if self.activation is None
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


def _loss_of(loss: Any, output: Output, y_pred: Any) -> Any:
    """The loss of a prediction, or an error that says what does not fit."""
    try:
        return loss(output.y, y_pred, output.sample_weight)
    except ValueError as error:
        raise ValueError(
            f"its head returns predictions of shape {y_pred.shape}, and the targets of the "
            f"output {output.name!r}, of shape {output.y.shape}, do not fit. Set the "
            "boundary where the activation has the positions of that output, or give it "
            "labels of its own, IntermediateTarget(head=..., units=..., "
            f"per_position=True). Keras says: {error}"
        ) from error

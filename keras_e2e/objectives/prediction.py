"""Predict the model's own target from a module's activation."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_e2e.objectives import head_metrics, heads
from keras_e2e.objectives.base import Batch, Exit, LocalObjective, ModelSpec, Output
from keras_e2e.objectives.registry import register


@register("pred", "prediction")
@keras.saving.register_keras_serializable("keras_e2e")
class Prediction(LocalObjective):
    """Trains a module to predict the model's own target through an auxiliary head.

    The objective of greedy layer-wise and decoupled training (Belilovsky et al. 2019,
    2020) and of local-loss `pred` (Noekland & Eidnes 2019).

    Args:
        head: a kind of head (`"linear"`, `"gap_linear"`, `"mlp"`, `"conv_mlp"`,
            `"conv1"`), a Keras layer or model of your own, or a head made of the model's
            own layers, `keras_e2e.AugLocal()` or `keras_e2e.MomentumAuxiliary()` (see
            `heads.make_head`); None chooses by the activation's shape.
        output_name: name of the model output whose target is predicted; None for all of
            the outputs.
        loss: a Keras loss (name, function or object); None for the compiled one,
            with its loss weight.
        activation: what the head ends with (an activation's name or function). None
            lets it end the way the model ends, so that the compiled loss fits. Where
            the model does not show how it ends (a subclassed model), the compiled
            loss tells: softmax or sigmoid for a cross-entropy on probabilities,
            nothing otherwise.
        metrics: metrics of the head's predictions, for the logs of `fit` and `evaluate`
            under `<boundary>_<metric>`: a list as in `compile`, or a dict from output
            name to such a list. Default: none. In modes that do not train the head they
            tell how it does in inference mode; while a mode leaves out the module they
            are not in the logs.
        **kwargs: `weight` and `reach`, as in `LocalObjective`.

    Raises:
        ValueError: an unknown head or metric, `output_name` names no output of the model, or a
            layer of one's own as the head of several outputs.

    Example:

    >>> import keras_e2e as e2e
    >>> e2e.objectives.Prediction("mlp").get_config()["head"]
    'mlp'
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
        self.loss_spec = loss
        self.activation = keras.activations.get(activation) if activation else None
        self.own_loss = None if loss is None else _loss_object(loss)
        self.endings: tuple = ()
        self.networks: list = []

    def build_head(self, activation: keras.KerasTensor, model: ModelSpec) -> None:
        names = [output.name for output in model.outputs]
        if self.output_name is not None and self.output_name not in names:
            raise ValueError(
                f"Prediction(output_name={self.output_name!r}): the model has no such output. "
                f"Its outputs: {names}."
            )
        chosen = [o for o in model.outputs if self.output_name in (None, o.name)]
        if len(chosen) > 1 and isinstance(self.head, keras.layers.Layer):
            raise ValueError(
                f"Prediction(head={self.head.name!r}): one layer cannot be the head of the "
                f"outputs {names}. Name one with output_name=..., or use a kind of head."
            )
        endings = []
        for output in chosen:
            network = heads.make_head(
                self.head,
                activation,
                output.spec.shape,
                self.dtype_policy,
                model.following_blocks,
            )
            self.networks.append(network)
            endings.append(self.activation or output.ending)
        self.endings = tuple(endings)
        self.metrics_by_output = self.asked.make(
            [output.name for output in chosen], model.name, type(self).__name__
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
        """What the head makes of an activation, one tensor for each output."""
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
                total = total + loss(output.y, y_pred, output.sample_weight)
        return ops.convert_to_tensor(total)

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
                        f"{tuple(y_pred.shape)}. Ask for another. Keras says: {error}"
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


def serialize_loss(loss: Any) -> Any:
    """A loss as it goes into a config: None and names stay what they are."""
    if loss is None or isinstance(loss, str):
        return loss
    return keras.losses.serialize(loss)


def deserialize_loss(config: Any) -> Any:
    """The way back from `serialize_loss`."""
    return keras.losses.deserialize(config) if isinstance(config, dict) else config


def ending_for_loss(loss: Any) -> Callable:
    """The activation that a loss expects on top of raw values."""
    loss = keras.losses.get(loss) if isinstance(loss, str) else loss
    name = getattr(loss, "name", None) or getattr(loss, "__name__", "")
    if "crossentropy" not in str(name) or getattr(loss, "from_logits", False):
        return keras.activations.linear
    if getattr(loss, "get_config", None) and loss.get_config().get("from_logits"):
        return keras.activations.linear
    binary = "binary" in str(name)
    return keras.activations.sigmoid if binary else keras.activations.softmax


def _loss_object(loss: Any) -> keras.losses.Loss:
    """A Keras Loss from a name, a function or a Loss: it reduces and scales."""
    loss = keras.losses.get(loss)
    return loss if isinstance(loss, keras.losses.Loss) else FunctionLoss(loss)


class FunctionLoss(keras.losses.Loss):
    """Reduces a loss function's per-example values as Keras does."""

    def __init__(self, function: Callable):
        super().__init__(name=getattr(function, "__name__", None))
        self.function = function

    def call(self, y_true, y_pred):
        return self.function(y_true, y_pred)

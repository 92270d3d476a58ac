"""Predict the model's own target from a module's activation."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_e2e import _compat, heads
from keras_e2e.objectives.base import Batch, LocalObjective, ModelSpec, Output


@keras.saving.register_keras_serializable("keras_e2e")
class Prediction(LocalObjective):
    """Trains a module to predict the model's own target through an auxiliary head.

    The objective of greedy layer-wise and decoupled training (Belilovsky et al. 2019,
    2020) and of local-loss `pred` (Noekland & Eidnes 2019).

    Args:
        head: `"linear"`, `"gap_linear"`, `"mlp"` or `"conv"` (see
            `heads.make_head`); None chooses by the activation's shape.
        target: name of the model output whose target is predicted; None for all of
            the outputs.
        loss: a Keras loss (name, function or object); None for the compiled one,
            with its loss weight.
        activation: what the head ends with (an activation's name or function). None
            lets it end the way the model ends, so that the compiled loss fits. Where
            the model does not show how it ends (a subclassed model), the compiled
            loss tells: softmax or sigmoid for a cross-entropy on probabilities,
            nothing otherwise.

    Raises:
        ValueError: an unknown head, or `target` names no output of the model.

    Example:

    >>> import keras_e2e as e2e
    >>> e2e.objectives.Prediction("mlp").get_config()["head"]
    'mlp'
    """

    needs = "target"

    def __init__(
        self,
        head: str | None = None,
        *,
        target: str | None = None,
        loss: Any = None,
        activation: Any = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.head = heads.check_kind(head)
        self.target = target
        self.loss_spec = loss
        self.activation = keras.activations.get(activation) if activation else None
        self.own_loss = None if loss is None else _loss_object(loss)
        self.endings: tuple = ()
        self.networks: list = []

    def build_head(self, activation: keras.KerasTensor, model: ModelSpec) -> None:
        names = [output.name for output in model.outputs]
        if self.target is not None and self.target not in names:
            raise ValueError(
                f"Prediction(target={self.target!r}): the model has no such output. "
                f"Its outputs: {names}."
            )
        endings = []
        for output in model.outputs:
            if self.target in (None, output.name):
                network = heads.make_head(
                    self.head, activation, output.spec.shape, self.dtype_policy
                )
                self.networks.append(network)
                endings.append(self.activation or output.ending)
        self.endings = tuple(endings)

    def predict(self, activation: Any, outputs: tuple[Output, ...]) -> list:
        """What the head makes of an activation, one tensor for each output."""
        predictions = []
        for network, ending, output in zip(
            self.networks, self.endings, outputs, strict=True
        ):
            ending = ending or ending_for_loss(self.loss_spec or output.compiled_loss)
            raw = network(activation, training=True)
            prediction = ending(raw)
            _compat.set_mask(prediction, _compat.mask_of(raw))
            predictions.append(prediction)
        return predictions

    def compute_loss(self, activation: Any, batch: Batch) -> Any:
        outputs = tuple(o for o in batch.outputs if self.target in (None, o.name))
        total = 0.0
        for output, y_pred in zip(outputs, self.predict(activation, outputs), strict=True):
            loss = self.own_loss or output.loss
            if loss is not None and output.y is not None:
                total = total + loss(output.y, y_pred, output.sample_weight)
        return ops.convert_to_tensor(total)

    def get_config(self):
        config = super().get_config()
        config.update(
            head=self.head,
            target=self.target,
            loss=serialize_loss(self.loss_spec),
            activation=None
            if self.activation is None
            else keras.activations.serialize(self.activation),
        )
        return config

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "loss": deserialize_loss(config.get("loss"))})


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

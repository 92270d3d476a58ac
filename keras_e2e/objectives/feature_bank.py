"""Prediction from a module's activation together with what earlier modules returned."""

from typing import Any

import keras

from keras_e2e.objectives import heads
from keras_e2e.objectives.heads.feature_bank import bank_head
from keras_e2e.objectives.prediction import Prediction
from keras_e2e.objectives.registry import register
from keras_e2e.objectives.specs import Batch, Exit, ModelSpec, Output, OutputSpec
from keras_e2e.utils.validation import check_integer


@register("feature_bank")
@keras.saving.register_keras_serializable("keras_e2e")
class FeatureBank(Prediction):
    """Trains a module to predict the target from its own and all earlier features.

    For dense prediction (segmentation, say), after the feature bank of FBA (Zhu et al.
    2024, "Advancing Supervised Local Learning Beyond Classification with Long-term Feature
    Bank"): a module of coarse features is not to be judged by them alone, as later ones
    will see finer ones too. The head sees the activation and, with their gradients
    stopped, what all modules upstream returned: each is projected to as many channels and
    resized to the target's positions, and the sum goes into a head. The paper builds its
    heads of the task's own network; here they are those of `Prediction`.

    The head needs a pass of all modules upstream, so it is no early exit, and has no
    metrics. A module upstream that one pass crosses several times is left out of the bank.

    Args:
        channels: Integer, how many channels each feature is projected to. Defaults to 32,
            a choice of this package.
        head: String, the kind of head that the sum goes into, as in `heads.make_head`.
            Defaults to `None`: `"conv1"` for a map, and `"mlp"` elsewhere.
        output_name, loss, activation: As in `Prediction`.
        **kwargs: `weight` and `reach`, as in `LocalObjective`.

    Raises:
        ValueError: If `channels` is not a positive integer, if `metrics` are given, and as
            `Prediction` does. When the model is made: if the target is a map and the size
            of it or of a feature is not known.
        TypeError: If `head` is not a string.

    Example:

    >>> import keras, keras_e2e as e2e
    >>> conv = lambda name, **more: keras.layers.Conv2D(
    ...     4, 3, padding="same", activation="relu", name=name, **more)
    >>> base = keras.Sequential([
    ...     keras.Input((8, 8, 1)), conv("fine"), conv("coarse", strides=2),
    ...     keras.layers.UpSampling2D(), keras.layers.Dense(3, activation="softmax")])
    >>> model = e2e.modularize(base, ["fine", "coarse"], objective="feature_bank")
    >>> model.modules[1].objective.bank
    ('fine',)
    """

    requires_earlier = True

    def __init__(
        self,
        channels: int = 32,
        *,
        head: str | None = None,
        output_name: str | None = None,
        loss: Any = None,
        activation: Any = None,
        **kwargs: Any,
    ):
        channels = check_integer("FeatureBank: channels", channels, 1)
        if head is not None and not isinstance(head, str):
            raise TypeError(
                f"FeatureBank(head={head!r}): expected a kind of head, one of "
                f"{list(heads.KINDS)}, or None."
            )
        if kwargs.pop("metrics", None) is not None:
            raise ValueError(
                "FeatureBank(metrics=...): its head sees what all modules upstream "
                "returned, which metrics are not given. Leave `metrics` out, or use "
                "Prediction."
            )
        super().__init__(
            head, output_name=output_name, loss=loss, activation=activation, **kwargs
        )
        self.channels = channels
        self.bank: tuple[str, ...] = ()

    def build_head(self, activation: keras.KerasTensor, model: ModelSpec) -> None:
        self.bank = tuple(model.earlier)
        super().build_head(activation, model)

    def make_network(
        self, activation: keras.KerasTensor, output: OutputSpec, model: ModelSpec
    ) -> keras.layers.Layer:
        return bank_head(
            self.head,
            [activation, *model.earlier.values()],
            output.spec.shape,
            self.channels,
            self.dtype_policy,
        )

    def exits(self, outputs: tuple[Output, ...]) -> tuple[Exit, ...]:
        return ()

    def predict(
        self, activation: Any, outputs: tuple[Output, ...], training: bool = True
    ) -> list:
        """Returns the head's predictions, a tensor for each output that is predicted.

        Args:
            activation: List of the boundary's activation and those of `bank`.
            outputs: As in `Prediction.predict`.
            training: As in `Prediction.predict`. Defaults to `True`.
        """
        ways = super().exits(outputs)
        return [way.predict(activation, training) for way in ways]

    def compute_loss(self, activation: Any, batch: Batch) -> Any:
        features = [activation, *(batch.earlier[name] for name in self.bank)]
        return super().compute_loss(features, batch)

    def get_config(self):
        config = super().get_config()
        return {**config, "channels": self.channels}

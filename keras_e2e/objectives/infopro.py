"""InfoPro: keep what predicts the input early, and what predicts the class late."""

from typing import Any

import keras

from keras_e2e.objectives import heads
from keras_e2e.objectives.mixture import Mixture
from keras_e2e.objectives.prediction import Prediction
from keras_e2e.objectives.reconstruction import Reconstruction
from keras_e2e.objectives.registry import register
from keras_e2e.objectives.similarity import SupervisedContrastive
from keras_e2e.objectives.specs import ModelSpec
from keras_e2e.utils.validation import check_number

# The factors that the authors' commands give for ResNet-32 on CIFAR-10, by the number of
# modules: (first, last) of the reconstruction, (first, last) of the label part.
INFOPRO_FACTORS = {
    2: ((5.0, 0.0), (1.0, 0.0)),
    4: ((6.0, 1.0), (0.0, 2.0)),
    8: ((5.0, 0.0), (0.0, 2.0)),
    16: ((5.0, 0.2), (0.05, 0.5)),
}


@register("infopro")
@keras.saving.register_keras_serializable("keras_e2e")
class InfoPro(Mixture):
    """Keeps what predicts the input early, and what predicts the class late.

    Wang et al. 2021, "Revisiting Locally Supervised Learning: an Alternative to
    End-to-end Training": `l1 * BCE(decoder(h), input) + l2 * (SupCon or CE)`. The factors
    `l1` and `l2` change linearly from the first boundary to the last. The input is the
    model's, before it was normalized, between 0 and 1.

    Args:
        label_loss: The label part: `"contrast"` (`SupervisedContrastive`, the paper's
            better one) or `"cross_entropy"` (`Prediction`). Defaults to `"contrast"`.
        reconstruction: `l1` as two numbers `(first, last)`, 0 or larger: at the first
            boundary and at the last. Defaults to `None`: what the authors' commands give
            for ResNet-32 on CIFAR-10 with the nearest number of modules.
        label: `l2` as two numbers `(first, last)`, like `reconstruction`. Defaults to
            `None`: likewise.
        head: The head of the label part: a string or a Keras layer, as in
            `heads.make_head`. Defaults to `None`: `"conv1"` on maps and `"mlp"` elsewhere;
            the authors' has one hidden Dense layer more than `"conv1"`.
        mean: Number, or one for each channel. How the model's input was normalized: the
            decoder predicts `x * std + mean`. Defaults to 0.0.
        std: Number, or one for each channel; see `mean`. Defaults to 1.0.
        output_name: String, name of the model output whose targets are the labels.
            Defaults to `None`: the only output.
        **kwargs: `weight` and `reach`, as in `LocalObjective`.

    Raises:
        ValueError: If `label_loss` is unknown, or if `reconstruction` or `label` is not a
            pair of finite numbers of at least 0; and as the parts do. When the model is
            made: if both factors are 0 at a module.

    Example:

    >>> import keras_e2e as e2e
    >>> objective = e2e.objectives.InfoPro(label_loss="cross_entropy", label=(1.0, 1.0))
    >>> objective.requires_targets
    True
    """

    def __init__(
        self,
        label_loss: str = "contrast",
        *,
        reconstruction: tuple[float, float] | None = None,
        label: tuple[float, float] | None = None,
        head: Any = None,
        mean: Any = 0.0,
        std: Any = 1.0,
        output_name: str | None = None,
        **kwargs: Any,
    ):
        kinds: dict[str, Any] = {
            "contrast": SupervisedContrastive,
            "cross_entropy": Prediction,
        }
        if label_loss not in kinds:
            raise ValueError(
                f"InfoPro(label_loss={label_loss!r}): expected one of {list(kinds)}."
            )
        decoder = Reconstruction(
            "model_input", head="decoder", loss="binary_crossentropy", mean=mean, std=std
        )
        self.settings = {
            "label_loss": label_loss,
            "reconstruction": _pair("reconstruction", reconstruction),
            "label": _pair("label", label),
            "mean": decoder.mean,
            "std": decoder.std,
            "output_name": output_name,
        }
        # Both until the module's position is known.
        super().__init__(
            {decoder: 1.0, kinds[label_loss](head, output_name=output_name): 1.0}, **kwargs
        )
        self.head = heads.validate_head(head)

    def build_head(self, activation: keras.KerasTensor, model: ModelSpec) -> None:
        self.factors = self.ramp(model.index, model.num_modules)
        if not sum(self.factors):
            raise ValueError(
                f"InfoPro: at module {model.index + 1} of {model.num_modules} both factors "
                "are 0. Give `reconstruction` and `label` as (first, last)."
            )
        labeled: Any = self.parts[1]
        if self.head is None:
            labeled.head = "conv1" if len(activation.shape) in (3, 4, 5) else "mlp"
        super().build_head(activation, model)

    def ramp(self, index: int, count: int) -> tuple[float, float]:
        """Returns the factors of both parts at the `index`-th of `count` modules."""
        # Two modules are a case of their own: the only boundary is the first and last.
        known = [n for n in INFOPRO_FACTORS if (n == 2) == (count <= 2)]
        nearest = min(known, key=lambda n: (abs(n - count), n))
        given = (self.settings["reconstruction"], self.settings["label"])
        share = index / (count - 2) if count > 2 else 0.0
        ends = [
            default if own is None else own
            for own, default in zip(given, INFOPRO_FACTORS[nearest], strict=True)
        ]
        first, second = (float(a) * (1 - share) + float(b) * share for a, b in ends)
        return first, second

    def get_config(self):
        config = {k: v for k, v in super().get_config().items() if k != "objectives"}
        return {**config, **self.settings, "head": heads.serialize(self.head)}

    @classmethod
    def from_config(cls, config):
        config = {**config, "head": heads.deserialize(config.get("head"))}
        return super(Mixture, cls).from_config(config)


def _pair(name: str, pair: Any) -> tuple[float, float] | None:
    """Returns `(first, last)`, or None.

    Raises:
        ValueError: If it is neither None nor two finite numbers of at least 0.
    """
    if pair is None:
        return None
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise ValueError(
            f"InfoPro: {name}={pair!r}: expected two numbers (first, last), or None."
        )
    first, last = (
        check_number(f"InfoPro: {name}[{i}]", each, least=0) for i, each in enumerate(pair)
    )
    return first, last

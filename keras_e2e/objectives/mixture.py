"""Objectives made of others: mixtures, PredSim and InfoPro."""

from collections.abc import Mapping
from numbers import Real
from typing import Any

import keras

from keras_e2e.objectives import head_metrics, heads
from keras_e2e.objectives.base import Batch, Exit, LocalObjective, ModelSpec, Output
from keras_e2e.objectives.prediction import Prediction
from keras_e2e.objectives.reconstruction import Reconstruction
from keras_e2e.objectives.registry import get, register
from keras_e2e.objectives.similarity import SimilarityMatching, SupervisedContrastive


@register(mapping=True)
@keras.saving.register_keras_serializable("keras_e2e")
class Mixture(LocalObjective):
    """A weighted sum of objectives on one activation.

    Args:
        objectives: dict from objective (or alias) to its factor. A factor of 0 leaves the
            objective out: it gets no head.
        **kwargs: `weight` and `reach` of the whole, as in `LocalObjective`.

    Raises:
        ValueError: no objective, a negative or non-finite factor, factors that are all 0;
            an objective that sends a signal in place of a loss; a part with a weight
            or reach of its own that the mixture would override.

    Example:

    >>> import keras_e2e as e2e
    >>> mixture = e2e.objectives.Mixture({"reconstruction": 1.0, "pred": 0.5})
    >>> [type(part).__name__ for part in mixture.parts], mixture.factors
    (['Reconstruction', 'Prediction'], (1.0, 0.5))
    """

    def __init__(self, objectives: Mapping[Any, float], **kwargs: Any):
        super().__init__(**kwargs)
        if not isinstance(objectives, Mapping) or not objectives:
            raise ValueError(
                f"{type(self).__name__}: expected a dict from objective to factor, such as "
                f"{{'sim': 0.99, 'pred': 0.01}}. Found: {objectives!r}."
            )
        for part, factor in objectives.items():
            if not isinstance(factor, Real) or not 0 <= factor < float("inf"):
                raise ValueError(
                    f"Mixture: the factor of {_shown(part)} is {factor!r}; expected a "
                    "finite number, 0 or larger."
                )
        if not sum(objectives.values()):
            raise ValueError(
                f"Mixture of {[_shown(part) for part in objectives]}: the factors sum to "
                "0, so nothing would be trained. Give one of them a factor above 0."
            )
        self.parts: list[Any] = [get(part) for part in objectives]
        self.factors = tuple(float(factor) for factor in objectives.values())
        for part in self.parts:
            if part is None or part.feedback_source:
                raise ValueError(
                    f"Mixture: {_shown(part)} has no loss to be mixed: it sends a signal "
                    "in place of one. Use it alone at its boundary."
                )
            if part.weight != 1.0 or part.reach is not None:
                raise ValueError(
                    f"Mixture: {_shown(part)} has a weight or reach of its own. Say its "
                    "factor in the mixture, and the reach for the whole."
                )

    @property
    def counting(self) -> list[tuple[LocalObjective, float]]:
        """The parts whose factor is not 0, with their factors."""
        return [pair for pair in zip(self.parts, self.factors, strict=True) if pair[1]]

    @property
    def requires_labels(self):  # type: ignore[override]
        return any(part.requires_labels for part, _ in self.counting)

    @property
    def requires_targets(self):  # type: ignore[override]
        return any(part.requires_targets for part, _ in self.counting)

    def extra_inputs(self):
        return {k: v for part, _ in self.counting for k, v in part.extra_inputs().items()}

    def build_head(self, activation: keras.KerasTensor, model: ModelSpec) -> None:
        for part, _ in self.counting:
            part.build_for(activation, model)
        names = [metric.name for metric in self.head_metrics()]
        twins = sorted({name for name in names if names.count(name) > 1})
        if twins:
            raise ValueError(
                f"{type(self).__name__}: two of its parts have a metric {twins[0]!r}, and "
                "the logs would show one of them. Ask one part only, or give "
                "keras.metrics objects names of their own."
            )

    def compute_loss(self, activation: Any, batch: Batch) -> Any:
        losses = []
        for part, factor in self.counting:
            # A part that asks for one view, or none, must not see another's.
            own = batch._replace(
                extra_activations={
                    key: batch.extra_activations[key] for key in part.extra_inputs()
                }
            )
            losses.append(factor * part.compute_loss(activation, own))
        return sum(losses[1:], losses[0])

    def exits(self, outputs: tuple[Output, ...]) -> tuple[Exit, ...]:
        return tuple(way for part, _ in self.counting for way in part.exits(outputs))

    def head_metrics(self) -> list[keras.metrics.Metric]:
        return [metric for part, _ in self.counting for metric in part.head_metrics()]

    def measure(self, activation: Any, batch: Batch) -> None:
        for part, _ in self.counting:
            part.measure(activation, batch)

    def get_config(self):
        config = super().get_config()
        config["objectives"] = [
            [keras.saving.serialize_keras_object(part), factor]
            for part, factor in zip(self.parts, self.factors, strict=True)
        ]
        return config

    @classmethod
    def from_config(cls, config):
        objectives = {
            keras.saving.deserialize_keras_object(part): factor
            for part, factor in config["objectives"]
        }
        return super().from_config({**config, "objectives": objectives})


@register("predsim")
@keras.saving.register_keras_serializable("keras_e2e")
class PredSim(Mixture):
    """Local-loss `predsim`: `beta` similarity matching plus `1 - beta` prediction.

    Noekland & Eidnes 2019, "Training Neural Networks with Local Error Signals". See
    `SimilarityMatching` and `Prediction`.

    Args:
        beta: the share of the similarity loss. Default: 0.99, as in the paper.
        head: the head of the prediction, as in `heads.make_head`. Default: `"linear"`.
        output_name: name of the output whose target counts; None for the only one.
        num_classes: number of classes; None reads it off that output.
        metrics: metrics of the prediction, as in `Prediction`.
        **kwargs: `weight` and `reach`, as in `LocalObjective`.

    Raises:
        ValueError: `beta` is not between 0 and 1; and as the parts do.

    Example:

    >>> import keras_e2e as e2e
    >>> e2e.objectives.PredSim().factors
    (0.99, 0.01)
    """

    def __init__(
        self,
        beta: float = 0.99,
        *,
        head: Any = "linear",
        output_name: str | None = None,
        num_classes: int | None = None,
        metrics: Any = None,
        **kwargs: Any,
    ):
        if not 0 <= beta <= 1:
            raise ValueError(f"PredSim(beta={beta!r}): expected a number from 0 to 1.")
        self.settings = {
            "beta": beta,
            "output_name": output_name,
            "num_classes": num_classes,
        }
        prediction = Prediction(head, output_name=output_name, metrics=metrics)
        similarity = SimilarityMatching(output_name=output_name, num_classes=num_classes)
        super().__init__({similarity: beta, prediction: round(1 - beta, 12)}, **kwargs)
        self.head = heads.validate_head(head)
        self.asked = prediction.asked

    def get_config(self):
        config = {k: v for k, v in super().get_config().items() if k != "objectives"}
        if self.asked.given:
            config["metrics"] = self.asked.get_config()
        return {**config, **self.settings, "head": heads.serialize(self.head)}

    @classmethod
    def from_config(cls, config):
        config = {**config, "head": heads.deserialize(config.get("head"))}
        if "metrics" in config:
            config["metrics"] = head_metrics.from_config(config["metrics"])
        return super(Mixture, cls).from_config(config)


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
    """Keeps what tells about the input early, and what tells the class late.

    Wang et al. 2021, "Revisiting Locally Supervised Learning: an Alternative to
    End-to-end Training": `l1 * BCE(decoder(h), input) + l2 * (SupCon or CE)`. The factors
    ramp linearly from the first boundary to the last. The input is the model's, before
    it was normalised, between 0 and 1.

    Args:
        label_loss: `"contrast"` (`SupervisedContrastive`, the paper's better one) or
            `"cross_entropy"` (`Prediction`).
        reconstruction: `(first, last)` of `l1`; None for what the authors' commands say
            for ResNet-32 on CIFAR-10 with the nearest number of modules.
        label: `(first, last)` of `l2`; None as above.
        head: of the label part, as in `heads.make_head`. Default: `"conv1"` on maps and
            `"mlp"` elsewhere; the authors' has one hidden Dense more than `"conv1"`.
        mean, std: how the model's input was normalised: `x * std + mean` is what the
            decoder must tell. Numbers, or one for each channel. Default: 0 and 1.
        output_name: name of the output whose labels count; None for the only one.
        **kwargs: `weight` and `reach`, as in `LocalObjective`.

    Raises:
        ValueError: an unknown `label_loss`; factors that leave a module without a loss;
            and as the parts do.

    Example:

    >>> import keras_e2e as e2e
    >>> e2e.objectives.InfoPro(label_loss="cross_entropy", label=(1.0, 1.0)).requires_targets
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
            "reconstruction": reconstruction,
            "label": label,
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
                f"InfoPro: at module {model.index + 1} of {model.num_modules} both factors are "
                "0. Give `reconstruction` and `label` as (first, last)."
            )
        labelled: Any = self.parts[1]
        if self.head is None:
            labelled.head = "conv1" if len(activation.shape) in (3, 4, 5) else "mlp"
        super().build_head(activation, model)

    def ramp(self, place: int, count: int) -> tuple[float, float]:
        """The factors of both parts at a module; `count` includes the last module."""
        # Two modules are a case of their own: the only boundary is the first and last.
        known = [n for n in INFOPRO_FACTORS if (n == 2) == (count <= 2)]
        nearest = min(known, key=lambda n: (abs(n - count), n))
        given = (self.settings["reconstruction"], self.settings["label"])
        share = place / (count - 2) if count > 2 else 0.0
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


def _shown(part: Any) -> str:
    return repr(part) if isinstance(part, str) else type(part).__name__

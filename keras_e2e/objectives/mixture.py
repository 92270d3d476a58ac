"""A weighted sum of objectives on one activation."""

from collections.abc import Mapping
from typing import Any

import keras

from keras_e2e.objectives.base import LocalObjective
from keras_e2e.objectives.registry import get, register
from keras_e2e.objectives.specs import Batch, Exit, ModelSpec, Output
from keras_e2e.utils.validation import check_number


@register(mapping=True)
@keras.saving.register_keras_serializable("keras_e2e")
class Mixture(LocalObjective):
    """A weighted sum of objectives on one activation.

    Wherever an objective is expected, a dict stands for a mixture:
    `ModuleBoundary({"sim": 0.99, "pred": 0.01})`.

    Args:
        objectives: Dict from objective, or alias, to its factor: a number, 0 or larger. A
            factor of 0 leaves the objective out: it gets no head.
        **kwargs: `weight`, `reach` and `tensors` of the whole, as in `LocalObjective`.

    Raises:
        ValueError: If `objectives` is empty or not a dict, if a factor is not a finite
            number of at least 0, if all are 0, if a part is a `Signal`, which has no loss,
            or if a part has a weight, reach or tensors of its own.

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
        self.factors = tuple(
            check_number(f"Mixture: the factor of {_shown(part)}", factor, least=0)
            for part, factor in objectives.items()
        )
        if not sum(self.factors):
            raise ValueError(
                f"Mixture of {[_shown(part) for part in objectives]}: the factors sum to "
                "0, so nothing would be trained. Give one of them a factor above 0."
            )
        self.parts: list[Any] = [_part(identifier) for identifier in objectives]

    @property
    def counting(self) -> list[tuple[LocalObjective, float]]:
        """Returns the parts whose factor is not 0, with their factors."""
        return [pair for pair in zip(self.parts, self.factors, strict=True) if pair[1]]

    @property
    def requires_labels(self):  # type: ignore[override]
        return any(part.requires_labels for part, _ in self.counting)

    @property
    def requires_targets(self):  # type: ignore[override]
        return any(part.requires_targets for part, _ in self.counting)

    @property
    def requires_earlier(self):  # type: ignore[override]
        return any(part.requires_earlier for part, _ in self.counting)

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
                "the logs would show one of them. Give the metric to one part only, or "
                "give keras.metrics objects names of their own."
            )

    def compute_loss(self, activation: Any, batch: Batch) -> Any:
        losses = []
        for part, factor in self.counting:
            # A part gets the activations that it asked for, not those of others.
            own = batch._replace(
                extra_activations={
                    key: batch.extra_activations[key] for key in part.extra_inputs()
                }
            )
            losses.append(factor * part.compute_loss(activation, own))
        return sum(losses[1:], losses[0])

    def exits(self, outputs: tuple[Output, ...]) -> tuple[Exit, ...]:
        return tuple(way for part, _ in self.counting for way in part.exits(outputs))

    def idle_networks(self, outputs: tuple[Output, ...]) -> list[keras.layers.Layer]:
        return [one for part, _ in self.counting for one in part.idle_networks(outputs)]

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


def _part(identifier: Any) -> LocalObjective:
    """Returns the part that an identifier stands for.

    Raises:
        ValueError: If it cannot be a part.
    """
    part = get(identifier)
    if part is None:
        raise ValueError("Mixture: None is not an objective. Leave it out of the dict.")
    if part.feedback_source:
        raise ValueError(
            f"Mixture: {_shown(part)} has no loss to be mixed: it sends a signal in place "
            "of one. Use it alone at its boundary."
        )
    if part.weight != 1.0 or part.reach is not None or part.tensors is not None:
        raise ValueError(
            f"Mixture: {_shown(part)} has a weight, reach or tensors of its own. Give its "
            "factor in the mixture, and the reach and the tensors to the whole."
        )
    return part


def _shown(part: Any) -> str:
    return repr(part) if isinstance(part, str) else type(part).__name__

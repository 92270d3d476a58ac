"""Local-loss `predsim`: similarity matching and prediction at once."""

from typing import Any

import keras

from keras_e2e.objectives import head_metrics, heads
from keras_e2e.objectives.mixture import Mixture
from keras_e2e.objectives.prediction import Prediction
from keras_e2e.objectives.registry import register
from keras_e2e.objectives.similarity import SimilarityMatching
from keras_e2e.utils.validation import check_number


@register("predsim")
@keras.saving.register_keras_serializable("keras_e2e")
class PredSim(Mixture):
    """Local-loss `predsim`: `beta` similarity matching plus `1 - beta` prediction.

    Noekland & Eidnes 2019, "Training Neural Networks with Local Error Signals". See
    `SimilarityMatching` and `Prediction`.

    Args:
        beta: Number from 0 to 1, the share of the similarity loss. Defaults to 0.99, as in
            the paper.
        head: The head of the prediction: a string or a Keras layer, as in
            `heads.make_head`. Defaults to `"linear"`.
        output_name: String, name of the model output whose targets are the labels.
            Defaults to `None`: the only output.
        num_classes: Integer, the number of classes. Defaults to `None`: the size of that
            output.
        metrics: Metrics of the prediction, as in `Prediction`. Defaults to `None`: no
            metrics.
        **kwargs: `weight` and `reach`, as in `LocalObjective`.

    Raises:
        ValueError: If `beta` is not a number from 0 to 1; and as `SimilarityMatching` and
            `Prediction` do.

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
        beta = check_number("PredSim: beta", beta, least=0, most=1)
        prediction = Prediction(head, output_name=output_name, metrics=metrics)
        similarity = SimilarityMatching(output_name=output_name, num_classes=num_classes)
        self.settings = {
            "beta": beta,
            "output_name": output_name,
            "num_classes": similarity.num_classes,
        }
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

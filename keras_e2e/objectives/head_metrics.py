"""Metrics of a module's own head, named and resolved as Keras does in `compile`."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import tree

from keras_e2e.utils.validation import check_function


class HeadMetrics:
    """The `metrics` argument of an objective with a head, checked.

    It is a plain object, so that Keras does not track metrics that were given as objects:
    they are patterns, of which each output gets a copy.

    Args:
        given: A list of metrics (names, functions or `keras.metrics.Metric`s) for each
            output that is predicted, a dict from output name to such a list, or None for
            no metrics.
        who: String, name of the objective, for errors.

    Raises:
        ValueError: If `given` is anything else, or if it holds a lambda or a metric that
            Keras does not know.

    Example:

    >>> from keras_e2e.objectives.head_metrics import HeadMetrics
    >>> (metrics,) = HeadMetrics(["accuracy"], "Prediction").make(["out"], "block2", "")
    >>> [metric.name for metric in metrics]
    ['block2_accuracy']
    """

    def __init__(self, given: Any, who: str):
        if isinstance(given, str) or not isinstance(given, Mapping | Sequence | None):
            raise ValueError(
                f"{who}(metrics={given!r}): expected a list such as ['accuracy'], a dict "
                "from output name to such a list, or None."
            )
        self.given = given
        for identifier in tree.flatten(given or ()):
            check_function(f"{who}: a metric", identifier)
            try:
                make_metric(identifier)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{who}(metrics={given!r}): {error}") from error

    def make(self, outputs: Sequence[str], boundary: str, who: str) -> list:
        """Returns metrics for each output, named `<boundary>_<metric>`.

        If there are several outputs, they are named `<boundary>_<output>_<metric>`.

        Args:
            outputs: Names of the outputs that are predicted.
            boundary: String, name of the module.
            who: String, name of the objective, for errors.

        Returns:
            A list of `keras.metrics.Metric` for each output.

        Raises:
            ValueError: If a name in the dict is not the name of an output.
        """
        if not self.given:
            return [[] for _ in outputs]
        by_name = self.given
        if not isinstance(by_name, Mapping):
            by_name = dict.fromkeys(outputs, self.given)
        unknown = [name for name in by_name if name not in outputs]
        if unknown:
            raise ValueError(
                f"{who}(metrics=...): {unknown[0]!r} is not the name of an output that "
                f"is predicted here. Those are {list(outputs)}. Use their names."
            )
        return [
            [
                make_metric(identifier, _prefix(boundary, name, outputs))
                for identifier in tree.flatten(by_name.get(name, ()))
            ]
            for name in outputs
        ]

    def get_config(self) -> Any:
        """Returns the metrics as they go into a config, or None for no metrics."""
        return tree.map_structure(_serialized, self.given) if self.given else None


def from_config(config: Any) -> Any:
    """Returns what `HeadMetrics` takes, from its config."""
    if isinstance(config, Mapping) and "class_name" in config:
        return keras.metrics.deserialize(config)
    if isinstance(config, Mapping):
        return {name: from_config(inner) for name, inner in config.items()}
    if isinstance(config, list | tuple):
        return [from_config(inner) for inner in config]
    return config


def make_metric(identifier: Any, prefix: str = "") -> keras.metrics.Metric:
    """Returns a new metric, as Keras makes it of what is given to `compile`.

    Args:
        identifier: Name of a Keras metric, a function `metric(y_true, y_pred)`, or a
            `keras.metrics.Metric`, which is copied.
        prefix: String put before the name that Keras would give it. Defaults to `""`.

    Example:

    >>> from keras_e2e.objectives.head_metrics import make_metric
    >>> make_metric("accuracy", "block2_").name
    'block2_accuracy'
    """
    if str(identifier).lower() in ("accuracy", "acc"):
        metric = keras.metrics.MeanMetricWrapper(_accuracy)
        metric.name = prefix + str(identifier)
        return metric
    found = keras.metrics.get(identifier)
    if isinstance(found, keras.metrics.Metric):
        metric = found
        if found is identifier:
            metric = type(found).from_config(found.get_config())
    else:
        metric = keras.metrics.MeanMetricWrapper(found)
    metric.name = prefix + (identifier if isinstance(identifier, str) else _name(found))
    return metric


def by_output(given: Any, keys: Sequence[str], aliases: Sequence[str] = ()) -> list[list]:
    """Returns the metrics that were given to `compile`, a list for each output.

    Args:
        given: Metrics, as in `compile`.
        keys: Keys of the model's outputs.
        aliases: The output names, if they differ from the keys. Defaults to `()`.
    """
    if not given:
        return [[] for _ in keys]
    if len(keys) == 1:
        return [_listed(given)]
    if isinstance(given, Mapping):
        names = aliases if len(aliases) == len(keys) else keys
        return [
            _listed(given.get(key, given.get(name)))
            for key, name in zip(keys, names, strict=True)
        ]
    return [_listed(own) for own in given]


def _listed(given: Any) -> list:
    return [one for one in tree.flatten(given) if one is not None]


def _prefix(boundary: str, output: str, outputs: Sequence[str]) -> str:
    return f"{boundary}_{output}_" if len(outputs) > 1 else f"{boundary}_"


def _accuracy(y_true: Any, y_pred: Any) -> Any:
    """Returns the accuracy that Keras chooses by the shapes of targets and predictions."""
    classes = y_pred.shape[-1]
    if classes == 1:
        return keras.metrics.binary_accuracy(y_true, y_pred)
    if len(y_true.shape) < len(y_pred.shape) or y_true.shape[-1] == 1:
        return keras.metrics.sparse_categorical_accuracy(y_true, y_pred)
    return keras.metrics.categorical_accuracy(y_true, y_pred)


def _name(found: Any) -> str:
    name = getattr(found, "name", None) or getattr(found, "__name__", None)
    name = name or type(found).__name__
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _serialized(identifier: Any) -> Any:
    if isinstance(identifier, str):
        return identifier
    return keras.metrics.serialize(identifier)

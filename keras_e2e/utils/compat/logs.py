"""Private names of Keras about losses one by one, and what `fit` logs of an epoch.

The rest of them stand in `compat`.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import keras
from keras.src.losses.loss import unscale_loss_for_distribution

if TYPE_CHECKING:
    from keras import Model
else:
    Model = object

# A loss is divided by the number of replicas; its average over them is not.
unscaled = unscale_loss_for_distribution


class EpochLogs(Model):
    """A model that may add to the logs of an epoch what its steps do not return.

    Stands for `Trainer._get_metrics_result_or_logs`, which drops what the logs of the last
    step do not hold.
    """

    def _get_metrics_result_or_logs(self, logs):
        return self._epoch_logs(super()._get_metrics_result_or_logs(logs))

    def _epoch_logs(self, logs: dict[str, Any]) -> dict[str, Any]:
        """The logs of an epoch, or of an evaluation."""
        raise NotImplementedError


def compiled_dicts(model: keras.Model) -> dict[str, Mapping]:
    """The arguments of `compile` that are dicts by name, as they were given.

    `get_compile_config` is public, and serializes them.
    """
    loss, metrics = model._compile_loss, model._compile_metrics
    given = {
        "loss": getattr(loss, "_user_loss", None),
        "loss_weights": getattr(loss, "_user_loss_weights", None),
        "metrics": getattr(metrics, "_user_metrics", None),
        "weighted_metrics": getattr(metrics, "_user_weighted_metrics", None),
    }
    return {key: value for key, value in given.items() if isinstance(value, Mapping)}


@contextlib.contextmanager
def noted_loss(model: keras.Model, y: Any, y_pred: Any) -> Iterator[list]:
    """Notes the compiled loss that is computed in here, where it is that of one output.

    Stands for `CompileLoss._flat_losses`: Keras logs the losses of several outputs, before
    `loss_weights` and penalties, and keeps that of one to itself.

    Args:
        model: The model, compiled.
        y: The targets, as in `fit`.
        y_pred: The model's outputs.

    Yields:
        A list that holds the loss, a scalar, once it is computed.
    """
    compiled, noted = model._compile_loss, list[Any]()
    if not compiled.built:
        with keras.StatelessScope():
            compiled(y, y_pred)
    flat = compiled._flat_losses
    if len(flat) != 1:
        yield noted
        return
    compiled._flat_losses = [flat[0]._replace(loss=_noting(flat[0].loss, noted))]
    try:
        yield noted
    finally:
        compiled._flat_losses = flat


def _noting(loss: Callable, noted: list) -> Callable:
    def compute(*args):
        noted.append(loss(*args))
        return noted[-1]

    return compute

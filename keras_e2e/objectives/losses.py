"""Losses inside objectives: how they are found, averaged and saved."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops, tree

from keras_e2e.objectives.specs import Batch
from keras_e2e.utils.shapes import known_shape
from keras_e2e.utils.validation import check_function


class FunctionLoss(keras.losses.Loss):
    """Averages the per-example values of a function as Keras averages a compiled loss.

    Sample weights and masks, and under a distribution strategy the division by the number
    of replicas, are then Keras's own.

    Args:
        function: Function `function(y_true, y_pred)` that returns a value for each
            example.
    """

    def __init__(self, function: Callable):
        # Not the function's name: it may not be one for a scope of TensorFlow.
        super().__init__(name="function_loss")
        self.function = function

    def call(self, y_true, y_pred):
        return self.function(y_true, y_pred)


def mean_over_batch(values: Any, sample_weight: Any) -> Any:
    """Returns the mean of per-example values, scaled as Keras scales a compiled loss."""
    return FunctionLoss(_given)(values, values, sample_weight)


def _given(y_true: Any, y_pred: Any) -> Any:
    return y_pred


def check_values(values: Any, activation: Any, batch: Batch, who: str) -> Any:
    """Returns what a loss returned, in Keras's float type, if it is values of examples.

    Args:
        values: What it returned.
        activation: The activation that it was given.
        batch: The `Batch` that it was given.
        who: Name of the objective, for the error.

    Raises:
        ValueError: If it returned `None`, a scalar, or another number of values than there
            are examples, as far as sizes are known.
    """
    if values is None:
        raise ValueError(
            f"{who}.loss returned None; expected per-example values of shape (batch, ...). "
            "Return them."
        )
    values = ops.cast(values, keras.config.floatx())
    if len(values.shape) == 0:
        raise ValueError(
            f"{who}.loss returned a scalar; expected per-example values of shape (batch, "
            "...), which the model averages with weights. Do not average over the batch, "
            "or override compute_loss in place of loss."
        )
    given = (activation, batch.x, batch.labels, [output.y for output in batch.outputs])
    shapes = [known_shape(tensor) for tensor in tree.flatten(given)]
    sizes = {shape[0] for shape in shapes if shape}
    if values.shape[0] is not None and values.shape[0] not in sizes:
        raise ValueError(
            f"{who}.loss returned values of shape {tuple(values.shape)}; expected (batch, "
            "...), a value for each example. Average over other axes than the first."
        )
    return values


def check_loss(loss: Any, who: str) -> Any:
    """Returns a loss as it was given, if Keras knows it and it can be saved.

    Args:
        loss: Name of a Keras loss, a function or a `keras.losses.Loss`.
        who: Name of the objective, for the error.

    Raises:
        ValueError: If Keras does not know the loss, or if it is a lambda.
    """
    check_function(f"{who}: loss", loss)
    try:
        found = keras.losses.get(loss)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{who}: loss={loss!r} is not a loss. Expected the name of a Keras loss, such "
            "as 'mse', a function loss(y_true, y_pred), or a keras.losses.Loss."
        ) from error
    if not callable(found):
        raise ValueError(
            f"{who}: loss={loss!r} is not a loss. Expected the name of a Keras loss, such "
            "as 'mse', a function loss(y_true, y_pred), or a keras.losses.Loss."
        )
    return loss


def check_activation(activation: Any, who: str) -> Callable | None:
    """Returns the activation function that was given, or None for None.

    Args:
        activation: Name of a Keras activation, a function, or None.
        who: Name of the objective, for the error.

    Raises:
        ValueError: If Keras does not know the activation, or if it is a lambda.
    """
    if activation is None:
        return None
    check_function(f"{who}: activation", activation)
    try:
        return keras.activations.get(activation)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{who}: activation={activation!r} is not an activation. Expected the name of "
            "a Keras activation, such as 'softmax', or a function of a tensor."
        ) from error


def loss_object(loss: Any) -> keras.losses.Loss:
    """Returns a Keras loss that averages, from a name, a function or a loss."""
    loss = keras.losses.get(loss)
    return loss if isinstance(loss, keras.losses.Loss) else FunctionLoss(loss)


def loss_name(loss: Any) -> str:
    """Returns the name of a loss that is given as a name, a function or a loss.

    Of a loss of Keras's it is that of its function: what it is called is the user's choice.
    """
    if isinstance(loss, str):
        return loss
    function = getattr(loss, "fn", loss)
    return str(getattr(function, "__name__", None) or getattr(loss, "name", loss))


def serialize_loss(loss: Any) -> Any:
    """Returns a loss as it goes into a config; None and names stay what they are."""
    if loss is None or isinstance(loss, str):
        return loss
    return keras.losses.serialize(loss)


def deserialize_loss(config: Any) -> Any:
    """Returns a loss from what `serialize_loss` returned."""
    return keras.losses.deserialize(config) if isinstance(config, dict) else config


def ending_for_loss(loss: Any) -> Callable:
    """Returns the activation that a loss expects on top of raw values.

    A loss of the user's own is taken for a cross-entropy on probabilities by its name.

    Args:
        loss: Name of a Keras loss, a function, a `keras.losses.Loss`, or None.

    Returns:
        Softmax or sigmoid for a cross-entropy on probabilities, else the identity.
    """
    loss = keras.losses.get(loss) if isinstance(loss, str) else loss
    name = loss_name(loss)
    if "crossentropy" not in name or getattr(loss, "from_logits", False):
        return keras.activations.linear
    if getattr(loss, "get_config", None) and loss.get_config().get("from_logits"):
        return keras.activations.linear
    return keras.activations.sigmoid if "binary" in name else keras.activations.softmax

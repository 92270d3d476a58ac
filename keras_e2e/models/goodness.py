"""The goodness of each class, for models trained by the Forward-Forward algorithm."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_e2e.objectives.forward_forward import ForwardForward, goodness, overlaid
from keras_e2e.objectives.mixture import Mixture
from keras_e2e.trainers.modular_trainer import ModularTrainer
from keras_e2e.utils.data import Batches


def goodness_predict(model: Any, x: Any, batch_size: int | None = None) -> np.ndarray:
    """Returns the goodness of every class, for a model trained by `ForwardForward`.

    Hinton 2022, "The Forward-Forward Algorithm": each class is written over the input in
    turn. The goodness of an activation, the mean of its squares, is summed over the
    boundaries with a `ForwardForward` objective, the first one left out (if there are
    others). It takes one pass in inference mode for each class and has no side effects.

    Args:
        model: A modular model whose boundaries have the objective `ForwardForward`.
        x: Inputs: arrays, as the model takes them.
        batch_size: Integer, the number of examples in a batch. Defaults to `None`, which
            means 32, as in Keras.

    Returns:
        A float32 array of shape `(examples, classes)`; `argmax(axis=1)` are the
        predictions.

    Raises:
        ValueError: If the model is not modular, if none of its boundaries has such an
            objective, or if they write labels in different ways.

    Example:

    >>> import keras, numpy as np, keras_e2e as e2e
    >>> from keras_e2e.models.goodness import goodness_predict
    >>> base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="code"),
    ...                          keras.layers.Dense(3, activation="softmax")])
    >>> model = e2e.modularize(base, {"code": e2e.objectives.ForwardForward()})
    >>> goodness_predict(model, np.ones((5, 8), "float32")).shape
    (5, 3)
    """
    if not isinstance(model, ModularTrainer):
        raise ValueError(
            f"goodness_predict needs a modular model. Found: {type(model).__name__}. Use "
            "keras_e2e.modularize(model, ...) and train it by ForwardForward."
        )
    found = [
        (module, part)
        for module in model.modules
        for part in _parts(module.objective)
        if isinstance(part, ForwardForward)
    ]
    if not found:
        kinds = {m.name: type(m.objective).__name__ for m in model.modules if m.boundary}
        raise ValueError(
            f"goodness_predict: no boundary of {model.name!r} has the objective "
            f"ForwardForward. Found: {kinds}. Use model.predict."
        )
    ways = {(part.scored, part.overlay) for _, part in found}
    if len(ways) > 1:
        raise ValueError(
            "goodness_predict: the ForwardForward objectives write labels in different "
            f"ways, as (classes, overlay): {sorted(ways)}. Give all of them the same "
            "num_classes and overlay."
        )
    classes, overlay = ways.pop()
    modules = list({module.name: module for module, _ in found}.values())
    counting = modules[1:] or modules
    rows = [
        np.stack(
            [_total(model, counting, batch, c, classes, overlay) for c in range(classes)],
            axis=1,
        )
        for batch, _, _ in Batches(x, batch_size=batch_size, who="goodness_predict")
    ]
    return np.concatenate(rows)


def _parts(objective: Any) -> list:
    if isinstance(objective, Mixture):
        return [part for part, _ in objective.counting]
    return [objective]


def _total(
    model: Any, counting: list, x: Any, label: int, classes: int, overlay: float
) -> np.ndarray:
    """The goodness of a batch under one label, summed over the boundaries."""
    first = keras.tree.flatten(x)[0]
    labels = ops.one_hot(ops.full((ops.shape(first)[0],), label, "int32"), classes)
    x = model._in_order(x)
    record = model.forward_record(overlaid(x, ops.cast(labels, "float32") * overlay))
    values = [goodness(t) for m in counting for t in record.activations(m.name)]
    return ops.convert_to_numpy(sum(values[1:], values[0]))

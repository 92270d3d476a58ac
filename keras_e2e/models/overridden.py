"""Which methods of a model's own class a modular model cannot run."""

import keras

from keras_e2e.models.own_class import keeps_class
from keras_e2e.utils import compat
from keras_e2e.utils.graphs import overrides

# What a training step is made of: a modular model has a step of its own.
_STEP = (
    "train_step",
    "test_step",
    "predict_step",
    "compute_loss",
    "compute_metrics",
    "make_train_function",
    "make_test_function",
    "make_predict_function",
)
# What a user calls.
CALLED = (
    "fit",
    "evaluate",
    "predict",
    "train_on_batch",
    "test_on_batch",
    "predict_on_batch",
    "compile",
)


def refuse_overridden(model: keras.Model) -> None:
    """Refuses a model whose class overrides what a modular model would not run.

    Args:
        model: A model that is not modular.

    Raises:
        ValueError: If there is such a method. The error names it.
    """
    who = f"{type(model).__name__} ({model.name!r})"
    graph = compat.is_functional(model)
    if graph and not compat.has_stock_call(model):
        raise ValueError(
            f"{who} is a graph of layers and overrides call(), which a modular model, "
            "built from the graph, would not run. Put what call() adds into layers."
        )
    for method in _STEP:
        if overrides(model, method):
            raise ValueError(
                f"{who} overrides {method}(), which a modular model would not run. Move "
                "what it does into layers, losses or metrics, or put a LocalObjective "
                "where it trains a part."
            )
    if keeps_class(model):
        return  # its modular model is of this class, too
    for method in ("__call__",) * graph + CALLED:
        if overrides(model, method):
            advice = (
                "make it of a subclass of keras.Model, super().__init__(inputs, outputs)"
                if graph
                else f"split a model of a subclass with {method} = keras.Model.{method}, "
                f"and do what it does in front of the modular model's {method}()"
            )
            raise ValueError(
                f"{who} overrides {method}(), which a modular model would not run. For "
                f"one: {advice}."
            )

"""A private name of Keras that building a model before `fit` takes.

The rest of them stand in `compat`.
"""

from typing import Any

import keras
from keras import tree


def build_as_fit_does(model: keras.Model, batch: Any) -> None:
    """Builds metrics and losses where `fit` would, by running the model symbolically.

    Stands for `Trainer._symbolic_build`, which `fit` calls on JAX, and on TensorFlow where
    the model was made under a strategy.

    Args:
        model: A compiled model.
        batch: Tuple of inputs, targets and, if there are any, weights.
    """
    # The strategy that TensorFlow itself falls back on is no one's choice.
    strategy = getattr(model, "_distribute_strategy", None)
    if strategy is not None:
        with strategy.scope():
            model._symbolic_build(data_batch=tree.map_structure(_tensor, batch))
    elif keras.backend.backend() != "tensorflow":
        model._symbolic_build(data_batch=tree.map_structure(_tensor, batch))


def _tensor(value: Any) -> Any:
    return None if value is None else keras.ops.convert_to_tensor(value)

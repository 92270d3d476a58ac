"""Loading weights that were saved by a stock model, or by an earlier version."""

import warnings
from collections.abc import Callable
from typing import Any

from keras_e2e.modules.boundary import ModuleBoundary
from keras_e2e.utils.weights_file import held_paths

# Where files have the boundaries: beside the layers, or among them where they stand in the
# graph, as they all did in files of version 0.2.
_BESIDE, _AMONG = "boundaries", "layers/module_boundary"


def load_weights(
    model: Any, load: Callable, filepath: Any, skip_mismatch: bool, **kwargs: Any
) -> None:
    """Loads weights into a modular model that is a graph of layers.

    A file without boundaries is that of a stock model, which has the layers in the same
    places: heads stay as they are, with the optimizer, which trains them, too. A warning
    names them.

    Args:
        model: The modular model.
        load: Its `load_weights`, as Keras has it.
        filepath: As in Keras.
        skip_mismatch: As in Keras.
        **kwargs: As in Keras.
    """
    held = held_paths(filepath)
    if _AMONG in held and model._modular.graph is not model:
        # Where the graph that runs has them.
        model._modular.graph.load_weights(filepath, skip_mismatch=skip_mismatch)
        warnings.warn(
            f"{model.name!r}: {filepath} was saved by an earlier version of keras_e2e. The "
            "weights were loaded. The optimizer begins anew: its state has another order.",
            stacklevel=3,
        )
        return
    heads = [boundary for boundary in model.boundaries.values() if boundary.weights]
    if _BESIDE in held or _AMONG in held or not heads or not held:
        load(filepath, skip_mismatch=skip_mismatch, **kwargs)
        return
    model._stock_model().load_weights(filepath, skip_mismatch=skip_mismatch, **kwargs)
    tell_of_heads(model.name, filepath, model.boundaries)


def tell_of_heads(name: str, filepath: Any, boundaries: dict[str, ModuleBoundary]) -> None:
    """Warns that the heads of a model were not among the weights that were loaded."""
    left = [key for key, boundary in boundaries.items() if boundary.weights]
    if left:
        warnings.warn(
            f"{name!r}: {filepath} holds the weights of a model without boundaries. They "
            f"were loaded; the heads of {left} stay as they are. So does the optimizer.",
            stacklevel=4,
        )

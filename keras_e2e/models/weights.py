"""Loading weights that were saved by a stock model, or by an earlier version."""

import json
import warnings
from collections.abc import Callable
from typing import Any

from keras_e2e.modules.boundary import ModuleBoundary
from keras_e2e.trainers.saved_with_weights import PLACES
from keras_e2e.utils.weights_file import held_bytes, held_paths

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

    Raises:
        ValueError: If the file is of a model that has its boundaries in other places.
    """
    _refuse_other_places(model, filepath)
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


def _refuse_other_places(model: Any, filepath: Any) -> None:
    """Raises ValueError where heads would get the weights of others."""
    own = model._modular.saved.places
    found = held_bytes(filepath, f"_saved_with_weights/vars/{PLACES}")
    if own is None or found is None:
        return
    places = json.loads(found)
    if [place for place, _ in places] != [place for place, _ in own]:
        here, there = ([_name(paths) for _, paths in each] for each in (own, places))
        raise ValueError(
            f"{model.name!r} has its boundaries at {here}, and {filepath} is of a model "
            f"that has them at {there}: heads would get the weights of others. Set them as "
            f"they are there, modularize(strip(model), {there}), or load all but heads, "
            "strip(model).load_weights(filepath)."
        )


def _name(paths: list[str]) -> str | tuple[str, ...]:
    return paths[0] if len(paths) == 1 else tuple(paths)


def tell_of_heads(name: str, filepath: Any, boundaries: dict[str, ModuleBoundary]) -> None:
    """Warns that the heads of a model were not among the weights that were loaded."""
    left = [key for key, boundary in boundaries.items() if boundary.weights]
    if left:
        warnings.warn(
            f"{name!r}: {filepath} holds the weights of a model without boundaries. They "
            f"were loaded; the heads of {left} stay as they are. So does the optimizer.",
            stacklevel=4,
        )

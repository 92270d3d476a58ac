"""The layers below a model, by name and by path."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import keras

from keras_e2e.modules.graph import LOOPS, in_loop
from keras_e2e.utils.graphs import sublayer_paths, unique


def named_sublayers(
    base: keras.Model, boundaries: Mapping[str, Any]
) -> list[tuple[str, keras.layers.Layer, Any]]:
    """The sublayers that boundaries name, each with the name of its module.

    That is the name of the layer, or its path where others have that name.

    Args:
        base: The model.
        boundaries: Dict from the name or path of a sublayer to an objective.

    Returns:
        A list of (name of the module, layer, objective).

    Raises:
        ValueError: If a name is not that of exactly one sublayer, if one is named twice, or
            if it is inside a layer that runs its content in a loop.
    """
    paths = list(sublayer_paths(base))
    names = Counter(layer.name for layer in unique(layer for _, layer in paths))
    chosen: dict[int, tuple] = {}
    for name, objective in boundaries.items():
        layer, path = _find(base, paths, name)
        if id(layer) in chosen:
            raise ValueError(
                f"boundaries: layer {layer.name!r} is named twice: by {name!r} too. Name "
                "it once."
            )
        module = layer.name if names[layer.name] == 1 else path
        chosen[id(layer)] = (module, layer, objective)
    return list(chosen.values())


def _find(base: keras.Model, paths: list, name: str) -> tuple[keras.layers.Layer, str]:
    """The sublayer with a name or path, and its path."""
    for _, loop in paths:
        inner = sublayer_paths(loop) if isinstance(loop, LOOPS) else ()
        if any(name in (path, layer.name) for path, layer in inner):
            raise in_loop(name, loop)
    found = {id(x): (x, path) for path, x in reversed(paths) if name in (path, x.name)}
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise ValueError(
            f"Layer name {name!r} is ambiguous in {base.name!r}: "
            f"{sorted(path for _, path in found.values())}. Give the path."
        )
    names = sorted({layer.name for _, layer in paths})
    raise ValueError(
        f"Model {base.name!r} has no layer {name!r} among its sublayers: {names}. Name one "
        "of them (a layer made in build() is known only after the model has been called)."
    )

"""A further pass of the model, on augmented inputs."""

import json
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import keras
from keras import tree

from keras_e2e.objectives.global_batch import GlobalBatch
from keras_e2e.objectives.specs import Batch
from keras_e2e.utils.data import first_tensor


def augmented_view(layer: Any) -> Mapping[Hashable, Callable[[Batch], Any]]:
    """Returns a further pass of the model, on its inputs as a layer augments them.

    Layers of equal configuration (the same layer given to several objectives, or what a
    saved model made of it) share one pass. Under a distribution strategy each replica
    augments the whole batch, and takes its own examples of it: a layer draws by the shape
    that it is given, and may mix examples, so that nothing less is what one device does.
    """
    config = _unbuilt(keras.saving.serialize_keras_object(layer))
    key = json.dumps(config, sort_keys=True)
    return {("augmented", key): lambda batch: _view(layer, batch.x)}


def refuse_noise_on(inputs: list, layer: Any, who: str) -> None:
    """Raises ValueError where a layer is `GaussianNoise` and inputs are not to be added to.

    Args:
        inputs: List of `keras.KerasTensor`: the model's inputs.
        layer: The layer.
        who: Name of the objective, for the error.
    """
    if not isinstance(layer, keras.layers.GaussianNoise):
        return
    kinds = [keras.backend.standardize_dtype(each.dtype) for each in inputs]
    if len(kinds) > 1 or "float" not in kinds[0]:
        raise ValueError(
            f"{who}: GaussianNoise, the default of `augment`, adds to one input of floats; "
            f"the model's inputs are {kinds}. Give augment=, a layer that changes them at "
            "random in training and returns them in the same structure."
        )


def _view(layer: Any, x: Any) -> Any:
    every = GlobalBatch(first_tensor(x))
    view = layer(tree.map_structure(every.all, x), training=True)
    return tree.map_structure(every.own, view)


def _unbuilt(config: Any) -> Any:
    """Returns a config without what building a layer, or a Sequential, adds to it."""
    if isinstance(config, dict):
        added = ("build_config", "build_input_shape")
        return {k: _unbuilt(v) for k, v in config.items() if k not in added}
    if not isinstance(config, list | tuple):
        return config
    kinds = [c.get("class_name") if isinstance(c, dict) else None for c in config]
    kept = zip(config, kinds, strict=True)
    return [_unbuilt(c) for c, kind in kept if kind != "InputLayer"]

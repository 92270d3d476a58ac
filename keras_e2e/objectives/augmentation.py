"""A further pass of the model, on augmented inputs."""

import json
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import keras

from keras_e2e.objectives.specs import Batch


def augmented_view(layer: Any) -> Mapping[Hashable, Callable[[Batch], Any]]:
    """Returns a further pass of the model, on its inputs as a layer augments them.

    Layers of equal configuration (the same layer given to several objectives, or what a
    saved model made of it) share one pass.
    """
    config = _unbuilt(keras.saving.serialize_keras_object(layer))
    key = json.dumps(config, sort_keys=True)
    return {("augmented", key): lambda batch: layer(batch.x, training=True)}


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

"""What several workers must have alike: looked at when a training begins on them."""

import hashlib
import importlib.metadata
import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_e2e.modules.module import Module
from keras_e2e.utils.workers import on_several_workers, told_by_all

PACKAGES = "keras-e2e", "keras", "tensorflow"
MODE, RATE = "the training mode", "learning_rate"


FIXES = {
    MODE: "Set model.training_mode on all workers alike, before fit.",
    **dict.fromkeys(
        ("the values of what trains", "the values of the optimizer", "the learning rate"),
        "Load and set weights, optimizers and learning rates on all workers alike.",
    ),
    **dict.fromkeys(
        ("the number of batches", "the size of a batch", "the size of the last batch"),
        "Give all workers the same data: each takes its part of each batch.",
    ),
    "model.stop_training": "Stop on all workers in the same epoch, by what all have alike, "
    "such as logs.",
}
# Of the arguments of `fit` those that are data, of which workers may read different parts.
DATA = "x", "y", "validation_data", "sample_weight"
# How many times as long as else the others wait for the chief between epochs.
LONG = 6
# What each worker may have another of.
OWN = "callbacks", "verbose"


def refuse_differences(model: Any, more: Mapping[str, Any] | None = None) -> None:
    """Raises ValueError on all workers, naming what differs, unless they have all alike.

    Workers that take other steps wait for each other for ever; where optimizers differ
    their weights part, and nobody is told.

    Args:
        model: A compiled Keras model that is to train on several workers.
        more: Dict of what else must be alike, by what it is. Defaults to `None`.
    """
    state = getattr(model, "_modular", None)
    counts = _structure(state.modules, state.mode) if state is not None else {}
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None:
        counts["the optimizer"] = _config(optimizer)
        counts["the optimizer's step"] = int(np.asarray(optimizer.iterations))
    counts = {**_packages(), "the weights": _shapes(model), **counts}
    counts["the weights that train"] = _trained(model)
    counts |= {"the arguments of compile": _compiled(model), **(more or {})}
    _refuse(model, told_by_all(model, "the beginning of a training", counts))


def agree_on_fit(model: Any, arguments: Mapping[str, Any]) -> keras.callbacks.Callback:
    """Raises ValueError on all workers unless `fit` begins alike on all of them.

    Args:
        model: A compiled Keras model that is to train on several workers.
        arguments: Dict of the arguments of `fit`.

    Returns:
        A callback, to come last, that raises ValueError on all workers in the epoch in
        which others part them.
    """
    given = {
        key: str(value) if isinstance(value, Mapping) else value
        for key, value in arguments.items()
        if key not in (*DATA, *OWN)
    }
    given |= {f"{key} given": arguments[key] is not None for key in DATA}
    more = {"the layers": _layers(model), "the arguments of fit": _plain(given)}
    more["the values of what trains"] = _values(model.trainable_variables)
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None:
        more["the values of the optimizer"] = _values(optimizer.variables)
    refuse_differences(model, more)
    return _Alike()


def agree_on_predict(model: Any, arguments: Mapping[str, Any]) -> None:
    """Raises ValueError on all workers unless `predict` begins alike on all of them.

    Args:
        model: A Keras model that predicts on several workers.
        arguments: Dict of the arguments of `predict`.
    """
    given = {key: v for key, v in arguments.items() if key not in (*DATA, *OWN)}
    given["x"] = [
        list(np.shape(part))
        for part in tree.flatten(arguments["x"])
        if hasattr(part, "shape")
    ]
    told = {"the arguments of predict": _plain(given)}
    _refuse(model, told_by_all(model, "the beginning of a prediction", told))


class _Alike(keras.callbacks.Callback):
    """Looks, between epochs, at what callbacks may have done on one worker alone."""

    def on_epoch_begin(self, epoch, logs=None):
        optimizer = getattr(self.model, "optimizer", None)
        rates = [v for v in getattr(optimizer, "variables", ()) if v.name == RATE]
        numbers = [float(np.asarray(v)) for v in rates]
        self._tell("beginning", {"the epoch": epoch, "the learning rate": numbers})

    def on_epoch_end(self, epoch, logs=None):
        stops = bool(self.model.stop_training)
        self._tell("end", {"model.stop_training": stops})

    def _tell(self, when: str, told: dict) -> None:
        # Between epochs the chief may do long what it does alone: export, say, or evaluate.
        what, model = f"the {when} of an epoch", self.model
        _refuse(model, told_by_all(model, what, told, times=LONG))


def refuse_other_modules(model: Any, modules: Iterable[Module]) -> None:
    """Raises ValueError on all workers, naming what differs, before heads are made.

    Making a variable is an exchange, too: where one worker makes others, TensorFlow waits
    for ever or fails without a name.

    Args:
        model: A modular model.
        modules: Its modules.
    """
    if on_several_workers(model):
        counts = {**_packages(), **_structure(modules, model._modular.mode)}
        _refuse(model, told_by_all(model, "the making of a modular model", counts))


def agree_on_step(model: Any, batches: int | None) -> None:
    """Raises ValueError unless all workers are to run the same step.

    They are asked where the mode changes, and before a step that is new, of a mode or of
    quantities that are to be measured. One that is not asked at the same time would wait in
    a step that this worker does not run; it is named, after a while (`told_by_all`).

    Args:
        model: A modular model whose step is to run.
        batches: As in `CompiledSteps.run`.
    """
    steps, mode = model._modular.steps, model._modular.mode
    key = mode, steps.requested, batches
    if mode == steps.agreed and key in steps.functions:
        return
    if on_several_workers(model):
        told = {MODE: str(mode), "the quantities to measure": sorted(steps.requested)}
        shown = f"a step in mode '{mode}' that measures {sorted(steps.requested)}"
        _refuse(model, told_by_all(model, "a step of another kind", told, shown))
    steps.agreed = mode


def _refuse(model: Any, found: list[dict]) -> None:
    """Raises ValueError if a worker told something else than the chief."""
    for number, theirs in enumerate(found):
        for what in [*dict.fromkeys([*found[0], *theirs])]:
            ours, other = found[0].get(what), theirs.get(what)
            if ours != other:
                raise ValueError(
                    f"{model.name!r}: the workers differ in {what}: the chief has "
                    f"{_shown(ours, other)}, worker {number} has {_shown(other, ours)}. "
                    f"{_fix(what, ours)}"
                )


def _structure(modules: Iterable[Module], mode: Any) -> dict[str, Any]:
    """What modular models must have alike."""
    modules = list(modules)
    return {
        "the modules": [module.name for module in modules],
        "the objectives": {module.name: _config(module.objective) for module in modules},
        MODE: str(mode),
    }


def _shapes(model: Any) -> dict[str, list]:
    return {f"number {i}": list(v.shape) for i, v in enumerate(model.weights)}


def _packages() -> dict[str, str | None]:
    return {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None  # it has another name, as a build of one's own


def _trained(model: Any) -> list[int]:
    trained = {id(variable) for variable in model.trainable_variables}
    return [i for i, weight in enumerate(model.weights) if id(weight) in trained]


def _values(variables: Iterable[Any]) -> dict[str, str]:
    """What tells values apart."""
    return {
        f"number {i}, {v.name}": _digest(np.asarray(v).tobytes())
        for i, v in enumerate(variables)
    }


def _layers(model: Any) -> dict[str, str]:
    """What tells layers apart that may have weights of one shape; a vocabulary is long."""
    return {
        f"number {i}, {type(layer).__name__}": _digest(json.dumps(_config(layer)).encode())
        for i, layer in enumerate(model.layers)
    }


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _compiled(model: Any) -> Any:
    """What `compile` was given, but for the optimizer."""
    try:
        config = _quietly(model.get_compile_config) or {}
    except Exception:  # whatever a class of the user's own does: it can be trained
        return None
    return _plain(_unnamed({k: v for k, v in config.items() if k != "optimizer"}))


def _config(thing: Any) -> Any:
    """What a layer or optimizer was given; names, which count up, left out."""
    if thing is None:
        return None
    kind = type(thing).__name__
    try:
        config = _quietly(keras.saving.serialize_keras_object, thing)["config"]
    except Exception:  # whatever a class of the user's own does: it can be trained
        return kind
    return _plain({"class": kind, **_unnamed(config)})


def _quietly(serialize: Callable, *args: Any) -> Any:
    """Calls a function that warns of lambdas, which nobody loads here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return serialize(*args)


def _plain(value: Any) -> Any:
    """A value as JSON has it; of what JSON cannot hold, the class: it may have no text."""
    return json.loads(json.dumps(value, default=lambda other: type(other).__name__))


def _unnamed(config: Any) -> Any:
    if isinstance(config, Mapping):
        if config.get("class_name") == "__lambda__":
            return "a lambda"  # its code says where its file is
        return {key: _unnamed(v) for key, v in config.items() if key != "name"}
    return [*map(_unnamed, config)] if isinstance(config, list | tuple) else config


def _shown(value: Any, other: Any) -> str:
    """A value; of a dict what is not in the other one."""
    if not isinstance(value, dict) or not isinstance(other, dict):
        return repr(value)
    different = [key for key, v in value.items() if other.get(key, ...) != v]
    shown = [f"{key}: {_shown(value[key], other.get(key))}" for key in different[:3]]
    more = f" and {len(different) - 3} more" if len(different) > 3 else ""
    return "{" + ", ".join(shown) + more + "}"


def _fix(what: str, ours: Any) -> str:
    if what in PACKAGES:
        return f"Install the same on all hosts: pip install {what}=={ours}"
    return FIXES.get(what, "Start the same program with the same arguments on all workers.")

"""What several workers must have alike: looked at when a training begins on them."""

import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from keras_e2e.modules.module import Module
from keras_e2e.utils.workers import on_several_workers, told_by_all

PACKAGES = "keras-e2e", "keras", "tensorflow"
MODE = "the training mode"


def refuse_differences(model: Any) -> None:
    """Raises ValueError on all workers, naming what differs, unless they have all alike.

    Workers that take other steps wait for each other for ever; where optimizers differ
    their weights part, and nobody is told.

    Args:
        model: A compiled Keras model that is to train on several workers.
    """
    state = getattr(model, "_modular", None)
    counts = _structure(state.modules, state.mode) if state is not None else {}
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None:
        counts["the optimizer"] = _config(optimizer)
        counts["the optimizer's step"] = int(np.asarray(optimizer.iterations))
    counts = {**_packages(), "the weights": _shapes(model), **counts}
    _refuse(model, told_by_all(model, "the beginning of a training", counts))


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


def _config(thing: Any) -> Any:
    """What a layer or optimizer was given; names, which count up, left out."""
    if thing is None:
        return None
    kind = type(thing).__name__
    try:
        config = keras.saving.serialize_keras_object(thing)["config"]
    except Exception:  # whatever a class of the user's own does: it can be trained
        return kind
    return json.loads(json.dumps({"class": kind, **_unnamed(config)}, default=str))


def _unnamed(config: Any) -> Any:
    if isinstance(config, Mapping):
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
    if what == MODE:
        return "Set model.training_mode on all workers alike, before fit."
    return "Start the same program with the same arguments on all workers."

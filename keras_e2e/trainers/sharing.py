"""Losses of a step where one module uses variables that another one owns."""

from collections.abc import Container
from typing import Any

import keras

from keras_e2e.modules.module import Module
from keras_e2e.modules.ownership import borrowed_from, owned_by
from keras_e2e.utils.compat import calls
from keras_e2e.utils.graphs import unique


def shares_variables(model: Any) -> bool:
    """Whether a module uses variables that another one owns.

    Where a gradient stops, losses are then differentiated apart, each by what its own
    modules own, even where all activations are kept.

    Args:
        model: The modular model.
    """
    return any(module.borrowed for module in model._modular.modules)


def layers_of_others(model: Any, names: Container[str]) -> list[keras.layers.Layer]:
    """The layers, and objectives, that belong to none of some modules.

    Args:
        model: The modular model.
        names: The names of these modules.
    """
    modules = model._modular.modules
    own = {id(x) for m in modules if m.name in names for x in _members(m)}
    others = [x for m in modules if m.name not in names for x in _members(m)]
    return [layer for layer in others if id(layer) not in own]


def refuse_inseparable_losses(model: Any) -> None:
    """Refuses losses that cannot be told apart, when the forward pass is over.

    Raises:
        ValueError: If a layer adds a penalty where a module uses what another one owns: the
            loss of the owner has it in it.
        NotImplementedError: If a subclass computes a loss of its own.
    """
    state = model._modular
    flow = state.flow()
    last = state.modules[-1].name
    if state.mode.name == "sequential":
        trained = [({state.mode.module}, True)]
    elif len(flow.parts) == 1:
        return
    elif model._has_own_loss():
        raise NotImplementedError(
            f"{type(model).__name__} computes a loss of its own, which cannot be taken "
            f"apart in mode '{state.mode}', where one of several modules trains "
            f"{_paths(state.modules)}. Put the loss into a LocalObjective, or use "
            "'end_to_end' or 'deep_supervision'."
        )
    else:
        trained = [(set(part.trains), last in part.losses) for part in flow.parts]
    for names, whole in trained:
        _refuse_penalties(state.modules, names, whole)


def _refuse_penalties(modules: list[Module], trained: set[str], whole: bool) -> None:
    """Raises ValueError for a penalty where these modules' variables are used by others.

    Args:
        modules: All modules.
        trained: The names of those that a loss trains.
        whole: Whether the penalties of all layers are in that loss.
    """
    borrowed = borrowed_from(modules)
    owners = [module for module in modules if module.name in trained]
    for user in modules:
        if user.name in trained or not borrowed[user.name] & trained:
            continue
        ids = {id(x) for x in (*user.layers, *user.borrowed)}
        both = [
            layer
            for owner in owners
            for layer in owner.layers
            if id(layer) in ids or any(id(v) in ids for v in layer.weights)
        ]
        for layer in [*both, *(_members(user) if whole else ())]:
            if calls.penalties_of_calls(layer):
                others = ""
                if layer not in both:
                    others = f", give them to it, {owned_by(modules, user.name, trained)}"
                raise ValueError(
                    f"Layer {layer.name!r} adds a penalty (add_loss or an activity "
                    f"regularizer) in module {user.name!r}, which uses variables of "
                    f"{sorted(borrowed[user.name] & trained)}: that penalty would train "
                    f"them. Take it out{others}, or use 'end_to_end' or "
                    "'deep_supervision'."
                )


def _members(module: Module) -> list[keras.layers.Layer]:
    """The layers of a module, and its objective."""
    return [*module.layers, *([] if module.objective is None else [module.objective])]


def _paths(modules: list[Module]) -> list[str]:
    return [v.path for v in unique(v for module in modules for v in module.borrowed)]

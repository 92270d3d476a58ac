"""Whether a training mode fits a model."""

from collections.abc import Sequence
from typing import Any

from keras_e2e.modules.gradient_flow import GradientFlow, gradient_flow
from keras_e2e.modules.module import Module
from keras_e2e.modules.ownership import borrowed_from, owned_by
from keras_e2e.modules.training_mode import TrainingMode
from keras_e2e.utils.validation import check_reach_fits


def resolve_mode(mode: TrainingMode, modules: Sequence[Module]) -> TrainingMode:
    """The mode as it is in force on a model of these modules.

    Raises:
        ValueError: If the mode names a boundary or module that the model does not have,
            if nothing would train one of the modules, or if what modules share would not
            be trained by its owner alone.
    """
    names = [m.name for m in modules]
    boundaries = [m.name for m in modules if m.boundary is not None]
    if mode.name == "sequential" and mode.module is None:
        mode = TrainingMode.get({**mode.get_config(), "module": names[0]})
    allowed = set(boundaries) | ({mode.module} & set(names))
    unknown = sorted(mode.names() - allowed)
    if unknown:
        raise ValueError(
            f"Training mode '{mode}' names {unknown}, but the model's boundaries "
            f"are {boundaries} and its modules {names}. Use one of these names."
        )
    check_reach_fits(mode.reach, len(modules), f"Training mode '{mode}'")
    for module in modules:
        if module.boundary is not None:
            _refuse_untrained(mode, module)
    _refuse_weights_of_zero(mode, modules)
    if any(module.borrowed for module in modules):
        _refuse_inseparable(mode, modules)
    return mode


def _refuse_untrained(mode: TrainingMode, module: Module) -> None:
    """Raises ValueError where a boundary's objective cannot train its module."""
    objective = module.objective
    if objective and objective.feedback_source and mode.module == module.name:
        raise ValueError(
            f"Training mode '{mode}': the objective {type(objective).__name__} of "
            f"{module.name!r} passes on a signal that comes from later modules, which "
            "sequential training does not compute. Use 'local', or give the boundary "
            "an objective with a loss of its own."
        )
    stops = mode.name in ("local", "mixed") and mode.stops(module.name)
    if objective is None and (stops or mode.module == module.name):
        raise ValueError(
            f"Training mode '{mode}': boundary {module.name!r} stops the "
            "gradient but has no objective, so nothing would train the module "
            f"{module.name!r}. Give the boundary an objective, or use "
            "TrainingMode('mixed', stop=[...]) with the other boundaries."
        )


def _refuse_weights_of_zero(mode: TrainingMode, modules: Sequence[Module]) -> None:
    """Raises ValueError where a module is left untrained by a weight of zero."""
    if mode.weights is None or mode.name == "deep_supervision":
        return
    flow = gradient_flow(modules, mode)
    trained = {name for window in flow.windows.values() for name in window}
    for module in modules:
        if mode.name == "sequential" and module.name != mode.module:
            continue
        stops = module.boundary is not None and mode.stops(module.name)
        if stops and not mode.weight(module.name) and module.name not in trained:
            raise ValueError(
                f"Training mode '{mode}': the boundary {module.name!r} stops the gradient "
                f"and its objective has the weight 0, so nothing would train the module "
                f"{module.name!r}. Give it a weight above 0, or leave it out of "
                "TrainingMode('mixed', stop=[...]), so that the task loss trains it."
            )


def _refuse_inseparable(mode: TrainingMode, modules: Sequence[Module]) -> None:
    """Raises an error where losses would train what another module owns."""
    flow = gradient_flow(modules, mode)
    if not flow.stopping and not flow.separate:
        return  # everything trains everything, as in stock Keras
    if mode.name == "sequential":
        _refuse_shared_statistics(mode, modules)
        return
    borrowed = borrowed_from(modules)
    _refuse_shared_feedback(mode, flow, borrowed)
    _refuse_ways_around(mode, modules, flow, borrowed)


def _refuse_shared_statistics(mode: TrainingMode, modules: Sequence[Module]) -> None:
    """Raises ValueError where the active module would update what a frozen one owns."""
    active = next(module for module in modules if module.name == mode.module)
    for owner in modules:
        ids = {id(v) for v in active.borrowed} & {id(v) for v in owner.variables}
        for layer in owner.layers:
            kept = [v.path for v in layer.non_trainable_weights if id(v) in ids]
            if kept and layer.trainable:
                raise ValueError(
                    f"Training mode '{mode}': layer {layer.name!r} is used by "
                    f"{mode.module!r} and owned by {owner.name!r}, which is frozen; "
                    f"training would update {kept} in it. Give {mode.module!r} a layer of "
                    "its own, or set trainable=False on the layer."
                )


def _refuse_shared_feedback(
    mode: TrainingMode, flow: GradientFlow, borrowed: dict[str, frozenset[str]]
) -> None:
    """Raises ValueError where a signal and what modules share come from one loss."""
    fed = {name for routes in flow.routes.values() for name in routes}
    for part in flow.parts:
        users = sorted(name for name in part.trains if borrowed[name] & part.trains)
        if users and fed & part.trains:
            raise ValueError(
                f"Training mode '{mode}': {sorted(fed & part.trains)} take their signal "
                f"from the loss of another module, and {users} use what "
                f"{sorted(borrowed[users[0]])} own, so that loss would train it through "
                "them too. Give these boundaries objectives with a loss of their own, or "
                "use layers of their own in place of shared ones."
            )


def _refuse_ways_around(
    mode: TrainingMode,
    modules: Sequence[Module],
    flow: GradientFlow,
    borrowed: dict[str, frozenset[str]],
) -> None:
    """Raises ValueError where a loss would reach what is shared beyond its window."""
    before = {module.name: module.inputs for module in modules}
    for name in flow.separate:
        window, pending = flow.windows[name], [name]
        while pending:
            inside = pending.pop()
            pending += [up for up in before[inside] if up not in flow.stopping]
            if inside not in window and borrowed[inside] & window:
                owners = sorted(borrowed[inside] & window)
                raise ValueError(
                    f"Training mode '{mode}': the loss of {name!r} reaches "
                    f"{sorted(window)}, and {inside!r}, beyond, uses what {owners} own, so "
                    "it would train that through it too. Use reach 1 or 'all', or let "
                    f"{inside!r} own it: {owned_by(modules, inside, window)}."
                )


def refuse_averages(name: str, mode: TrainingMode, optimizer: Any) -> None:
    """Refuses an optimizer that would change variables that the mode freezes.

    Raises:
        ValueError: If the mode is `sequential` and the optimizer averages all variables.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if mode.name == "sequential" and getattr(optimizer, "use_ema", False):
        raise ValueError(
            f"{name!r}: training mode '{mode}' keeps all other modules as they are, but "
            f"{type(optimizer).__name__}(use_ema=True) writes averages over every "
            "variable at the end of fit. Compile with use_ema=False for sequential "
            "training, or use another mode."
        )

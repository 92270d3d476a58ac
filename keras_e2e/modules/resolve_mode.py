"""Whether a training mode fits a model."""

from collections.abc import Sequence
from typing import Any

from keras_e2e.modules.gradient_flow import gradient_flow
from keras_e2e.modules.module import Module
from keras_e2e.modules.training_mode import TrainingMode
from keras_e2e.utils.validation import check_reach_fits


def resolve_mode(mode: TrainingMode, modules: Sequence[Module]) -> TrainingMode:
    """The mode as it is in force on a model of these modules.

    Raises:
        ValueError: If the mode names a boundary or module that the model does not have,
            or if nothing would train one of the modules.
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

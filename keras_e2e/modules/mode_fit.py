"""Whether a training mode fits a model."""

from collections.abc import Sequence
from typing import Any

from keras_e2e.modules.graph import Module
from keras_e2e.modules.training_mode import TrainingMode
from keras_e2e.utils.validation import check_reach_fits


def fitting(mode: TrainingMode, modules: Sequence[Module]) -> TrainingMode:
    """The mode as it is in force on a model of these modules.

    Raises:
        ValueError: it names what the model has not, or would train a module by nothing.
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
            f"are {boundaries} and its modules {names}."
        )
    check_reach_fits(mode.reach, len(modules), f"Training mode '{mode}'")
    for module in modules:
        objective = module.objective
        if objective and objective.feedback_source and mode.module == module.name:
            raise ValueError(
                f"Training mode '{mode}': the objective {type(objective).__name__} of "
                f"{module.name!r} passes on a signal that comes from later modules, which "
                "sequential training does not compute. Use 'local', or give the boundary "
                "an objective with a loss of its own."
            )
        if module.boundary is None or module.objective is not None:
            continue
        untrained = mode.name in ("local", "mixed") and mode.stops(module.name)
        if untrained or mode.module == module.name:
            raise ValueError(
                f"Training mode '{mode}': boundary {module.name!r} stops the "
                "gradient but has no objective, so nothing would train the module "
                f"{module.name!r}. Give the boundary an objective, or use "
                "TrainingMode('mixed', stop=[...]) with the other boundaries."
            )
    return mode


def refuse_averages(name: str, mode: TrainingMode, optimizer: Any) -> None:
    """Refuses an optimizer that would move what must stand still."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if mode.name == "sequential" and getattr(optimizer, "use_ema", False):
        raise ValueError(
            f"{name!r}: training mode '{mode}' keeps all other modules as they are, but "
            f"{type(optimizer).__name__}(use_ema=True) writes averages over every "
            "variable at the end of fit. Compile with use_ema=False for sequential "
            "training, or use another mode."
        )

"""The aliases of the objectives, and how an objective is found, saved and loaded.

Each class registers itself with `register`, so this file imports none of them.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import keras

from keras_e2e.objectives.base import LocalObjective
from keras_e2e.utils.validation import did_you_mean

# The aliases, for type checkers; a test keeps them equal to what is registered.
Alias = Literal[
    "barlow_twins",
    "direct_feedback_alignment",
    "feature_bank",
    "feedback_alignment",
    "forward_forward",
    "infonce",
    "infopro",
    "intermediate_target",
    "pred",
    "prediction",
    "predsim",
    "reconstruction",
    "sim",
    "supcon",
    "synthetic_gradient",
    "transport",
    "vicreg",
    "view_contrast",
]

# What is accepted wherever an objective is.
Identifier = LocalObjective | Alias | Mapping[Any, Any] | None

ALIASES: dict[str, type[LocalObjective]] = {}
# What a dict from objective to factor stands for.
_MIXTURES: list[Callable[[Mapping[Any, float]], LocalObjective]] = []

Kind = TypeVar("Kind", bound=type[LocalObjective])


def register(*aliases: str, mapping: bool = False) -> Callable[[Kind], Kind]:
    """Registers a class of objectives; a decorator.

    Args:
        aliases: Strings that stand for the class, with its default arguments.
        mapping: Whether a dict from objective to factor stands for the class.
    """

    def registered(kind: Kind) -> Kind:
        ALIASES.update(dict.fromkeys(aliases, kind))
        if mapping:
            _MIXTURES.append(kind)
        return kind

    return registered


def get(identifier: Identifier) -> LocalObjective | None:
    """Returns the objective that an identifier stands for.

    Args:
        identifier: A `LocalObjective`, which is returned as it is; an alias such as
            `"predsim"`, which stands for a new objective with default arguments; a dict
            from objective or alias to factor (a `Mixture`); a config as `serialize`
            returns it; or None for no objective.

    Returns:
        A `LocalObjective`, or None if `identifier` is None.

    Raises:
        ValueError: If the alias is unknown. The message names the nearest ones.
        TypeError: If `identifier` is anything else, `False` included.

    Example:

    >>> import keras_e2e as e2e
    >>> type(e2e.objectives.get("predsim")).__name__
    'PredSim'
    >>> mixture = e2e.objectives.get({"reconstruction": 1.0, "pred": 0.5})
    >>> mixture.factors
    (1.0, 0.5)
    """
    if identifier is None or isinstance(identifier, LocalObjective):
        return identifier
    if isinstance(identifier, str):
        if identifier in ALIASES:
            return ALIASES[identifier]()
        raise ValueError(
            f"Unknown objective {identifier!r}.{did_you_mean(identifier, ALIASES, 3)} The "
            f"aliases: {sorted(ALIASES)}."
        )
    if isinstance(identifier, Mapping):
        if {"class_name", "config"} <= set(identifier):
            return deserialize(identifier)
        return _MIXTURES[0](identifier)
    raise TypeError(
        "An objective must be a LocalObjective, an alias such as 'predsim', a dict from "
        f"objective to factor, or None for no objective. Found: {identifier!r}."
    )


def serialize(objective: LocalObjective | None) -> dict[str, Any] | None:
    """Returns the config of an objective, from which `deserialize` makes it again.

    Args:
        objective: A `LocalObjective`, or None for no objective.

    Returns:
        A Python dict that JSON can hold, or None if `objective` is None. It holds the
        arguments of the objective, not the weights of its head.

    Example:

    >>> import keras_e2e as e2e
    >>> config = e2e.objectives.serialize(e2e.objectives.Prediction("mlp"))
    >>> e2e.objectives.deserialize(config).head
    'mlp'
    """
    return None if objective is None else keras.saving.serialize_keras_object(objective)


def deserialize(
    config: Mapping[str, Any] | str | None,
    custom_objects: Mapping[str, Any] | None = None,
) -> LocalObjective | None:
    """Returns a new objective from the config that `serialize` returned.

    Args:
        config: A config, an alias, or None for no objective.
        custom_objects: Optional dict from names to classes and functions of your own
            that are not registered with `keras.saving.register_keras_serializable`.
            Defaults to `None`.

    Returns:
        A `LocalObjective`, or None if `config` is None.

    Raises:
        ValueError: If the config is not that of an objective.

    Example:

    >>> import keras_e2e as e2e
    >>> e2e.objectives.deserialize("infonce").num_steps
    5
    """
    if config is None or isinstance(config, str):
        return get(config)  # type: ignore[arg-type]
    objective = keras.saving.deserialize_keras_object(dict(config), custom_objects)
    if not isinstance(objective, LocalObjective):
        raise ValueError(
            "objectives.deserialize: expected the config of a LocalObjective, as "
            f"objectives.serialize returns it. Found that of {objective!r}."
        )
    return objective

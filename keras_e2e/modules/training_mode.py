"""Training modes: which gradients flow."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, cast, get_args

from keras_e2e.utils.validation import check_reach, did_you_mean

# For type checkers, which refuse "lokal". They cannot know "sequential:MODULE", for modules
# have any name: typed code says TrainingMode("sequential", module=...).
ModeName = Literal["end_to_end", "local", "deep_supervision", "sequential", "mixed"]
NAMES: tuple[str, ...] = get_args(ModeName)

# What trains a module in a mode; a position here is the code in TensorBoard's logs.
TrainedBy = Literal["task", "own objective", "task and own objective", "nothing"]
TRAINED_BY: tuple[TrainedBy, ...] = get_args(TrainedBy)


@dataclass(frozen=True, init=False)
class TrainingMode:
    """Says which gradients flow and which local objectives count.

    A local objective trains one module from the activation at its boundary; the task loss
    is the loss that the model is compiled with. A loss *counts* if it is computed and
    minimized.

    | name | at a boundary | local objectives | task loss |
    |---|---|---|---|
    | `end_to_end` | gradient passes | off | trains everything |
    | `local` | gradient stops | each trains its own module, or as many as `reach` says | trains the last module, or as many |
    | `deep_supervision` | gradient passes | added to the loss | trains everything |
    | `sequential` | modules before are frozen, in inference mode | the active module's only | trains the last module, in its turn |
    | `mixed` | stops at `stop` | on at `stop` and where `weights` says | flows up to the nearest stop |

    Args:
        name: String, one of the names above. `"sequential:NAME"` is short for
            `TrainingMode("sequential", module=NAME)`; a type checker takes the long form
            only. `TrainingMode.get` takes any string.
        weights: Factors of the local losses: a number for all of them, or a dict from
            boundary name to number (1 where a boundary is not named). An objective of
            weight 0 is not computed. Defaults to `None`, which means 1, as in greedy and
            local learning (Belilovsky et al. 2019); GoogLeNet's deep supervision used 0.3
            (Szegedy et al. 2015).
        stop: List of the names of the boundaries that stop the gradient. Required by
            `mixed`, and only for it. Defaults to `()`.
        module: String, the name of the module to train; only for `sequential`. Defaults
            to `None`, the first module.
        reach: Integer or `"all"`: over how many modules the gradient of each loss, the
            task loss included, flows back; only for `local`. 1 trains each module by its
            own loss alone, 2 also by the loss of the next one (overlapping local
            learning, Laskin et al. 2020), `"all"` is deep supervision. An objective may
            have a reach of its own. Defaults to `None`, which means 1.

    Raises:
        ValueError: If the name is unknown, if a weight is negative or not finite, if
            `reach` is invalid, or if an argument is given that the mode does not take.

    Example:

    >>> from keras_e2e import TrainingMode
    >>> TrainingMode("deep_supervision", weights=0.3).weight("block2")
    0.3
    >>> mode = TrainingMode("mixed", stop=["encoder"])
    >>> mode.stops("encoder"), mode.stops("mixer")
    (True, False)
    """  # noqa: E501

    name: ModeName
    weights: float | tuple[tuple[str, float], ...] | None
    stop: tuple[str, ...]
    module: str | None
    reach: int | str | None

    def __init__(
        self,
        name: ModeName,
        *,
        weights: float | Mapping[str, float] | None = None,
        stop: Iterable[str] = (),
        module: str | None = None,
        reach: int | str | None = None,
    ):
        name, module = _long_form(name, module)
        if name not in NAMES:
            raise ValueError(
                f"Unknown training mode {name!r}.{did_you_mean(name, NAMES)} Expected one "
                f"of {list(NAMES)}, or 'sequential:MODULE'."
            )
        stop = (stop,) if isinstance(stop, str) else tuple(stop)
        _check_arguments(name, weights, stop, module, reach)
        kept: float | tuple[tuple[str, float], ...] | None
        if isinstance(weights, Mapping):
            kept = tuple((k, _factor(name, k, v)) for k, v in sorted(weights.items()))
        else:
            kept = None if weights is None else _factor(name, "weights", weights)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "weights", kept)
        object.__setattr__(self, "stop", stop)
        object.__setattr__(self, "module", module)
        object.__setattr__(self, "reach", check_reach(reach, f"TrainingMode({name!r})"))

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "TrainingMode":
        """Returns the mode of a config that `get_config` returned."""
        return cls(**config)

    @classmethod
    def get(cls, mode: "TrainingMode | str | dict[str, Any]") -> "TrainingMode":
        """Returns a mode from any spelling of it.

        Args:
            mode: A `TrainingMode`, which is returned as it is; a name, such as `"local"`
                or `"sequential:NAME"`; or a config that `get_config` returned.

        Raises:
            ValueError: If it is anything else, or if the name is unknown.

        Example:

        >>> from keras_e2e import TrainingMode
        >>> TrainingMode.get("sequential:encoder").module
        'encoder'
        """
        if isinstance(mode, cls):
            return mode
        if isinstance(mode, dict):
            return cls.from_config(mode)
        if isinstance(mode, str):
            return cls(cast(ModeName, mode))
        raise ValueError(
            f"Expected a training mode: a TrainingMode or one of {list(NAMES)}. "
            f"Found: {mode!r}."
        )

    def stops(self, boundary: str) -> bool:
        """Returns whether the boundary of this name stops the gradient."""
        if self.name == "mixed":
            return boundary in self.stop
        return self.name in ("local", "sequential")

    def weight(self, boundary: str) -> float:
        """Returns the factor of the local loss at the boundary of this name."""
        if self.name == "end_to_end":
            return 0.0
        if self.name == "sequential" and boundary != self.module:
            return 0.0
        default = 1.0
        if self.name == "mixed" and boundary not in self.stop:
            default = 0.0
        if isinstance(self.weights, tuple):
            return dict(self.weights).get(boundary, default)
        if self.weights is None or default == 0.0:
            return default
        return self.weights

    def names(self) -> set[str]:
        """Returns every name of a boundary or module that the mode mentions."""
        weights = self.weights if isinstance(self.weights, tuple) else ()
        mentioned = {key for key, _ in weights} | set(self.stop)
        return mentioned | ({self.module} if self.module is not None else set())

    def get_config(self) -> dict[str, Any]:
        """Returns a dict that can be written as JSON, for `from_config`."""
        weights = self.weights
        return {
            "name": self.name,
            "weights": dict(weights) if isinstance(weights, tuple) else weights,
            "stop": list(self.stop),
            "module": self.module,
            "reach": self.reach,
        }

    def __str__(self) -> str:
        details = []
        if self.module is not None:
            details.append(self.module)
        if self.reach not in (None, 1):
            details.append(f"reach {self.reach}")
        if self.stop:
            details.append("stop " + ", ".join(self.stop))
        if isinstance(self.weights, tuple):
            details.append(", ".join(f"{k} x{v:g}" for k, v in self.weights))
        elif self.weights is not None:
            details.append(f"x{self.weights:g}")
        return self.name + (f" ({'; '.join(details)})" if details else "")


def _long_form(name: Any, module: str | None) -> tuple[Any, str | None]:
    """Name and module of a mode, also where `"sequential:MODULE"` holds both."""
    if not isinstance(name, str) or not name.startswith("sequential:"):
        return name, module
    name, _, spelled = name.partition(":")
    if module not in (None, spelled):
        raise ValueError(
            f"TrainingMode 'sequential:{spelled}' names the module {spelled!r}, the "
            f"argument `module` names {module!r}: give one of the two."
        )
    return name, spelled


def _check_arguments(name: str, weights: Any, stop: tuple, module: Any, reach: Any) -> None:
    """Raises ValueError for an argument that the named mode does not take."""
    if stop and name != "mixed":
        raise ValueError(
            f"TrainingMode({name!r}, stop={list(stop)}): only 'mixed' takes `stop`. "
            f"Use TrainingMode('mixed', stop={list(stop)}), or leave `stop` out."
        )
    if name == "mixed" and not stop:
        raise ValueError(
            "TrainingMode('mixed') needs `stop`, the names of the boundaries that "
            "stop the gradient. For none use 'end_to_end' or 'deep_supervision'."
        )
    if module is not None and name != "sequential":
        raise ValueError(
            f"TrainingMode({name!r}, module={module!r}): only 'sequential' takes `module`. "
            f"Use TrainingMode('sequential', module={module!r}), or leave `module` out."
        )
    if reach is not None and name != "local":
        raise ValueError(
            f"TrainingMode({name!r}, reach={reach!r}): only 'local' takes `reach`. Use "
            f"TrainingMode('local', reach={reach!r}), or leave `reach` out."
        )
    if name == "end_to_end" and weights is not None:
        raise ValueError(
            "TrainingMode('end_to_end') has no local losses to weigh. For local "
            "losses without stopped gradients use 'deep_supervision'."
        )


def _factor(mode: str, key: str, value: Any) -> float:
    if not isinstance(value, Real) or not 0 <= float(value) < float("inf"):
        raise ValueError(
            f"TrainingMode({mode!r}): the weight {key!r} is {value!r}; expected a "
            "finite number, 0 or larger."
        )
    return float(value)

"""The optimizers that `ModuleOptimizers` holds: which module has which."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_e2e.utils import compat
from keras_e2e.utils.validation import did_you_mean
from keras_e2e.utils.warned import warn_user

EXPECTED = (
    "Expected the name of a Keras optimizer, its config, or an instance, as "
    "compile(optimizer=...) takes it."
)


@dataclasses.dataclass
class OptimizerGroup:
    """A default optimizer, an optimizer for each module, and which variables each has.

    Keras does not look into this object: it would save each optimizer a second time and
    take the model's variables for the optimizer's.

    Attributes:
        default: Optimizer of what belongs to no module; the others are copied from it.
        given: Dict with the optimizers that were given, by module.
        ratios: Dict with the ratios of their learning rates to the default's.
        modules: Dict with all optimizers by module, in order; empty before `bind`.
        module_of: Dict with the module of a variable, by the variable's `id`.
        variables: List of the variables that were built on, in order.
        owners: Dict with the optimizer of each of them, by `id`.
    """

    default: Any
    given: dict[str, Any]
    ratios: dict[str, float]
    modules: dict[str, Any] = dataclasses.field(default_factory=dict)
    module_of: dict[int, str] = dataclasses.field(default_factory=dict)
    variables: list = dataclasses.field(default_factory=list)
    owners: dict[int, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, default: Any, optimizers: Mapping[str, Any]) -> "OptimizerGroup":
        """Makes the group from the arguments of `ModuleOptimizers`.

        Raises:
            ValueError: If an optimizer is invalid; the message names it and a fix.
        """
        default = _optimizer(default, "default")
        given = {m: _optimizer(o, f"optimizers[{m!r}]") for m, o in optimizers.items()}
        owners = {id(default): "default"}
        for module, optimizer in given.items():
            owner = owners.setdefault(id(optimizer), module)
            if owner != module:
                raise ValueError(
                    f"ModuleOptimizers: {owner!r} and {module!r} have one and the same "
                    f"{type(optimizer).__name__}. Give each an instance of its own; "
                    "modules that are not named get copies of the default."
                )
            if optimizer.loss_scale_factor not in (None, default.loss_scale_factor):
                raise ValueError(
                    f"ModuleOptimizers: the optimizer of {module!r} has "
                    f"loss_scale_factor={optimizer.loss_scale_factor}, but there is one "
                    "loss for all modules. Give loss_scale_factor to the default."
                )
        unit = rate_of(default)
        rates = {module: rate_of(optimizer) for module, optimizer in given.items()}
        ratios = {m: r / unit for m, r in rates.items() if unit and r is not None}
        return cls(default, given, ratios)

    def known(self) -> dict[str, Any]:
        """Returns optimizers by module; before `bind` those that were given."""
        return self.modules or self.given

    def all(self) -> list:
        """Returns the default, then those of the modules."""
        return [self.default, *self.known().values()]

    def bind(self, modules: Mapping[str, Sequence]) -> None:
        """Sets the modules, and copies the default for those that were given none."""
        for module in self.given:
            if module not in modules:
                raise ValueError(
                    f"ModuleOptimizers: optimizers names {module!r}, but the model's "
                    f"modules are {list(modules)}.{did_you_mean(module, modules)}"
                )
        self.modules = {
            module: self.given[module] if module in self.given else self._copy(module)
            for module in modules
        }
        self.module_of = {id(v): name for name, vs in modules.items() for v in vs}

    def build(self, variables: Iterable) -> None:
        """Builds each optimizer on its variables; those of no module go to the default."""
        self.variables = list(variables)
        self.owners = {
            id(v): self.modules.get(self.module_of.get(id(v), ""), self.default)
            for v in self.variables
        }
        for optimizer in self.all():
            theirs = self.variables_of(optimizer)
            if theirs:
                optimizer.build(theirs)

    def variables_of(self, optimizer: Any) -> list:
        """Returns the variables that an optimizer updates."""
        return [v for v in self.variables if self.owners[id(v)] is optimizer]

    def split(self, gradients: Iterable, variables: Iterable) -> tuple[list, list]:
        """Sorts gradients by the optimizers that they go to.

        Returns:
            Triples `(optimizer, gradients, variables)` of the optimizers that have a
            gradient at all, and the paths of the variables of the others.

        Raises:
            ValueError: If a variable was not built on.
        """
        groups: dict[int, tuple] = {}
        for gradient, variable in zip(gradients, variables, strict=True):
            optimizer = self.owners.get(id(variable))
            if optimizer is None:
                raise ValueError(
                    "ModuleOptimizers: unknown variable "
                    f"{getattr(variable, 'path', variable)!r}. It was not there, or not "
                    "trainable, when the optimizer was built. Compile the model again, "
                    "with a new ModuleOptimizers."
                )
            group = groups.setdefault(id(optimizer), (optimizer, [], []))
            group[1].append(gradient)
            group[2].append(variable)
        stepping, left_out = [], []
        for group in groups.values():
            if any(gradient is not None for gradient in group[1]):
                stepping.append(group)
            else:
                left_out += [variable.path for variable in group[2]]
        return stepping, left_out

    def apply(self, gradients: Iterable, variables: Iterable, scale: float | None) -> None:
        """Applies gradients, each by the optimizer of its variable.

        Args:
            gradients: List with a gradient, or None, for each variable.
            variables: List of the variables.
            scale: The `loss_scale_factor` of the loss.

        Raises:
            ValueError: If there is no gradient at all.
        """
        stepping, left_out = self.split(gradients, variables)
        if not stepping:
            raise ValueError("No gradients provided for any variable.")  # as Keras
        if left_out:
            warn_user(
                f"Gradients do not exist for the variables of whole modules: {left_out}."
            )
        for optimizer, own, theirs in stepping:
            # There is one loss, and one factor for all.
            optimizer.loss_scale_factor = scale
            optimizer.apply(own, theirs)

    def set_rate(self, rate: Any) -> None:
        """Sets the default's learning rate; the others keep their ratio to it."""
        moved = {m: o for m, o in self.known().items() if rate_of(o) is not None}
        lost = [m for m in moved if m in self.given and m not in self.ratios]
        if lost and rate_of(self.default) is not None:
            raise ValueError(
                "ModuleOptimizers: learning_rate cannot be set, as the default was made "
                f"with learning_rate=0, to which the rates of {lost} have no ratio. Make "
                "it with another rate, and set that to 0."
            )
        # Keras refuses where the default has a schedule.
        self.default.learning_rate = rate
        for module, optimizer in moved.items():
            ratio = self.ratios.get(module, 1.0)
            optimizer.learning_rate = rate_of(self.default) * ratio

    def _copy(self, module: str) -> Any:
        """Returns an optimizer with the settings of the default, for a module."""
        config = self.default.get_config()
        if "name" in config:
            # Keras distinguishes variables by it.
            config["name"] = f"{self.default.name}_{module}"
        copy = type(self.default).from_config(config)
        compat.copy_weight_decay_exclusions(self.default, copy)
        return copy


def rate_of(optimizer: Any) -> Any:
    """Returns the learning rate as a number, or None if it is a schedule."""
    rate = optimizer.learning_rate
    return float(ops.convert_to_numpy(rate)) if isinstance(rate, keras.Variable) else None


def _optimizer(identifier: Any, argument: str) -> Any:
    """Returns the optimizer that an argument stands for.

    Raises:
        ValueError: If the optimizer is unknown or cannot train a module.
    """
    try:
        optimizer = keras.optimizers.get(identifier)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"ModuleOptimizers: {argument}={identifier!r} is not an optimizer. {EXPECTED}"
        ) from error
    if optimizer is None:
        raise ValueError(f"ModuleOptimizers: {argument} is None. {EXPECTED}")
    kind = type(optimizer).__name__
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            f"ModuleOptimizers: {argument} is a {kind}, but there is one loss for all "
            "modules. Wrap the whole: LossScaleOptimizer(ModuleOptimizers(...))."
        )
    # MultiOptimizer, which not every version of Keras has, or another ModuleOptimizers.
    if hasattr(optimizer, "optimizers") or hasattr(optimizer, "optimizer_of"):
        raise ValueError(
            f"ModuleOptimizers: {argument} is a {kind}, which holds optimizers itself. "
            "Give one optimizer; more boundaries make more modules."
        )
    if optimizer.built:
        raise ValueError(
            f"ModuleOptimizers: {argument} ({kind} {optimizer.name!r}) is built on other "
            "variables already. Give a new one: "
            "type(optimizer).from_config(optimizer.get_config())."
        )
    return optimizer

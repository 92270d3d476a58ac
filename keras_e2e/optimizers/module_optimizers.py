"""One optimizer for each module of a modular model."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_e2e.optimizers.optimizer_group import OptimizerGroup
from keras_e2e.utils.validation import did_you_mean


@keras.saving.register_keras_serializable("keras_e2e")
class ModuleOptimizers(keras.optimizers.Optimizer):
    """An optimizer of its own for each module of a modular model.

    The kind of optimizer, learning rate, weight decay, clipping (also `global_clipnorm`),
    gradient accumulation and weight averaging (`use_ema`) are those of the module's
    optimizer. A module is its trainable weights and the head of its objective. A
    module's optimizer counts the steps in which the module is trained: its learning rate
    schedule does not advance while the module is frozen.

    `learning_rate` is that of the default optimizer. Setting it, as callbacks do,
    multiplies the rates of all modules by the same factor: they keep the ratio to the
    default's that they were given. A module with a `LearningRateSchedule` keeps its
    schedule.

    Args:
        default: Name, config or instance of a Keras optimizer, as `compile` takes it. Each
            module that is not in `optimizers` gets a copy, with a state of its own.
        optimizers: Dict from module name to the name, config or instance of an optimizer.
            Defaults to `None`: copies of the default everywhere.
        name: String, name of the optimizer. Defaults to `"module_optimizers"`.

    Raises:
        TypeError: If `optimizers` is not a dict.
        ValueError: If an optimizer is unknown, built already, given twice, holds other
            optimizers, or scales the loss by a factor of its own. When training starts:
            if a name in `optimizers` is not the name of a module.
        RuntimeError: When a step is applied, if the model is not modular.

    Example:

    >>> import keras, keras_e2e as e2e
    >>> base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="encoder"),
    ...                          keras.layers.Dense(1, name="score")])
    >>> model = e2e.modularize(base, ["encoder"])
    >>> adam = keras.optimizers.Adam(0.001, global_clipnorm=1.0)
    >>> optimizer = e2e.ModuleOptimizers(adam, {"encoder": keras.optimizers.SGD(0.1)})
    >>> model.compile(optimizer, "mse")
    >>> optimizer.learning_rate = 0.0005
    >>> round(float(optimizer.optimizer_of("encoder").learning_rate), 6)
    0.05
    """

    built: bool

    def __init__(
        self,
        default: Any,
        optimizers: Mapping[str, Any] | None = None,
        name: str = "module_optimizers",
    ):
        if not isinstance(optimizers, (Mapping, type(None))):
            raise TypeError(
                "ModuleOptimizers: optimizers must be a dict from module name to "
                f"optimizer. Found: {type(optimizers).__name__}."
            )
        held = OptimizerGroup.of(default, optimizers or {})
        super().__init__(
            # A callable, for Keras would make a variable of a number.
            learning_rate=lambda: held.default.learning_rate,
            use_ema=any(optimizer.use_ema for optimizer in held.all()),
            loss_scale_factor=held.default.loss_scale_factor,
            name=name,
        )
        self._held = held
        self.batches_per_step = held.default.gradient_accumulation_steps or 1

    # The modules

    def bind(self, modules: Mapping[str, Sequence[keras.Variable]]) -> None:
        """Sets the modules. The model calls this before it builds the optimizer.

        Args:
            modules: Dict from module name to the module's variables, in order.

        Raises:
            ValueError: If an optimizer was given for a module that does not exist.
            RuntimeError: If the optimizer is built.
        """
        if self.built:
            raise RuntimeError(
                f"{self.name!r} is built on a model's modules already. Make a new "
                "ModuleOptimizers for another model."
            )
        self._held.bind(modules)

    @property
    def accumulates(self) -> bool:
        """Whether some of the optimizers sum up the gradients of several batches."""
        return any(o.gradient_accumulation_steps for o in self._held.all())

    def optimizer_of(self, module: str) -> keras.optimizers.Optimizer:
        """Returns the optimizer of a module.

        Args:
            module: String, name of the module.

        Raises:
            ValueError: If there is no optimizer of this name. Copies of the default are
                made when training starts.
        """
        held = self._held
        known = held.known()
        if module not in known:
            raise ValueError(
                f"{self.name!r} has optimizers for the modules {list(known)}; found "
                f"{module!r}.{did_you_mean(module, known)}"
                + ("" if held.modules else " Copies are made when training starts.")
            )
        return known[module]

    # What Keras asks of an optimizer

    def build(self, variables: list) -> None:
        """Builds the optimizers, unless the modules are not known yet.

        Args:
            variables: List of the model's trainable variables. Those of no module go to
                the default.
        """
        held = self._held
        # Keras builds right after it compiles a loaded model, before `bind`.
        if self.built or not held.modules:
            return
        held.build(variables)
        self.built = True

    @property
    def variables(self) -> list:
        """The variables of all optimizers; before `bind` those of the default alone."""
        held = self._held
        optimizers = held.all() if held.modules else [held.default]
        return [*super().variables, *(v for o in optimizers for v in o.variables)]

    @property
    def iterations(self) -> Any:
        """How many steps were applied, or updates, if the default accumulates gradients."""
        steps, batches = self.batches_per_step, super().iterations
        return ops.floor_divide(batches, steps) if steps > 1 else batches

    @property
    def learning_rate(self) -> Any:
        """The default's learning rate. Setting it multiplies those of all modules alike.

        Raises:
            TypeError: If the default has a schedule, or is to get one.
            ValueError: If the default was made with 0, to which other rates have no ratio.
        """
        return self._held.default.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        if callable(learning_rate):
            raise TypeError(
                f"{self.name!r}: learning_rate can be set to a number only. Found: "
                f"{type(learning_rate).__name__}. Give schedules to the optimizers when "
                "they are made."
            )
        self._held.set_rate(learning_rate)

    def apply(self, grads: Sequence, trainable_variables: Sequence | None = None) -> None:
        """Applies gradients, each by the optimizer of its variable.

        Optimizers without a gradient take no step.

        Args:
            grads: List with a gradient, or None, for each variable.
            trainable_variables: List of variables that the optimizer was built on.
                Defaults to `None`: all of them.

        Raises:
            RuntimeError: If the modules are not known.
            ValueError: If a variable is unknown, or if there is no gradient at all.
        """
        self._refuse_unbuilt()
        held, grads = self._held, list(grads)
        if not grads:
            return
        variables = list(
            held.variables if trainable_variables is None else trainable_variables
        )
        if len(grads) != len(variables):
            raise ValueError(
                f"{self.name!r}: expected a gradient for each of {len(variables)} "
                f"variables. Found: {len(grads)} gradients."
            )
        held.apply(grads, variables, self.loss_scale_factor)
        super().iterations.assign_add(1)

    def stateless_apply(
        self, optimizer_variables: list, grads: list, trainable_variables: list
    ) -> tuple[list, list]:
        """Applies gradients without side effects, as `keras.optimizers.Optimizer` does.

        Args:
            optimizer_variables: List of values of `variables`.
            grads: List with a gradient for each variable that the optimizer was built on.
            trainable_variables: List of the values of those variables.

        Returns:
            The new values of `trainable_variables` and of `optimizer_variables`.

        Raises:
            RuntimeError: If the modules are not known.
            ValueError: If the backend is TensorFlow, where Keras has no such function.
        """
        if keras.backend.backend() == "tensorflow":
            return super().stateless_apply(optimizer_variables, grads, trainable_variables)
        self._refuse_unbuilt()
        own, theirs = self.variables, self._held.variables
        mapping = [
            *zip(theirs, trainable_variables, strict=True),
            *zip(own, optimizer_variables, strict=True),
        ]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            self.apply(grads)
        return (
            [scope.get_current_value(v) for v in theirs],
            [scope.get_current_value(v) for v in own],
        )

    def _refuse_unbuilt(self) -> None:
        if not self.built:
            raise RuntimeError(
                f"{self.name!r}: ModuleOptimizers trains the modules of a modular model, "
                "and this model has no modules. Compile keras_e2e.modularize(model, "
                "boundaries) with it; for a stock model use the default optimizer itself."
            )

    def finalize_variable_values(self, var_list: Sequence) -> None:
        """Writes the averaged weights of the optimizers that keep them (`use_ema`).

        Args:
            var_list: List of the model's variables; each optimizer takes its own.
        """
        held = self._held
        for optimizer in held.all():
            # One that has never taken a step has averaged nothing: its averages are 0.
            if optimizer.use_ema and optimizer.built and _has_stepped(optimizer):
                optimizer.finalize_variable_values(held.variables_of(optimizer))

    def exclude_from_weight_decay(self, var_list=None, var_names=None) -> None:
        """Excludes variables from weight decay in every optimizer, before training."""
        for optimizer in self._held.all():
            optimizer.exclude_from_weight_decay(var_list, var_names)

    def set_weights(self, weights: Sequence) -> None:
        """Sets the values of `variables`, once the optimizer is built."""
        self._refuse_unbuilt()
        for variable, value in zip(self.variables, weights, strict=True):
            variable.assign(value)

    def get_config(self) -> dict:
        held = self._held
        return {
            "name": self.name,
            "default": keras.saving.serialize_keras_object(held.default),
            "optimizers": {
                module: keras.saving.serialize_keras_object(optimizer)
                for module, optimizer in held.given.items()
            },
            # They could not be computed from rates that are 0.
            "learning_rate_ratios": dict(held.ratios),
        }

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> Any:
        made = functools.partial(
            keras.saving.deserialize_keras_object, custom_objects=custom_objects
        )
        given = {module: made(o) for module, o in config["optimizers"].items()}
        optimizer = cls(made(config["default"]), given, name=config["name"])
        optimizer._held.ratios = dict(config["learning_rate_ratios"])
        return optimizer


def _has_stepped(optimizer: Any) -> bool:
    return int(ops.convert_to_numpy(optimizer.iterations)) > 0

"""What every modular model does in training: the modes, and the loss in each of them."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from keras_e2e.diagnostics.quantity import Quantity
from keras_e2e.diagnostics.quantity_checks import check_quantities
from keras_e2e.modules.forward_record import ForwardRecord
from keras_e2e.modules.module import ModuleSpec
from keras_e2e.modules.resolve_mode import refuse_averages, resolve_mode
from keras_e2e.modules.step_context import context_of
from keras_e2e.modules.training_mode import ModeName, TrainingMode
from keras_e2e.objectives.base import OutputSpec
from keras_e2e.trainers.agreement import agree_on_step, refuse_other_modules
from keras_e2e.trainers.backend import ModularStep, instrument
from keras_e2e.trainers.build_heads import build_heads
from keras_e2e.trainers.build_optimizer import build_optimizer
from keras_e2e.trainers.compiled_names import refuse_boundary_names
from keras_e2e.trainers.forward_pass import forward, record_pass
from keras_e2e.trainers.local_losses import compiled_outputs
from keras_e2e.trainers.logs import ModularLogs
from keras_e2e.trainers.module_parallel import (
    batches_at_once,
    refuse_coupled,
    several_at_once,
)
from keras_e2e.trainers.state import ModularState
from keras_e2e.trainers.step_loss import evaluation_loss, step_loss, sum_of_penalties
from keras_e2e.trainers.strategies import refuse_other_scope, refuse_strategy
from keras_e2e.trainers.targets import StepTargets, split_targets
from keras_e2e.utils.compat import calls

if TYPE_CHECKING:
    from keras import Model
else:
    # Keras rewrites the bases of a functional model's class, so `keras.Model` may stand at
    # the end of each model class only, never in a base that several of them share.
    Model = object


class ModularTrainer(ModularLogs, ModularStep, Model):
    """The training of modular models: a base class in front of `keras.Model`.

    A class that uses it makes `_modular`, calls `_set_modules` once its modules are
    known, and implements `_plain_call` and `_sequential_call`.
    """

    _modular: ModularState

    def _plain_call(self, inputs, training, mask, **kwargs) -> Any:
        """The model's own call."""
        raise NotImplementedError

    def _sequential_call(self, inputs, module, mask, **kwargs) -> Any:
        """A call up to the end of one module, with those before it in inference mode."""
        raise NotImplementedError

    def _set_modules(
        self, specs: list[ModuleSpec], inputs: list, outputs: list[OutputSpec]
    ) -> None:
        """Builds the heads of the objectives and takes the modules."""
        refuse_strategy(self)
        refuse_other_modules(self, [spec.module for spec in specs])
        build_heads(specs, inputs, outputs)
        self._modular.set_modules([spec.module for spec in specs], outputs)

    # Modes

    @property
    def training_mode(self) -> TrainingMode:
        """The `TrainingMode` in force. It can be set at any time, also during `fit`.

        Set it to a name (`"local"`, `"sequential:MODULE"`) or to a `TrainingMode`; one that
        does not fit the model raises a ValueError and changes nothing. The first step in a
        new mode is traced; going back to a mode costs nothing.
        """
        return self._modular.mode

    @training_mode.setter
    def training_mode(self, mode: TrainingMode | ModeName) -> None:
        mode = self.check_training_mode(mode)
        state = self._modular
        self._log_losses_of(mode)
        if mode != state.mode:
            state.mode = mode
            if state.recorder is not None:
                state.recorder.reset(everything=False)

    def check_training_mode(self, mode: TrainingMode | ModeName) -> TrainingMode:
        """Returns the mode that setting `training_mode` would put in force.

        Raises:
            ValueError: If the mode is unknown or does not fit the model.
        """
        mode = TrainingMode.get(mode)
        refuse_averages(self.name, mode, getattr(self, "optimizer", None))
        modules = self._modular.modules
        # A wrapper that has not seen data yet knows none; it is checked then.
        return resolve_mode(mode, modules) if modules else mode

    # Compiled steps and diagnostics

    @property
    def trace_counts(self) -> dict[tuple[str, int], int]:
        """Dict from (mode, number of measured quantities) to how often a step was traced.

        Going back to a mode does not change its count. Steps that run eagerly count each
        time.
        """
        return dict(self._modular.steps.traces)

    def instrument(self, quantities: Iterable[Quantity]) -> Any:
        """Prepares *instrumented* steps: training steps that can also measure quantities.

        `ModuleDiagnostics` calls it. A step measures nothing until `request_diagnostics`
        is called. Equal quantities of several callers are shared.

        Args:
            quantities: List of `diagnostics.Quantity` objects.

        Returns:
            The recorder of the numbers, with `module_names` and `columns`.

        Raises:
            RuntimeError: If the modules are not known yet.
            TypeError: If something else is given than complete `Quantity` objects.
            ValueError: If there are none, or two of one name, in this call or this `fit`.
        """
        return instrument(self, check_quantities(f"{self.name}: instrument", quantities))

    def request_diagnostics(self, names: Iterable[str] | None = None) -> None:
        """Makes the next execution of `fit` measure quantities given to `instrument`.

        Args:
            names: List of names of quantities; requests add up. Defaults to `None`: all
                quantities without a schedule of their own. Unknown names are refused.
        """
        recorder = self._modular.recorder
        if recorder is None:
            raise RuntimeError(
                f"{self.name}: no quantities to measure. Call instrument(quantities) "
                "first, then request_diagnostics()."
            )
        self._modular.steps.request(recorder.quantities_named(names))

    def read_diagnostics(self) -> dict[str, dict[str, float]]:
        """Returns the numbers of the latest instrumented execution, by name and module.

        There is no entry where a quantity does not apply to a module or was not measured;
        NaN and infinity are kept. It takes one transfer from the device.
        """
        recorder = self._modular.recorder
        return {} if recorder is None else recorder.read()

    def make_train_function(self, force=False):
        # Not in `compile`: Keras does not compile a loaded model that overrides it.
        state = self._modular
        refuse_other_scope(self)
        refuse_averages(self.name, state.mode, getattr(self, "optimizer", None))
        refuse_boundary_names(self)
        refuse_coupled(self)
        if state.modules:
            # Callbacks that load weights and JAX's trainer want the variables to be there.
            self._build_optimizer()
        if state.recorder is not None:
            state.recorder.begin_fit()
        if self.train_function is None or force:
            state.steps.clear()
            state.loss_logs.build(self)
            self.train_function = self._run_step
        state.loss_logs.begin(state)
        return self.train_function

    def _run_step(self, *args):
        batches = batches_at_once(self)
        agree_on_step(self, batches)
        return self._modular.run_step(self._compile_step, batches, *args)

    def _compile_step(self, batches: int | None, *args) -> Callable:
        self._build_optimizer()
        with self._making_step(*args):
            super().make_train_function(force=True)
        compiled, self.train_function = self.train_function, self._run_step
        return compiled if batches is None else several_at_once(self, batches, compiled)

    def _build_optimizer(self) -> None:
        build_optimizer(self)

    def compile_from_config(self, config):
        """As in Keras; also builds an optimizer that waits for the modules.

        Its variables must exist before their saved values are loaded.
        """
        super().compile_from_config(config)
        if self._modular.modules and self.built:
            self._build_optimizer()

    # The forward pass and the loss

    def call(self, inputs, training=None, mask=None, **kwargs):
        return forward(self, inputs, training, mask, **kwargs)

    def forward_record(
        self, x: Any, *, training: bool = False, tap: Callable[[Any], Any] | None = None
    ) -> ForwardRecord:
        """Runs the model and returns what crossed its boundaries.

        It has no side effects: no weight, statistic, metric or seed is updated. The
        boundaries are the identity, whatever the training mode.

        Args:
            x: A batch of inputs, as the model takes them.
            training: Boolean, whether layers such as dropout run in training mode.
                Defaults to `False`.
            tap: Function applied to the output tensor of each boundary, before the next
                module takes it. Defaults to `None`, the identity.

        Returns:
            A `ForwardRecord`: `activations(name)`, `crossings`, `outputs`, `penalties`.

        Raises:
            RuntimeError: If the modules of a subclassed model are not known yet.

        Example:

        >>> import keras, numpy as np, keras_e2e as e2e
        >>> base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="code"),
        ...                          keras.layers.Dense(1)])
        >>> record = e2e.modularize(base, ["code"]).forward_record(np.ones((2, 8)))
        >>> [tuple(activation.shape) for activation in record.activations("code")]
        [(2, 4)]
        """
        self._refuse_unknown_modules("forward_record")
        return record_pass(self, x, training, tap)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Returns the compiled loss plus, in training, the local losses of the mode.

        In evaluation it is the compiled loss alone, so that `val_loss` means the same
        in every mode.
        """

        def task_loss(given: StepTargets) -> Any:
            if y_pred is None and self._modular.stops_before_outputs():
                return sum_of_penalties(self)
            return super(ModularTrainer, self).compute_loss(
                x=x,
                y=given.y,
                y_pred=y_pred,
                sample_weight=given.sample_weight,
                training=training,
            )

        given = self._split(y, sample_weight)
        if training:
            return step_loss(self, task_loss, x, given, y_pred)
        return evaluation_loss(self, task_loss, x, given)

    def _has_own_loss(self) -> bool:
        """Whether a subclass computes the loss in another way."""
        return type(self).compute_loss is not ModularTrainer.compute_loss

    @property
    def losses(self):
        """As in Keras, without the penalties of heads that do not count."""
        state = self._modular
        idle: list = [*state.idle_objectives(context_of(state).testing)]
        if getattr(self, "compiled", False):
            idle += state.idle_networks(compiled_outputs(self))
        return calls.losses_without(self, idle) if idle else super().losses

    def _refuse_unknown_modules(self, what: str) -> None:
        if not self._modular.modules:
            raise RuntimeError(
                f"{self.name!r}: {what} needs the modules, which are not known yet. Call "
                "model.examine(x_of_a_few_examples) first."
            )

    def _in_order(self, x: Any) -> Any:
        """The inputs in the structure that the model takes."""
        return x

    def _split(self, y, sample_weight) -> StepTargets:
        state = self._modular
        aliases = getattr(self, "output_names", None) or ()
        return split_targets(
            y,
            sample_weight,
            state.boundary_names(),
            state.keys(),
            aliases,
            single=state.single_output,
        )

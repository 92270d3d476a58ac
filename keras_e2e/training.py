"""What every modular model does: modes, local losses, one function for each mode."""

import contextlib
import threading
from collections.abc import Iterable
from typing import Any

import keras
from keras import ops, tree

from keras_e2e import _compat, labels
from keras_e2e.boundary import Collector, ModuleBoundary, collecting
from keras_e2e.diagnostics.quantity import Quantity
from keras_e2e.fitting import fitting, refuse_averages
from keras_e2e.local_loss import local_loss, outputs_of, refuse_missing
from keras_e2e.modes import TrainingMode
from keras_e2e.objectives.base import ModelSpec, OutputSpec
from keras_e2e.partition import Module
from keras_e2e.step import ModularStep
from keras_e2e.summary import print_modules


class _Forward(threading.local):
    """The latest training pass of this thread, until its loss is computed."""

    model: Any = None
    collector: Collector | None = None


_forward = _Forward()


class ModularTraining(ModularStep):
    """What every modular model does: modes, local losses, diagnostics.

    A mixin in front of `keras.Model`. A class that uses it calls `_set_modules` once
    its modules are known.
    """

    def _set_modules(
        self,
        modules: list[Module],
        module_inputs: dict[str, Any],
        inputs: list,
        outputs: list[OutputSpec],
        activations: dict[str, Any],
    ) -> None:
        """Notes the modules and builds the heads of their objectives."""
        state = self._modular
        owners: dict[int, str] = {}
        for module in modules:
            if module.objective is None:
                continue
            owner = owners.setdefault(id(module.objective), module.name)
            if owner != module.name:
                raise ValueError(
                    f"Boundaries {owner!r} and {module.name!r} share one objective, so "
                    "they would share its head. Give each an objective of its own."
                )
        state.modules = modules
        state.outputs = outputs
        state.known = {id(m.boundary) for m in modules if m.boundary is not None}
        for module in modules:
            if module.boundary is None or module.objective is None:
                continue
            spec = ModelSpec(module_inputs[module.name], inputs, tuple(outputs))
            try:
                with keras.name_scope(module.boundary.name):
                    module.objective.build_for(activations[module.name], spec)
            except ValueError as error:
                raise ValueError(
                    f"The objective of boundary {module.name!r} cannot be built: "
                    f"{error} (objective=False only marks the place.)"
                ) from error

    # Modes

    @property
    def training_mode(self) -> TrainingMode:
        """The training mode in force; set it at any time, also during `fit`.

        Takes a name, `"sequential:MODULE"` or a `TrainingMode`. The first step in a
        new mode is traced; going back to a mode costs nothing.
        """
        return self._modular.mode

    @training_mode.setter
    def training_mode(self, mode: TrainingMode | str) -> None:
        mode = self._check_mode(TrainingMode.get(mode))
        state = self._modular
        if mode != state.mode:
            state.mode = mode
            if state.recorder is not None:
                state.recorder.reset()

    def check_training_mode(self, mode: TrainingMode | str) -> TrainingMode:
        """The mode that setting `training_mode` would put in force.

        Raises:
            ValueError: the mode does not fit this model; nothing is changed.
        """
        return self._check_mode(TrainingMode.get(mode))

    def _check_mode(self, mode: TrainingMode) -> TrainingMode:
        refuse_averages(self.name, mode, getattr(self, "optimizer", None))
        modules = self._modular.modules
        # A wrapper that has not seen data yet knows none; it is checked then.
        return fitting(mode, modules) if modules else mode

    # Modules

    @property
    def modules(self) -> list[Module]:
        """The modules, in order: name, layers, variables, parameters, objective."""
        return list(self._modular.modules)

    @property
    def boundaries(self) -> dict[str, ModuleBoundary]:
        """The boundaries by name, in order."""
        return {m.name: m.boundary for m in self._modular.modules if m.boundary is not None}

    def module_summary(self, print_fn: Any = None) -> None:
        """Prints a table of the modules.

        Args:
            print_fn: called with the table as one string; None prints it.
        """
        print_modules(self, print_fn)

    @property
    def trace_counts(self) -> dict[tuple[str, bool], int]:
        """How often each step was traced, by (mode, with diagnostics or not).

        Switching back to a mode leaves its count at what it was. Steps that run
        eagerly count each time.
        """
        return dict(self._modular.traces)

    # The step, as far as it is the same on every backend

    def call(self, inputs, training=None, mask=None, **kwargs):
        state = self._modular
        if not training or not state.modules or not state.collects():
            return self._plain_call(inputs, training, mask, **kwargs)
        collector = Collector(
            state.mode.stops, state.known, tap=state.tap(), freezes=self._freezes()
        )
        with collecting(collector):
            if state.mode.name == "sequential":
                outputs = self._sequential_call(inputs, state.mode.module, mask, **kwargs)
            else:
                outputs = self._plain_call(inputs, training, mask, **kwargs)
        _forward.model, _forward.collector = self, collector
        return outputs

    def _freezes(self):
        return None

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The compiled loss plus, while training, the local losses of the mode.

        In evaluation it is the compiled loss alone, so that `val_loss` means the same
        in every mode.
        """
        own_y, own_weight, given, weights = self._split(y, sample_weight)
        state = self._modular
        if own_y is None and given and not state.skips_outputs():
            raise ValueError(
                f"y holds labels for {sorted(given)} but no targets for the model's "
                f"output {state.keys()}, whose loss counts in mode '{state.mode}'. Give "
                "them too, or train that module alone: 'sequential:NAME'."
            )
        active = [m for m in state.modules if training and state.weight(m)]
        for module in active:
            # Before anything is computed: Keras's own error would not name the module.
            refuse_missing(module, own_y, given.get(module.name))
        if y_pred is None and state.skips_outputs():
            penalties = [ops.sum(penalty) for penalty in self.losses]
            total = sum(penalties[1:], penalties[0]) if penalties else None
        else:
            total = super().compute_loss(
                x=x, y=own_y, y_pred=y_pred, sample_weight=own_weight, training=training
            )
        if not training or not state.collects():
            return total
        if not state.modules:
            raise RuntimeError(
                f"{self.name!r}: training mode '{state.mode}' needs the modules, which "
                "are not known yet. Call model.examine(x_of_a_few_examples) first."
            )
        collector = self._take_forward()
        collector.task_loss = total
        outputs = outputs_of(self, state.keys(), own_y, own_weight)
        terms = [] if total is None else [total]
        for module in active:
            loss = local_loss(
                module,
                collector,
                x,
                self._flat_inputs(x),
                outputs,
                given.get(module.name),
                weights.get(module.name, _single(own_weight)),
            )
            collector.losses[module.name] = loss
            terms.append(loss * state.weight(module))
        # One sum, not a chain of additions: TensorFlow reorders those in steps that do
        # not read the single losses.
        return ops.sum(ops.stack(terms)) if len(terms) > 1 else next(iter(terms), None)

    def _flat_inputs(self, x: Any) -> list:
        return tree.flatten(x)

    def _take_forward(self) -> Collector:
        if _forward.model is not self or _forward.collector is None:
            raise RuntimeError(
                f"{self.name}: compute_loss(training=True) adds the local losses of "
                "the latest call of the model with training=True in this thread, and "
                "there was none. Call the model first, in the same step."
            )
        return _forward.collector

    def _forget_forward(self) -> None:
        """Lets go of the latest pass, whose tensors no later step may use."""
        _forward.model = _forward.collector = None

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        own_y, own_weight, _, _ = self._split(y, sample_weight)
        if y_pred is None and self._modular.skips_outputs():
            # No prediction was made: report the loss only, not stale metrics.
            return {"loss": _compat.loss_tracker(self).result()}
        return super().compute_metrics(x, own_y, y_pred, own_weight)

    def get_metrics_result(self):
        """As in Keras, also before a metric has seen its first prediction."""
        if self._modular.skips_outputs() and not all(
            getattr(metric, "built", True) for metric in self.metrics
        ):
            return {"loss": _compat.loss_tracker(self).result()}
        return super().get_metrics_result()

    def _split(self, y, sample_weight):
        state = self._modular
        if not (isinstance(y, dict) or isinstance(sample_weight, dict)):
            return y, sample_weight, {}, {}
        names = [m.name for m in state.modules if m.boundary is not None]
        aliases = getattr(self, "output_names", None) or ()
        keys, single = state.keys(), state.single_output
        y, given = labels.split(y, names, keys, aliases, single=single)
        sample_weight, weights = labels.split(
            sample_weight, names, keys, aliases, single=single, what="sample_weight"
        )
        return y, sample_weight, given, weights

    # Diagnostics

    def instrument(self, quantities: Iterable[Quantity]) -> Any:
        """Prepares steps that compute `quantities`; returns their recorder.

        Steps stay without diagnostics until `request_diagnostics` is called.

        Raises:
            RuntimeError: this backend has no instrumented step.
        """
        return self._instrument(list(quantities))

    def request_diagnostics(self) -> None:
        """Makes the next execution of `fit` compute the instrumented quantities."""
        state = self._modular
        if state.recorder is None:
            raise RuntimeError(
                f"{self.name}: call instrument(quantities) first, then "
                "request_diagnostics()."
            )
        state.due = True

    # One compiled function for each (mode, with diagnostics or not)

    def make_train_function(self, force=False):
        # Not in `compile`: Keras does not compile a loaded model that overrides it.
        optimizer = getattr(self, "optimizer", None)
        refuse_averages(self.name, self._modular.mode, optimizer)
        if self.train_function is not None and not force:
            return self.train_function
        self._modular.functions.clear()
        self.train_function = self._run_step
        return self.train_function

    def _run_step(self, *args):
        state = self._modular
        key = (state.mode, state.due)
        state.due = False
        if key not in state.functions:
            self._build_optimizer()
            super().make_train_function(force=True)
            state.functions[key] = self.train_function
            self.train_function = self._run_step
        state.instrumented = key[1]
        try:
            return state.functions[key](*args)
        finally:
            state.instrumented = False

    def _build_optimizer(self):
        """Builds the optimizer on all variables, the heads of idle objectives too.

        Left to its first apply, it would know only those of the first mode.
        """
        if self.optimizer is not None and not self.optimizer.built:
            with strategy_scope(self):
                self.optimizer.build(self.trainable_variables)


def strategy_scope(model: keras.Model) -> Any:
    """The scope of the strategy that a model was made under, for new variables."""
    strategy = getattr(model, "distribute_strategy", None)
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def _single(weight: Any) -> Any:
    """Sample weights that hold for every example, or None."""
    return None if isinstance(weight, (dict, list, tuple)) else weight

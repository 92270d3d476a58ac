"""What every modular model does: modes, local losses, one function for each mode."""

import contextlib
import threading
from collections.abc import Iterable
from typing import Any

import keras
from keras import ops, tree

from keras_e2e import _compat, labels
from keras_e2e.boundary import Collector, ModuleBoundary, collecting
from keras_e2e.building import build_objectives
from keras_e2e.diagnostics.quantity import Quantity
from keras_e2e.evaluation import ModuleEvaluation
from keras_e2e.fitting import fitting, refuse_averages
from keras_e2e.local_loss import (
    activations,
    local_loss,
    naming,
    outputs_of,
    refuse_missing,
)
from keras_e2e.modes import TrainingMode
from keras_e2e.objectives.base import Batch, Output, OutputSpec
from keras_e2e.optimizers import ModuleOptimizers
from keras_e2e.partition import Module
from keras_e2e.step import ModularStep
from keras_e2e.summary import print_modules


class _Forward(threading.local):
    """The latest training pass of this thread, until its loss is computed."""

    model: Any = None
    collector: Collector | None = None


_forward = _Forward()


class ModularTraining(ModuleEvaluation, ModularStep):
    """What every modular model does: modes, local losses, diagnostics, evaluation.

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
        rests: dict[str, tuple],
    ) -> None:
        """Notes the modules and builds the heads of their objectives."""
        build_objectives(modules, module_inputs, inputs, outputs, activations, rests)
        state = self._modular
        state.modules = modules
        state.outputs = outputs
        state.known = {id(m.boundary) for m in modules if m.boundary is not None}

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
        if not training and self._measured(training=False):
            collector = Collector(state.known)
            with collecting(collector):
                outputs = self._plain_call(inputs, training, mask, **kwargs)
            _forward.model, _forward.collector = self, collector
            return outputs
        if not training or not state.modules or not self._collects():
            return self._plain_call(inputs, training, mask, **kwargs)
        flow = state.flow()
        collector = Collector(
            state.known,
            flow.stopping,
            tap=state.tap(),
            freezes=self._freezes(),
            listeners=flow.listeners,
            outputs=self._targets(),
        )
        outputs = self._pass(inputs, mask, collector, **kwargs)
        _forward.model, _forward.collector = self, collector
        return outputs

    def _pass(self, inputs, mask, collector, **kwargs):
        """Runs the modules that train, noting what crosses the boundaries."""
        state = self._modular
        with collecting(collector):
            if state.mode.name == "sequential":
                return self._sequential_call(inputs, state.mode.module, mask, **kwargs)
            outputs = self._plain_call(inputs, True, mask, **kwargs)
            return collector.hear_outputs(state.modules[-1].name, outputs)

    def _targets(self) -> tuple[Output, ...]:
        """The targets of the step under way, where an objective predicts from them.

        None are known outside of a `train_step`.
        """
        state = self._modular
        if not any(
            m.objective and m.objective.listens == "boundary" for m in state.modules
        ):
            return ()
        y, sample_weight, _, _ = self._split(*state.targets())
        return outputs_of(self, state.keys(), y, sample_weight)

    def _views(self, active: list[Module], batch: Batch) -> dict:
        """Makes the further passes that objectives ask for, each once."""
        state = self._modular
        wanted: dict = {}
        for module in active:
            assert module.objective is not None, "an active module has one"
            for key, inputs_of in module.objective.views().items():
                wanted.setdefault(key, (module.name, inputs_of))
        made = {}
        for key, (name, inputs_of) in wanted.items():
            stopping = state.flow().stopping
            made[key] = Collector(state.known, stopping, freezes=self._freezes())
            with naming(name):
                inputs = inputs_of(batch)
            self._pass(inputs, None, made[key])
        return made

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
        measured = self._measured(training)
        if not training:
            if measured:
                outputs = outputs_of(self, state.keys(), own_y, own_weight)
                batch = Batch(x, outputs, None, None, None, training=False)
                self._measure(measured, batch, given)
            return total
        if not self._collects():
            return total
        if not state.modules:
            raise RuntimeError(
                f"{self.name!r}: training mode '{state.mode}' needs the modules, which "
                "are not known yet. Call model.examine(x_of_a_few_examples) first."
            )
        collector = self._take_forward()
        collector.task_loss = total
        outputs = outputs_of(self, state.keys(), own_y, own_weight)
        batch = Batch(x, outputs, None, _single(own_weight), None)
        views = self._views(active, batch)
        collector.terms = {} if total is None else {state.modules[-1].name: total}
        for module in active:
            own = batch._replace(
                labels=given.get(module.name),
                sample_weight=weights.get(module.name, batch.sample_weight),
            )
            flat = self._flat_inputs(x)
            loss = local_loss(module, collector, flat, own, views)
            collector.losses[module.name] = loss
            factor = state.weight(module) * module.objective.weight_now()
            collector.terms[module.name] = loss * factor
            module.objective.advance_weight()
        # Those that count have measured while they computed their loss.
        self._measure([m for m in measured if not state.weight(m)], batch, given)
        terms = list(collector.terms.values())
        # One sum, not a chain of additions: TensorFlow reorders those in steps that do
        # not read the single losses.
        return ops.sum(ops.stack(terms)) if len(terms) > 1 else next(iter(terms), None)

    # Metrics of the modules' own heads

    @property
    def metrics(self):
        # Keras lists a metric of a layer inside of a layer more than once, and JAX's
        # trainer then gives its variables away twice.
        return list({id(metric): metric for metric in super().metrics}.values())

    def test_step(self, *args):
        # `predict` calls the model just so, and wants nothing of the heads.
        self._modular.local.testing = True
        try:
            return super().test_step(*args)
        finally:
            self._modular.local.testing = False
            self._forget_forward()

    def _testing(self) -> bool:
        return getattr(self._modular.local, "testing", False)

    def _measured(self, training: bool) -> list[Module]:
        """The modules whose metrics were asked for and are updated in this step."""
        state = self._modular
        asked = [m for m in state.modules if m.objective and m.objective.asked_metrics()]
        if not training:
            return asked if self._testing() else []
        if not asked or state.mode.name != "sequential":
            return asked
        inputs = {m.name: m.inputs for m in state.modules}
        crossed, pending = {state.mode.module}, [state.mode.module]
        while pending:
            upstream = set(inputs[pending.pop()]) - crossed
            crossed |= upstream
            pending += upstream
        return [m for m in asked if m.name in crossed]

    def _collects(self) -> bool:
        return self._modular.collects() or bool(self._measured(training=True))

    def _measure(self, modules: list[Module], batch: Batch, given: dict) -> None:
        """Updates the metrics of modules whose loss does not count in this step."""
        for module in modules:
            assert module.objective is not None, "its metrics were asked for"
            own = batch._replace(labels=given.get(module.name))
            for activation in activations(module, self._take_forward()):
                module.objective.measure(activation, own)

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
        state = self._modular
        measured = self._measured(training=not self._testing())
        current = {metric.name: metric.result() for metric in _asked(measured)}
        if y_pred is None and state.skips_outputs():
            # No prediction was made: report the loss only, not stale metrics.
            return {"loss": _compat.loss_tracker(self).result(), **current}
        logs = super().compute_metrics(x, own_y, y_pred, own_weight)
        stale = {metric.name for metric in _asked(state.modules)} - set(current)
        return {name: value for name, value in logs.items() if name not in stale}

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
        if self._modular.modules:
            # Callbacks that load weights and JAX's trainer want the variables to be there.
            self._build_optimizer()
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
        optimizer = getattr(self, "optimizer", None)
        if optimizer is None:
            return
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        with strategy_scope(self):
            if isinstance(inner, ModuleOptimizers) and not inner.built:
                inner.bind(
                    {
                        m.name: [*m.trainable_variables, *m.head_variables]
                        for m in self._modular.modules
                    }
                )
                # A LossScaleOptimizer that Keras built before the modules were known
                # would not build it again.
                inner.build(self.trainable_variables)
            if not optimizer.built:
                optimizer.build(self.trainable_variables)

    def compile_from_config(self, config):
        """As in Keras; an optimizer that waits for the modules is built here.

        Its variables must be there before the saved ones are loaded.
        """
        super().compile_from_config(config)
        if self._modular.modules and self.built:
            self._build_optimizer()


def strategy_scope(model: keras.Model) -> Any:
    """The scope of the strategy that a model was made under, for new variables."""
    strategy = getattr(model, "distribute_strategy", None)
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def _asked(modules: list[Module]) -> list[keras.metrics.Metric]:
    """The metrics that the objectives of modules were asked for."""
    return [
        metric for m in modules if m.objective for metric in m.objective.asked_metrics()
    ]


def _single(weight: Any) -> Any:
    """Sample weights that hold for every example, or None."""
    return None if isinstance(weight, (dict, list, tuple)) else weight

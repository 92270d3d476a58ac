"""What every modular model does: the modes, and the loss of a step in each of them."""

import threading
from typing import Any

from keras import ops, tree

from keras_e2e.models.evaluation import ModuleEvaluation
from keras_e2e.models.summary import print_modules
from keras_e2e.modules.boundary import Collector, ModuleBoundary, collecting
from keras_e2e.modules.graph import Module
from keras_e2e.modules.mode_fit import fitting, refuse_averages
from keras_e2e.modules.training_mode import ModeName, TrainingMode
from keras_e2e.objectives.base import Batch, Output, OutputSpec
from keras_e2e.trainers import targets
from keras_e2e.trainers.backend import ModularStep
from keras_e2e.trainers.build_heads import build_objectives
from keras_e2e.trainers.compiled_steps import TrainFunctions
from keras_e2e.trainers.local_losses import (
    build_outputs,
    error_context,
    local_loss,
    refuse_missing,
)
from keras_e2e.trainers.local_metrics import Measuring


class _Forward(threading.local):
    """The latest training pass of this thread, until its loss is computed."""

    model: Any = None
    collector: Collector | None = None


_forward = _Forward()


class ModularTraining(ModuleEvaluation, TrainFunctions, Measuring, ModularStep):
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
    def training_mode(self, mode: TrainingMode | ModeName) -> None:
        mode = self._check_mode(TrainingMode.get(mode))
        state = self._modular
        if mode != state.mode:
            state.mode = mode
            if state.recorder is not None:
                state.recorder.reset(everything=False)

    def check_training_mode(self, mode: TrainingMode | ModeName) -> TrainingMode:
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
    def trace_counts(self) -> dict[tuple[str, int], int]:
        """How often each step was traced, by (mode, how much of the diagnostics).

        That is 0 for none, 1 for a reading and 2 for one with what is periodic.

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
            return collector.inject_output_feedback(state.modules[-1].name, outputs)

    def _targets(self) -> tuple[Output, ...]:
        """The targets of the step under way, where an objective predicts from them.

        None are known outside of a `train_step`.
        """
        state = self._modular
        if not any(
            m.objective and m.objective.feedback_source == "boundary" for m in state.modules
        ):
            return ()
        y, sample_weight, _, _ = self._split(*state.targets())
        return build_outputs(self, state.keys(), y, sample_weight)

    def _views(self, active: list[Module], batch: Batch) -> dict:
        """Makes the further passes that objectives ask for, each once."""
        state = self._modular
        wanted: dict = {}
        for module in active:
            assert module.objective is not None, "an active module has one"
            for key, inputs_of in module.objective.extra_inputs().items():
                wanted.setdefault(key, (module.name, inputs_of))
        made = {}
        for key, (name, inputs_of) in wanted.items():
            stopping = state.flow().stopping
            made[key] = Collector(state.known, stopping, freezes=self._freezes())
            with error_context(name):
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
        if own_y is None and given and not state.stops_before_outputs():
            raise ValueError(
                f"y holds labels for {sorted(given)} but no targets for the model's "
                f"output {state.keys()}, whose loss counts in mode '{state.mode}'. Give "
                "them too, or train that module alone: 'sequential:NAME'."
            )
        active = [m for m in state.modules if training and state.weight(m)]
        for module in active:
            # Before anything is computed: Keras's own error would not name the module.
            refuse_missing(module, own_y, given.get(module.name))
        if y_pred is None and state.stops_before_outputs():
            penalties = [ops.sum(penalty) for penalty in self.losses]
            total = sum(penalties[1:], penalties[0]) if penalties else None
        else:
            total = super().compute_loss(
                x=x, y=own_y, y_pred=y_pred, sample_weight=own_weight, training=training
            )
        measured = self._measured(training)
        if not training:
            if measured:
                outputs = build_outputs(self, state.keys(), own_y, own_weight)
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
        outputs = build_outputs(self, state.keys(), own_y, own_weight)
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

    def _split(self, y, sample_weight):
        state = self._modular
        if not (isinstance(y, dict) or isinstance(sample_weight, dict)):
            return y, sample_weight, {}, {}
        names = [m.name for m in state.modules if m.boundary is not None]
        aliases = getattr(self, "output_names", None) or ()
        keys, single = state.keys(), state.single_output
        y, given = targets.split(y, names, keys, aliases, single=single)
        sample_weight, weights = targets.split(
            sample_weight, names, keys, aliases, single=single, what="sample_weight"
        )
        return y, sample_weight, given, weights


def _single(weight: Any) -> Any:
    """Sample weights that hold for every example, or None."""
    return None if isinstance(weight, (dict, list, tuple)) else weight

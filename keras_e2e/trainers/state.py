"""What a modular model keeps besides what Keras tracks."""

from collections.abc import Callable
from typing import Any, NamedTuple

from keras.layers import Layer

from keras_e2e.modules.gradient_flow import GradientFlow, gradient_flow
from keras_e2e.modules.module import Module
from keras_e2e.modules.step_context import context_of
from keras_e2e.modules.training_mode import TrainedBy, TrainingMode
from keras_e2e.objectives.base import LocalObjective, Output, OutputSpec
from keras_e2e.trainers.compiled_steps import CompiledSteps
from keras_e2e.trainers.loss_logs import LossLogs
from keras_e2e.trainers.saved_with_weights import SavedWithWeights


class LocalModule(NamedTuple):
    """A module that has an objective, and the objective."""

    module: Module
    objective: LocalObjective


class ModularState:
    """What a modular model keeps that Keras must not track.

    Attributes:
        mode: The `TrainingMode` in force; in an extra pass that a step makes for
            diagnostics, the mode of that pass.
        modules: List of the modules, in order; empty until they are known.
        outputs: List of the `OutputSpec`s of the outputs.
        graph: The graph of layers that runs, boundaries and all: the model itself, or the
            graph that `structure` of it was made from; None if there is none.
        single_output: Boolean, whether the model returns one bare tensor.
        boundary_ids: `id`s of this model's boundaries.
        steps: The `CompiledSteps`.
        recorder: The recorder that instrumented steps write to, or None.
        saved: The `SavedWithWeights`.
        loss_logs: The `LossLogs`.
        predictions: Symbolic tensors of what the model returns; None until known.
        frozen: `id`s of variables that may not change, in whatever mode.
        evaluates: Boolean, whether the latest steps were those of `evaluate`.
    """

    def __init__(self, mode: TrainingMode):
        self._mode = mode
        self._flows: dict[TrainingMode, GradientFlow] = {}
        self.modules: list[Module] = []
        self.outputs: list[OutputSpec] = []
        self.graph: Any = None
        self.single_output = True
        self.boundary_ids: set[int] = set()
        self.steps = CompiledSteps()
        self.recorder: Any = None
        self.saved = SavedWithWeights()
        self.loss_logs = LossLogs()
        self.predictions: Any = None
        self.frozen: set[int] = set()
        self.evaluates = False

    def set_modules(self, modules: list[Module], outputs: list[OutputSpec]) -> None:
        """Takes the modules and outputs of the model, once they are known."""
        self.modules, self.outputs = modules, outputs
        self.boundary_ids = {id(m.boundary) for m in modules if m.boundary is not None}
        self._flows.clear()

    def run_step(
        self,
        compile_step: Callable[..., Callable],
        batches: int | None,
        *args,
    ) -> Any:
        """Runs the compiled step that is due; see `CompiledSteps.run`."""
        self.evaluates = False
        if self.steps.requested:
            self.recorder.begin_execution()
        return self.steps.run(self.mode, compile_step, batches, *args)

    def put_recorder_back(self, recorder: Any) -> None:
        """Takes an earlier recorder back, and forgets steps that write elsewhere."""
        self.recorder = recorder
        self.steps.forget_instrumented()

    @property
    def mode(self) -> TrainingMode:
        return context_of(self).mode or self._mode

    @mode.setter
    def mode(self, mode: TrainingMode) -> None:
        self._mode = mode

    def flow(self) -> GradientFlow:
        """How gradients flow in the mode in force."""
        mode = self.mode
        if mode not in self._flows:
            self._flows[mode] = gradient_flow(self.modules, mode)
        return self._flows[mode]

    def keys(self) -> list[str]:
        """A key for each output."""
        return [output.name for output in self.outputs]

    def boundary_names(self) -> list[str]:
        """The names of the boundaries, in order."""
        return [m.name for m in self.modules if m.boundary is not None]

    def with_objective(self) -> list[LocalModule]:
        """The modules that have an objective, in order."""
        return [LocalModule(m, m.objective) for m in self.modules if m.objective]

    def weight(self, module: Module) -> float:
        """Factor of a module's local loss in this mode; 0 without an objective."""
        if module.objective is None:
            return 0.0
        if module.objective.feedback_source and module.name not in self.flow().stopping:
            return 0.0  # the true signal gets through and needs no substitute
        return self.mode.weight(module.name)

    def active(self) -> list[LocalModule]:
        """The modules whose objective counts in this mode."""
        return [local for local in self.with_objective() if self.weight(local.module)]

    def stops_before_outputs(self) -> bool:
        """Whether the active module ends before the model's outputs."""
        return self.mode.name == "sequential" and self.mode.module != (
            self.modules[-1].name
        )

    def is_frozen(self, module: Module) -> bool:
        """Whether no variable of the module may change in this mode."""
        return self.mode.name == "sequential" and module.name != self.mode.module

    def trained_by(self, module: Module) -> TrainedBy:
        """What trains a module in this mode."""
        if self.is_frozen(module):
            return "nothing"
        own = bool(self.weight(module))
        if module.boundary is not None and module.name in self.flow().stopping:
            return "own objective" if own else "nothing"
        return "task and own objective" if own else "task"

    def idle_objectives(self, testing: bool) -> list[LocalObjective]:
        """The objectives that do not count: in this mode, or in evaluation at all."""
        if testing:
            return [local.objective for local in self.with_objective()]
        return [o for module, o in self.with_objective() if not self.weight(module)]

    def idle_networks(self, outputs: tuple[Output, ...]) -> list[Layer]:
        """The networks of objectives that count which predict outputs without a loss."""
        return [one for _, o in self.active() for one in o.idle_networks(outputs)]

    def frozen_variables(self, outputs: tuple[Output, ...]) -> set[int]:
        """`id`s of the variables that may not change: of frozen modules and idle heads.

        Args:
            outputs: The model's outputs with their compiled losses.
        """
        frozen = set(self.frozen)
        for module in self.modules:
            if self.is_frozen(module):
                frozen.update(id(v) for v in module.trainable_variables)
            if not self.weight(module):
                frozen.update(id(v) for v in module.head_variables)
        networks = self.idle_networks(outputs)
        return frozen | {id(v) for network in networks for v in network.weights}

    def trained_variables(self, module: Module) -> list:
        """The variables of a module, its head left out, that the compiled steps train."""
        if self.steps.trained is None:
            return module.trainable_variables
        trained = {id(v) for v in self.steps.trained}
        return [v for v in module.variables if id(v) in trained]

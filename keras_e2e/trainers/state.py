"""What a modular model keeps beside what Keras tracks."""

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

from keras_e2e.modules.gradient_flow import Flow, flow_of
from keras_e2e.modules.graph import Module
from keras_e2e.modules.training_mode import TrainingMode
from keras_e2e.objectives.base import OutputSpec


class ModularState:
    """What a modular model keeps that Keras is not to track.

    Attributes:
        mode: the training mode in force; in a pass of its own that a step makes for
            diagnostics, the mode of that pass.
        modules: the modules, in order.
        outputs: specs of the outputs.
        single_output: whether the model puts out one bare tensor.
        known: `id`s of this model's boundaries.
        recorder: the store of diagnostics, or None.
        due: how much of the diagnostics the next execution computes: nothing, a reading,
            or what is periodic too (0, 1, 2).
        instrumented: how much the execution under way computes.
        functions: the compiled step for each (mode, instrumented).
        traces: how often each was traced.
        spec: specs of the batches of the latest execution; None where they have none.
    """

    def __init__(self, mode: TrainingMode):
        self._mode = mode
        self.modules: list[Module] = []
        self.outputs: list[OutputSpec] = []
        self.single_output = True
        self.known: set[int] = set()
        self.recorder: Any = None
        self.due = 0
        self.instrumented = 0
        self.functions: dict = {}
        self.traces: Counter = Counter()
        self.spec: Any = None
        self.local = threading.local()

    @property
    def mode(self) -> TrainingMode:
        return getattr(self.local, "mode", None) or self._mode

    @mode.setter
    def mode(self, mode: TrainingMode) -> None:
        self._mode = mode

    @contextlib.contextmanager
    def override_mode(self, mode: TrainingMode) -> Iterator[None]:
        """In this thread another mode is in force, while it is open."""
        outer = getattr(self.local, "mode", None)
        self.local.mode = mode
        try:
            yield
        finally:
            self.local.mode = outer

    def weight(self, module: Module) -> float:
        """Factor of a module's local loss in this mode; 0 without an objective."""
        if module.objective is None:
            return 0.0
        if module.objective.feedback_source and module.name not in self.flow().stopping:
            return 0.0  # the true signal gets through: nothing to stand in for
        return self.mode.weight(module.name)

    def flow(self) -> Flow:
        """How gradients flow in the mode in force."""
        return flow_of(self.modules, self.mode)

    def collects(self) -> bool:
        """Whether a training pass must gather what crosses the boundaries."""
        return bool(self.instrumented) or self.mode.name != "end_to_end"

    def tap(self):
        """What this thread's step does to the outputs of boundaries, or None."""
        return getattr(self.local, "tap", None)

    def targets(self) -> tuple:
        """`y` and `sample_weight` of this thread's step; None twice outside of one."""
        return getattr(self.local, "targets", (None, None))

    def stops_before_outputs(self) -> bool:
        """Whether the active module ends before the model's outputs."""
        return self.mode.name == "sequential" and self.mode.module != (
            self.modules[-1].name
        )

    def is_frozen(self, module: Module) -> bool:
        """Whether no variable of the module may move in this mode."""
        return self.mode.name == "sequential" and module.name != self.mode.module

    def trained_by(self, module: Module) -> str:
        """What teaches a module in this mode: one of the names in `tensorboard.data`."""
        if self.is_frozen(module):
            return "nothing"
        own = bool(self.weight(module))
        if module.boundary is not None and module.name in self.flow().stopping:
            return "own objective" if own else "nothing"
        return "task and own objective" if own else "task"

    def keys(self) -> list[str]:
        """A key for each output."""
        return [output.name for output in self.outputs]

    def still_variables(self) -> set[int]:
        """`id`s of the variables that may not move: frozen modules, idle heads."""
        still: set[int] = set()
        for module in self.modules:
            if self.is_frozen(module):
                still.update(id(v) for v in module.trainable_variables)
            if not self.weight(module):
                still.update(id(v) for v in module.head_variables)
        return still

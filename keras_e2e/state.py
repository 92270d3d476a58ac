"""What a modular model keeps beside what Keras tracks."""

import threading
from collections import Counter
from typing import Any

from keras_e2e.flow import Flow, flow_of
from keras_e2e.modes import TrainingMode
from keras_e2e.objectives.base import OutputSpec
from keras_e2e.partition import Module


class ModularState:
    """What a modular model keeps that Keras is not to track.

    Attributes:
        mode: the training mode in force.
        modules: the modules, in order.
        outputs: specs of the outputs.
        single_output: whether the model puts out one bare tensor.
        known: `id`s of this model's boundaries.
        recorder: the store of diagnostics, or None.
        due: whether the next execution computes diagnostics.
        instrumented: whether the execution under way computes them.
        functions: the compiled step for each (mode, instrumented).
        traces: how often each was traced.
    """

    def __init__(self, mode: TrainingMode):
        self.mode = mode
        self.modules: list[Module] = []
        self.outputs: list[OutputSpec] = []
        self.single_output = True
        self.known: set[int] = set()
        self.recorder: Any = None
        self.due = False
        self.instrumented = False
        self.functions: dict = {}
        self.traces: Counter = Counter()
        self.local = threading.local()

    def weight(self, module: Module) -> float:
        """Factor of a module's local loss in this mode; 0 without an objective."""
        if module.objective is None:
            return 0.0
        if module.objective.listens and module.name not in self.flow().stopping:
            return 0.0  # the true signal gets through: nothing to stand in for
        return self.mode.weight(module.name)

    def flow(self) -> Flow:
        """How gradients flow in the mode in force."""
        return flow_of(self.modules, self.mode)

    def collects(self) -> bool:
        """Whether a training pass must gather what crosses the boundaries."""
        return self.instrumented or self.mode.name != "end_to_end"

    def tap(self):
        """What this thread's step does to the outputs of boundaries, or None."""
        return getattr(self.local, "tap", None)

    def targets(self) -> tuple:
        """`y` and `sample_weight` of this thread's step; None twice outside of one."""
        return getattr(self.local, "targets", (None, None))

    def skips_outputs(self) -> bool:
        """Whether the active module ends before the model's outputs."""
        return self.mode.name == "sequential" and self.mode.module != (
            self.modules[-1].name
        )

    def stands_still(self, module: Module) -> bool:
        """Whether no variable of the module may move in this mode."""
        return self.mode.name == "sequential" and module.name != self.mode.module

    def keys(self) -> list[str]:
        """A key for each output."""
        return [output.name for output in self.outputs]

    def still_variables(self) -> set[int]:
        """`id`s of the variables that may not move: frozen modules, idle heads."""
        still: set[int] = set()
        for module in self.modules:
            if self.stands_still(module):
                still.update(id(v) for v in module.trainable_variables)
            if not self.weight(module):
                still.update(id(v) for v in module.head_variables)
        return still

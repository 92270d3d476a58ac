"""What a modular model keeps beside what Keras tracks."""

import threading
from collections import Counter
from typing import Any

from keras_e2e.modes import TrainingMode
from keras_e2e.objectives.base import OutputSpec
from keras_e2e.partition import Module
from keras_e2e.reach import Reach, reach_of


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
        if module.objective.listens and not self.mode.stops(module.name):
            return 0.0  # the true signal gets through: nothing to stand in for
        return self.mode.weight(module.name)

    def reach(self) -> Reach | None:
        """How far the losses reach, in `local` mode; None in any other."""
        return reach_of(self.modules, self.mode) if self.mode.name == "local" else None

    def stopping(self) -> frozenset[str]:
        """The boundaries that stop the gradient."""
        reach = self.reach()
        opened: frozenset[str] = frozenset() if reach is None else reach.open
        return frozenset(
            m.name
            for m in self.modules
            if m.boundary is not None and self.mode.stops(m.name) and m.name not in opened
        )

    def listeners(self) -> dict[str, dict[str, float]]:
        """Whose objectives listen to the signal at the end of each module, with weights.

        Those that stand in for the true signal, where the boundary stops it.
        """
        stopping, last = self.stopping(), self.modules[-1].name
        found: dict[str, dict[str, float]] = {}
        for module in self.modules:
            listens = None if module.objective is None else module.objective.listens
            weight = self.weight(module)
            if not listens or not weight or module.name not in stopping:
                continue
            ends = {
                "boundary": [module.name],
                "outputs": [last],
                "following": [m.name for m in self.modules if module.name in m.inputs],
            }
            for end in ends[listens]:
                found.setdefault(end, {})[module.name] = weight
        return found

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

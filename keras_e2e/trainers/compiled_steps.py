"""One compiled step for each training mode and each set of quantities it measures."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import keras

from keras_e2e.modules.training_mode import TrainingMode

LEAN: frozenset[str] = frozenset()
"""What a step without diagnostics measures."""


class CompiledSteps:
    """The compiled steps of one model, made when they are first needed.

    Keras replaces `model.train_function` at each `compile`. Here it is a dispatcher, so
    that any number of callbacks may set the mode or request diagnostics, and none of them
    has to restore anything.

    Attributes:
        functions: Dict with the compiled step by mode, by the quantities it measures, and
            by the batches it takes at once (None: one after another).
        traces: Dict of how often each was traced, by mode and number of quantities.
        requested: Names of the quantities that the next execution measures.
        measuring: Names of those that the execution under way measures.
        trained: Variables that the compiled steps train; None before the first step.
        agreed: The mode in which all workers run the latest step; None before the first.
        specs: Specs of the batches of the latest execution; None where they have none.
    """

    def __init__(self) -> None:
        self.functions: dict[tuple[TrainingMode, frozenset[str], int | None], Callable] = {}
        self.traces: Counter = Counter()
        self.requested = LEAN
        self.measuring = LEAN
        self.trained: list[keras.Variable] | None = None
        self.agreed: TrainingMode | None = None
        self.specs: Any = None

    def request(self, names: Iterable[str]) -> None:
        """Makes the next execution measure these quantities too."""
        self.requested |= frozenset(names)

    def clear(self) -> None:
        """Forgets all compiled steps, and which variables they train."""
        self.functions.clear()
        self.trained = None

    def forget_instrumented(self) -> None:
        """Forgets the steps that measure: they write to the recorder they were made for."""
        self.functions = {k: f for k, f in self.functions.items() if not k[1]}
        self.requested = LEAN

    def run(
        self,
        mode: TrainingMode,
        compile_step: Callable[..., Callable],
        batches: int | None,
        *args,
    ) -> Any:
        """Runs the compiled step that is due, and compiles it first if need be.

        Args:
            mode: The `TrainingMode` in force.
            compile_step: Function that makes a compiled step, of `batches` and of the
                arguments that it is run with first.
            batches: Integer, how many batches it takes at once; None for one after another.
            *args: Arguments of the compiled step.
        """
        # On TensorFlow the batches say, before the first, what they hold.
        self.specs = getattr(args[0], "element_spec", None)
        key = (mode, self.requested, batches)
        self.requested = LEAN
        is_new, traced = key not in self.functions, self.traces.total()
        self.measuring = key[1]
        try:
            if is_new:
                self.functions[key] = compile_step(batches, *args)
            return self.functions[key](*args)
        except Exception:
            if is_new and self.traces.total() == traced:
                # A step that is refused while it is traced could not be traced again.
                self.functions.pop(key, None)
            raise
        finally:
            self.measuring = LEAN

    def without_measuring(
        self, mode: TrainingMode, compile_step: Callable[..., Callable]
    ) -> Callable:
        """The compiled step of a mode that measures nothing; it is compiled if need be.

        Args:
            mode: The `TrainingMode`.
            compile_step: As in `run`.
        """
        key = (mode, LEAN, None)

        def run(*args: Any) -> Any:
            measuring, self.measuring = self.measuring, LEAN
            try:
                if key not in self.functions:
                    self.functions[key] = compile_step(None, *args)
                return self.functions[key](*args)
            finally:
                self.measuring = measuring

        return run

    def variables(self, model: Any) -> list[keras.Variable]:
        """The variables that a step trains, as in Keras.

        Keras traces its step once: what is frozen or thawed afterwards without `compile`
        changes nothing. Steps that are traced later for another mode train the same.
        """
        if model.run_eagerly:
            return model.trainable_variables
        if self.trained is None:
            self.trained = model.trainable_variables
        return self.trained

    def count_trace(self, mode: TrainingMode) -> None:
        """Counts that the step under way was traced."""
        self.traces[(str(mode), len(self.measuring))] += 1

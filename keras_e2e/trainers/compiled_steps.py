"""One compiled step for each mode, with diagnostics or without; the optimizer's state."""

from collections.abc import Iterable
from typing import Any

from keras_e2e.diagnostics.quantity import Quantity
from keras_e2e.modules.mode_fit import refuse_averages
from keras_e2e.optimizers.module_optimizers import ModuleOptimizers
from keras_e2e.utils.graphs import strategy_scope


class TrainFunctions:
    """Mixin of modular models: which compiled step runs."""

    _modular: Any
    name: str
    train_function: Any
    trainable_variables: Any
    built: bool
    _instrument: Any

    def instrument(self, quantities: Iterable[Quantity]) -> Any:
        """Prepares steps that compute `quantities`; returns their recorder.

        Steps stay without diagnostics until `request_diagnostics` is called.

        Raises:
            RuntimeError: this backend has no instrumented step.
        """
        return self._instrument(list(quantities))

    def request_diagnostics(self, periodic: bool = False) -> None:
        """Makes the next execution of `fit` compute the instrumented quantities.

        Args:
            periodic: also those that are due now and then only (`Quantity.schedule`).
        """
        state = self._modular
        if state.recorder is None:
            raise RuntimeError(
                f"{self.name}: call instrument(quantities) first, then "
                "request_diagnostics()."
            )
        dear = periodic and any(q.schedule is not None for q in state.recorder.quantities)
        state.due = max(state.due, 2 if dear else 1)

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
        # On TensorFlow the batches tell, before the first, what they hold.
        state.spec = getattr(args[0], "element_spec", None)
        key = (state.mode, state.due)
        state.due = 0
        if key not in state.functions:
            self._build_optimizer()
            super().make_train_function(force=True)
            state.functions[key] = self.train_function
            self.train_function = self._run_step
        state.instrumented = key[1]
        try:
            return state.functions[key](*args)
        finally:
            state.instrumented = 0

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

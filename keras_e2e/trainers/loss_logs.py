"""The task loss and the local losses in the logs of `fit`."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_e2e.modules.step_context import context_of
from keras_e2e.modules.training_mode import TrainingMode
from keras_e2e.trainers.local_losses import compiled_outputs
from keras_e2e.utils.compat import logs as compat
from keras_e2e.utils.data import num_examples
from keras_e2e.utils.graphs import strategy_scope


class LossTracker(keras.metrics.Metric):
    """Averages of losses over the examples that they were computed on.

    All of them stand in two variables, which a step adds to and does not read. A loss is
    averaged as Keras averages `loss`: by the number of examples in each batch.

    Args:
        names: List of the names of the losses.
    """

    def __init__(self, names: list[str]):
        super().__init__(name="losses")
        self.names = tuple(names)
        self.total = self.add_variable((len(names),), "zeros", name="total")
        self.count = self.add_variable((len(names),), "zeros", name="count")

    def update_state(self, losses: Mapping[str, Any], num_examples: Any) -> None:
        """Takes the losses of a step, by name; what it has not computed is absent."""
        values = [ops.cast(losses.get(name, 0.0), self.dtype) for name in self.names]
        computed = [float(name in losses) for name in self.names]
        size = ops.cast(num_examples, self.dtype)
        self.total.assign_add(compat.unscaled(ops.stack(values)) * size)
        self.count.assign_add(ops.convert_to_tensor(computed, self.dtype) * size)

    def result(self) -> dict[str, float]:
        """The averages by name, NaN for what was not computed. Read on the host."""
        total, count = _on_host(self.total), _on_host(self.count)
        averages = np.full_like(total, np.nan)
        np.divide(total, count, out=averages, where=count > 0)
        return dict(zip(self.names, map(float, averages), strict=True))


def _on_host(variable: keras.Variable) -> np.ndarray:
    tensor = ops.convert_to_tensor(variable)
    # NumPy warns of how TensorFlow's tensors convert themselves.
    return np.array(tensor.numpy() if hasattr(tensor, "numpy") else tensor)


class LossLogs:
    """What the logs of a modular model hold besides those of stock Keras.

    In modes with local losses these are each local loss and, if the model has one output
    with a loss, that loss, named as Keras names those of several outputs. Callbacks that
    write logs down count on the same names in each epoch: so what is logged in one of the
    modes of a `fit` is logged in all of its epochs, NaN where it was not computed.

    Attributes:
        tracker: The `LossTracker`; None before the first step.
        names: Tuple of the names that are logged now.
    """

    def __init__(self) -> None:
        self.tracker: LossTracker | None = None
        self.names: tuple[str, ...] = ()
        self._task: str | None = None
        self._epochs = 0

    def build(self, model: Any) -> None:
        """Makes the tracker, for all that any mode may log."""
        state = model._modular
        outputs = compiled_outputs(model)
        with_loss = [output.name for output in outputs if output.loss is not None]
        self._task = with_loss[0] if len(with_loss) == 1 else None
        names = self._names_in(state, None)
        with strategy_scope(model):
            self.tracker = LossTracker(names) if names else None

    def begin(self, state: Any) -> None:
        """Begins the logs of a `fit`: those of the mode in force."""
        self.names, self._epochs = (), 0
        self.add(state, state.mode)

    def add(self, state: Any, mode: TrainingMode) -> None:
        """Adds what is logged in a mode to what is logged until the next `begin`."""
        more = self._names_in(state, mode)
        self.names = tuple(dict.fromkeys((*self.names, *more)))

    def _names_in(self, state: Any, mode: TrainingMode | None) -> list[str]:
        """What is logged in a mode; without one, in any."""
        if mode is not None and mode.name == "end_to_end":
            return []
        names = []
        for module, objective in state.with_objective():
            if objective.feedback_source:
                continue  # a signal has no loss
            # One stage of several logs what the others log.
            if mode is None or mode.name == "sequential" or mode.weight(module.name):
                names.append(module.name)
        names += [self._task] if self._task and names else []
        return [f"{name}_loss" for name in names]

    @contextlib.contextmanager
    def noted_task_loss(self, model: Any, y: Any, y_pred: Any) -> Iterator[list]:
        """Notes the loss of the only output, if it is logged, as it is computed in here."""
        if self._tracker_of(model) and self._task and y_pred is not None:
            with compat.noted_loss(model, y, y_pred) as noted:
                yield noted
        else:
            yield []

    def update(self, model: Any, local: Mapping[str, Any], task: list, x: Any) -> None:
        """Takes the losses of a step.

        Args:
            model: The modular model.
            local: Dict with the local losses by boundary, without weights.
            task: What was noted of the task loss.
            x: The inputs of the step.
        """
        tracker = self._tracker_of(model)
        if tracker is None:
            return
        losses = {**local, **{str(self._task): loss for loss in task}}
        named = {f"{name}_loss": loss for name, loss in losses.items()}
        tracker.update_state(named, num_examples(x))

    def _tracker_of(self, model: Any) -> LossTracker | None:
        """The tracker, if the losses of the step under way are logged."""
        state = model._modular
        # With a mode of its own it is a pass for diagnostics.
        extra_pass = context_of(state).mode is not None
        return None if extra_pass or state.mode.name == "end_to_end" else self.tracker

    def averages(self) -> dict[str, float]:
        """What is logged now, by name."""
        if self.tracker is None or not self.names:
            return {}
        averages = self.tracker.result()
        return {name: averages[name] for name in self.names}

    def of_epoch(self, history: Any) -> dict[str, float]:
        """What is logged of an epoch that ends.

        Args:
            history: The `History` of the latest epoch. What is logged for the first time
                is NaN in the epochs before.
        """
        logged = self.averages()
        self._epochs += 1
        if self._epochs > 1 and history is not None:
            before = len(history.history.get("loss", ()))
            for name in logged:
                history.history.setdefault(name, [float("nan")] * before)
        return logged

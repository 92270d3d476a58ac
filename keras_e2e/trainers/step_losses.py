"""What the loss of a step is made of, computed when it is first asked for."""

from typing import Any

from keras import ops

from keras_e2e.modules.forward_record import ForwardRecord
from keras_e2e.objectives.base import Batch
from keras_e2e.trainers.forward_pass import extra_records
from keras_e2e.trainers.local_losses import local_loss
from keras_e2e.trainers.targets import StepTargets


class StepLosses:
    """The losses of one training step.

    Args:
        model: The modular model.
        record: The `ForwardRecord` of the step's pass, which may be under way.
        batch: The `Batch` that objectives are given.
        given: The targets, as `StepTargets`.

    Attributes:
        record, batch: As given.
        task: Scalar, the compiled loss with penalties, without local losses; None until it
            is known, and where it is not computed.
        local: Dict with the local losses by boundary, without weights.
        summed: Boolean, whether the step has its loss.
    """

    def __init__(self, model: Any, record: ForwardRecord, batch: Batch, given: StepTargets):
        self.record, self.batch = record, batch
        self.task: Any = None
        self.summed = False
        self.local: dict[str, Any] = {}
        self._model, self._given = model, given
        self._active = {m.name: (m, objective) for m, objective in model._modular.active()}
        self._last = model._modular.modules[-1].name
        self._terms: dict[str, Any] = {}
        self._extra: dict | None = None

    def total(self, task: Any) -> Any:
        """The loss that is minimized; None where nothing counts.

        Args:
            task: The compiled loss with penalties, or None where it is not computed.
        """
        self.task, self.summed = task, True
        terms = [self.term(name) for name in self._active]
        if task is not None:
            terms = [task, *terms]
        # One sum, not a chain of additions: TensorFlow reorders those in steps that do
        # not read the single losses.
        return ops.sum(ops.stack(terms)) if len(terms) > 1 else next(iter(terms), None)

    def term(self, name: str) -> Any:
        """A summand of the loss: that of the module of this name; None if it has none.

        For the last module it is the task loss, for any other its local loss, with its
        weight.
        """
        if name == self._last:
            return self.task
        if name in self._active and name not in self._terms:
            self._terms[name] = self._computed(name)
        return self._terms.get(name)

    def _computed(self, name: str) -> Any:
        model, given = self._model, self._given
        module, objective = self._active[name]
        if self._extra is None:
            self._extra = extra_records(model, list(model._modular.active()), self.batch)
        own = self.batch._replace(
            labels=given.labels.get(name),
            sample_weight=given.label_weights.get(name, self.batch.sample_weight),
        )
        loss = local_loss(module, objective, self.record, own, self._extra)
        self.local[name] = loss
        factor = model._modular.weight(module) * objective.weight_now()
        objective.advance_weight()
        return loss * factor

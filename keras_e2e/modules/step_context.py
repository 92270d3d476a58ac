"""What is in force in this thread while a modular model runs a step."""

import contextlib
import dataclasses
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from keras_e2e.modules.forward_record import ForwardRecord
from keras_e2e.modules.gate import Gate
from keras_e2e.modules.training_mode import TrainingMode


@dataclasses.dataclass
class StepContext:
    """One pass or step of one model, in one thread.

    MirroredStrategy runs each replica in a thread of its own, so each has its own.

    Attributes:
        state: The `trainers.state.ModularState` of the model whose step it is.
        mode: The `TrainingMode` in force here; None for the model's own.
        targets: Tuple of `y` and `sample_weight` of the step; two None where they are not
            known.
        tap: Function applied to the output of each boundary, or None. An instrumented
            step watches what it returns, so that the gradient there is known.
        watch: Function applied to what enters each boundary and to the outputs (`Gate`), or
            None. On JAX the gradient there is known in no other way.
        hold: Function that is called as soon as a boundary is crossed, or None (`Gate`). A
            step takes gradients there.
        after_pass: Function that is called when a training pass is over, while what its
            layers have added to the loss can still be seen; or None.
        testing: Boolean, whether this is a step of `evaluate`.
        gate: The `Gate` of the pass under way; None outside of a pass that is recorded.
        record: The `ForwardRecord` of the latest pass, until its loss is computed.
        losses: What the losses of the step are made of (`trainers.local_losses`).
        iteration: Integer tensor, the number of the step where several are under way
            (`trainers.module_parallel`); None where the optimizer has it.
        share: Scalar, the factor of this replica's losses where they are differentiated, if
            all examples are to weigh alike (`objectives.global_batch`); None for 1.
        left: Function that is called with the name of a boundary when the step has left the
            module that ends there, or None.
        upstream: The batch with what its modules upstream returned, computed before
            (`models.sub_models.WithUpstream`), or None.
    """

    state: Any = None
    mode: TrainingMode | None = None
    targets: tuple = (None, None)
    tap: Callable[[Any], Any] | None = None
    watch: Callable[[Any], Any] | None = None
    hold: Callable[[ForwardRecord, Any, Any], Any] | None = None
    after_pass: Callable[[], None] | None = None
    testing: bool = False
    gate: Gate | None = None
    record: ForwardRecord | None = None
    losses: Any = None
    iteration: Any = None
    share: Any = None
    left: Callable[[str], None] | None = None
    upstream: Any = None


class _Contexts(threading.local):
    def __init__(self) -> None:
        self.open = [StepContext()]
        # The latest record of each model of a pass outside of a step, made by hand.
        self.records: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


_contexts = _Contexts()


@contextlib.contextmanager
def step_context(state: Any, **changes: Any) -> Iterator[StepContext]:
    """Opens a context for a model in this thread.

    Args:
        state: The model's `ModularState`.
        **changes: Attributes of `StepContext`; the others are those of the model's context
            that is open already, if there is one. Its record and losses are its own.
    """
    own: dict[str, Any] = {"record": None, "losses": None, **changes}
    context = dataclasses.replace(context_of(state), **own)
    _contexts.open.append(context)
    try:
        yield context
    finally:
        _contexts.open.pop()


def context_of(state: Any) -> StepContext:
    """The innermost open context of a model.

    If there is none, one where nothing is set but the record of a pass made by hand.
    """
    for context in reversed(_contexts.open):
        if context.state is state:
            return context
    return StepContext(state, record=_contexts.records.get(state))


def open_context() -> StepContext:
    """The innermost open context of any model."""
    return _contexts.open[-1]


def keep_record(state: Any, record: ForwardRecord) -> None:
    """Keeps the record of a pass until the loss of that pass is computed.

    Outside of a step, where a user calls the model and then `compute_loss`, it is kept
    until the next such pass of this model in this thread.
    """
    context = context_of(state)
    if any(context is each for each in _contexts.open):
        context.record = record
    else:
        _contexts.records[state] = record

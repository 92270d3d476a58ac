"""The step context: one thread-local, in which each model finds its own."""

import gc
import threading
import weakref

from keras_e2e import TrainingMode
from keras_e2e.modules.forward_record import ForwardRecord
from keras_e2e.modules.gate import Gate
from keras_e2e.modules.step_context import (
    context_of,
    keep_record,
    open_context,
    step_context,
)

LOCAL = TrainingMode("local")


class State:
    """What a model keeps, for its identity."""


def a_state():
    return State()


def test_outside_of_a_step_nothing_is_set():
    context = context_of(a_state())
    assert (context.mode, context.targets, context.gate) == (None, (None, None), None)
    assert not context.testing and context.tap is None and context.record is None


def test_an_inner_context_keeps_what_it_does_not_change():
    state = a_state()
    with (
        step_context(state, mode=LOCAL, targets=(1, 2)) as outer,
        step_context(state, testing=True) as inner,
    ):
        assert (inner.mode, inner.targets, inner.testing) == (LOCAL, (1, 2), True)
        assert context_of(state) is inner and not outer.testing
    assert context_of(state).mode is None


def test_each_model_has_its_own():
    one, two = a_state(), a_state()
    gate = Gate(set())
    with step_context(one, mode=LOCAL), step_context(two, gate=gate):
        assert context_of(one).mode == LOCAL and context_of(one).gate is None
        assert context_of(two).mode is None
        # A boundary asks the innermost, whose it may be.
        assert open_context().gate is gate


def test_each_thread_has_its_own():
    state, seen = a_state(), []
    with step_context(state, mode=LOCAL):
        thread = threading.Thread(target=lambda: seen.append(context_of(state).mode))
        thread.start()
        thread.join()
    assert seen == [None]


def test_a_context_is_closed_by_an_error():
    state = a_state()
    try:
        with step_context(state, mode=LOCAL):
            raise KeyError
    except KeyError:
        pass
    assert context_of(state).mode is None


def test_a_record_is_kept_in_the_step_or_until_the_next_pass_outside_of_one():
    one, two, record = a_state(), a_state(), ForwardRecord()
    with step_context(one) as context:
        keep_record(one, record)
        assert context.record is record
    assert context_of(one).record is None
    keep_record(one, record)
    assert context_of(one).record is record
    keep_record(two, ForwardRecord())
    assert context_of(one).record is record, "each model has its own"
    later = ForwardRecord()
    keep_record(one, later)
    assert context_of(one).record is later


def test_a_record_goes_with_its_model():
    state, record = a_state(), ForwardRecord()
    left = weakref.ref(record)
    keep_record(state, record)
    del state, record
    gc.collect()
    assert left() is None

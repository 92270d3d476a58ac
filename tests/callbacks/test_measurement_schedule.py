"""What is due when, looked up ahead, is what it is batch by batch."""

import random

import keras
import pytest

from keras_e2e.callbacks.measurement_schedule import MeasurementSchedule
from keras_e2e.diagnostics import GradRMS, ModuleLoss, Reliability


def schedule(per_step, first, update_freq=4, expensive=None):
    found = MeasurementSchedule(
        [ModuleLoss(), Reliability(schedule=7), GradRMS()], update_freq, expensive
    )
    optimizer = keras.optimizers.SGD(
        gradient_accumulation_steps=per_step if per_step > 1 else None
    )
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    optimizer.build(model.trainable_variables)
    model.compile(optimizer)
    found.begin_epoch(model)
    found.correct(0, first)
    return found


def expected(first, per_step, batch, size, update_freq=4, expensive=7):
    """By a look at each batch: those that end a step whose number is a multiple."""
    ends = [
        (first + b) // per_step
        for b in range(batch, batch + size)
        if (first + b) % per_step == per_step - 1
    ]
    if any(step % expensive == 0 for step in ends):
        return {"reliability", "loss", "grad_rms"}
    return {"loss", "grad_rms"} if any(s % update_freq == 0 for s in ends) else set()


@pytest.mark.parametrize("per_step", [1, 3])
@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("first", [0, 13])
def test_due_is_what_ends_in_an_execution(per_step, size, first):
    ours = schedule(per_step, first)
    for batch in range(0, 120, size):
        due = ours.due_at(batch, size)
        assert set(due) == expected(first, per_step, batch, size), batch


def test_one_argument_slows_all_that_have_a_schedule_of_their_own():
    ours = schedule(1, 0, expensive=9)
    for batch in range(60):
        assert set(ours.due_at(batch, 1)) == expected(0, 1, batch, 1, expensive=9)


def test_a_correction_is_heeded_at_once():
    ours, chance, first = schedule(1, 0), random.Random(0), 0
    for batch in range(200):
        if chance.random() < 0.2:
            first -= 1  # a batch was skipped
            ours.correct(batch, first + batch)
        assert set(ours.due_at(batch, 1)) == expected(first, 1, batch, 1), batch


def test_what_was_missed_is_due_at_the_next_step():
    ours = schedule(3, 0)
    assert ours.due_at(2, 1)
    assert not ours.due_at(3, 1)
    ours.missed.add("loss")
    assert not ours.due_at(4, 1), "no step ends here"
    assert ours.due_at(5, 1) == ["loss"]
    assert not ours.missed

"""The contract of a quantity: its schedule, and which quantities are equal."""

import numpy as np
import pytest

from keras_e2e import diagnostics
from keras_e2e.diagnostics import CKA, GradRMS, NoiseScale, Rotation

EVERY = [type(quantity) for quantity in diagnostics.full_quantities()]


@pytest.mark.parametrize("make", EVERY, ids=lambda make: make.__name__)
def test_each_quantity_takes_a_schedule(make):
    assert make(schedule=30).schedule == 30
    assert make(schedule=None).schedule is None
    assert make().schedule == make.schedule


def test_the_expensive_ones_are_measured_every_200_steps():
    slow = {q.name: q.schedule for q in diagnostics.full_quantities() if q.schedule}
    assert slow == dict.fromkeys(
        [
            "loss_credit",
            "local_alignment",
            "reliability",
            "noise_scale",
            "probe_accuracy",
            "effective_rank",
            "rotation",
        ],
        200,
    )
    assert all(q.schedule is None for q in diagnostics.default_quantities())


def test_what_is_measured_on_demand_says_so():
    assert CKA([]).schedule == "on demand"


def test_a_schedule_makes_no_difference_to_what_is_computed():
    assert NoiseScale(schedule=10) == NoiseScale()
    assert GradRMS(schedule=7) == GradRMS(schedule=None)
    assert Rotation(entries=5, schedule=10) != Rotation(entries=6, schedule=10)


@pytest.mark.parametrize("schedule", [0, -1, 2.0, True, "often"])
def test_an_invalid_schedule_is_refused(schedule):
    with pytest.raises(ValueError, match=r"Rotation: schedule=.*at least 1"):
        Rotation(schedule=schedule)


def test_a_schedule_may_be_an_integer_of_numpy():
    assert type(GradRMS(schedule=np.int64(5)).schedule) is int


def test_a_quantity_of_one_s_own_needs_no_constructor():
    class Plain(diagnostics.Quantity):
        name, formula, schedule = "plain", "1", 50

    class Constructed(Plain):
        def __init__(self, scale=1.0):
            self.scale = scale

    assert Plain().schedule == Constructed().schedule == 50
    assert Plain(schedule=None).schedule is None

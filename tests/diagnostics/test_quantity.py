"""The contract of a quantity: its schedule, and which quantities are equal."""

import keras
import numpy as np
import pytest

import keras_e2e as e2e
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


class Own(diagnostics.Quantity):
    name, formula = "own", "1"

    def compute(self, module, state):
        return 1.0, state


def network():
    base = keras.Sequential([keras.Input((2,)), *map(keras.layers.Dense, (3, 1))])
    model = e2e.modularize(base, 1)
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize("lacking", ["name", "formula"])
def test_a_quantity_without_name_or_formula_is_refused_at_once(lacking):
    wrong = type("Wrong", (Own,), {lacking: None})()
    with pytest.raises(TypeError, match=f"Wrong.{lacking} is None; expected a string"):
        e2e.callbacks.ModuleDiagnostics(quantities=[wrong])
    with pytest.raises(TypeError, match=f"Wrong.{lacking} is None"):
        network().instrument([wrong])


@pytest.mark.parametrize("shapes", [(), None, [3], [("a",)], [keras.ops.zeros(())]])
def test_an_initial_state_that_is_no_list_of_shapes_is_refused(shapes):
    class Wrong(Own):
        def init_state(self, given):
            return shapes

    with pytest.raises(TypeError, match=r"Wrong\.init_state returned .*list of shapes"):
        network().instrument([Wrong()])


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (1.0, TypeError, "returned 1.0; expected two values"),
        (None, TypeError, "returned None; expected two values"),
        ((1.0, 2.0), TypeError, "expected two values"),
        ((1.0, [2.0]), ValueError, "returned 1 tensors to keep; expected 0"),
        (((1.0, 2.0), []), ValueError, "returned 2 numbers for"),
        (([1.0, 2.0], []), ValueError, "returned a list for module .*tuple"),
        ((np.ones(2), []), ValueError, r"returned shape \(2,\) for .*expected a scalar"),
    ],
)
def test_what_compute_returns_is_checked(returned, error, message):
    class Wrong(Own):
        def compute(self, module, state):
            return returned

    watch = e2e.callbacks.ModuleDiagnostics(quantities=[Wrong()])
    with pytest.raises(error, match=f"Wrong.compute {message}|Wrong.compute .*{message}"):
        network().fit(np.ones((4, 2)), np.ones(4), verbose=0, callbacks=[watch])


def test_what_a_quantity_keeps_has_the_shape_that_it_said():
    class Wrong(Own):
        def init_state(self, shapes):
            return [(3,)]

        def compute(self, module, state):
            return 1.0, [keras.ops.zeros(4)]

    watch = e2e.callbacks.ModuleDiagnostics(quantities=[Wrong()])
    expected = r"Wrong.compute .* of shape \(4,\) for module .*; expected \(3,\)"
    with pytest.raises(ValueError, match=expected):
        network().fit(np.ones((4, 2)), np.ones(4), verbose=0, callbacks=[watch])


def test_a_number_that_is_kept_may_be_one_of_python():
    class Counting(Own):
        def init_state(self, shapes):
            return [()]

        def compute(self, module, state):
            return 2.0, [1.0]

    watch = e2e.callbacks.ModuleDiagnostics(quantities=[Counting()])
    network().fit(np.ones((4, 2)), np.ones(4), verbose=0, callbacks=[watch])
    assert next(iter(watch.history[Counting.name].values())) == [2.0]

"""From measurements to a state: each rule, its edges and its precedence."""

import numpy as np
import pytest

from keras_e2e.diagnostics import judge, states
from keras_e2e.diagnostics.verdicts import Verdict, with_measured

NAN, INF = float("nan"), float("inf")
HEALTHY = {
    "loss": [1.0, 0.9, 0.8, *np.linspace(0.7, 0.4, 17)],
    "gradient_snr": [0.5] * 20,
    "signal_gain": [0.5] * 20,
    "grad_rms": [0.01] * 20,
    "update_ratio": [1e-3] * 20,
    "dormant_fraction": [0.1] * 20,
    "local_alignment": [NAN] * 15 + [0.5] * 5,
    "reliability": [NAN] * 15 + [0.5] * 5,
}


def state_of(since=0, frozen=(), other=None, **changed):
    """The verdict on one module with these measurements, beside a healthy one."""
    mine = {**HEALTHY, **changed}
    other = {**HEALTHY, **(other or {})}
    history = {name: {"m": list(mine[name]), "out": list(other[name])} for name in HEALTHY}
    return judge(history, since, frozen)["m"]


def test_a_module_that_learns_is_healthy():
    found = state_of()
    assert found.state == "healthy"
    assert found.confidence == 1.0
    assert not found.alarm
    assert found.numbers["gradient_snr"] == 0.5
    assert found.numbers["loss at start"] == 0.9


FLAT = {"loss": [1.0] * 20, "gradient_snr": [0.0] * 20}


@pytest.mark.parametrize(
    ("changed", "state"),
    [
        (FLAT, "starved"),
        ({"gradient_snr": [0.0] * 20}, "converged"),
        ({"loss": [1.0] * 20}, "healthy"),  # the signal is there: wait
        ({"loss": [1.0] * 20, "gradient_snr": [0.0, 0.1] * 10}, "unclear"),
        ({"gradient_snr": [0.0, 0.1] * 10}, "healthy"),  # and the loss has moved
        ({"loss": [-1.0] * 20, "gradient_snr": [0.0] * 20}, "starved"),
        ({"loss": [-1.0] * 8 + [-2.0] * 12, "gradient_snr": [0.0] * 20}, "converged"),
        ({"update_ratio": [0.0] * 20}, "frozen"),
        ({"update_ratio": [NAN] * 20}, "frozen"),
        ({"update_ratio": ([0.0] * 3 + [1e-3]) * 5}, "healthy"),  # accumulated gradients
        ({"signal_gain": [1e-5] * 20}, "vanishing"),
        ({"signal_gain": [0.0] * 20}, "vanishing"),
        ({"grad_rms": [1e-9] * 20}, "vanishing"),
        ({"signal_gain": [1e5] * 20}, "exploding"),
        ({"loss": [1.0] * 8 + [NAN] * 12}, "exploding"),
        ({"grad_rms": [1.0] * 8 + [INF] * 12}, "exploding"),
        ({"dormant_fraction": [0.9] * 20}, "dormant"),
        ({"local_alignment": [NAN] * 15 + [-0.5] * 5}, "conflicting"),
        ({"local_alignment": [NAN] * 18 + [-0.5] * 2}, "healthy"),  # too few
        (
            {
                "local_alignment": [NAN] * 15 + [-0.5] * 5,
                "reliability": [NAN] * 15 + [0.0] * 5,
            },
            "healthy",  # the task's gradient does not agree with itself either
        ),
        ({**FLAT, "update_ratio": [0.0] * 20}, "frozen"),
        ({**FLAT, "signal_gain": [1e-5] * 20}, "vanishing"),
    ],
)
def test_each_state_is_given_by_its_measurements(changed, state):
    found = state_of(**changed)
    assert found.state == state
    assert found.confidence >= 0.5 or state == "unclear"


def test_single_measurements_that_stray_change_nothing():
    measurements = [0.0] * 10 + [0.0, 0.14, 0.0, 0.0, 0.0, 0.05, 0.0, 0.0, 0.0, 0.0]
    found = state_of(**{**FLAT, "gradient_snr": measurements})
    assert found.state == "starved"
    assert found.confidence == pytest.approx(0.8)


def test_a_long_run_is_judged_by_its_end_and_its_start():
    long = {name: [*values] * 200 for name, values in HEALTHY.items()}
    long["loss"] = [1.0] * 3 + [0.1] * 3997
    long["gradient_snr"] = [0.5] * 3000 + [0.0] * 1000
    history = {name: {"m": values, "out": values} for name, values in long.items()}
    found = judge(history)["m"]
    assert found.state == "converged"
    assert found.numbers["loss at start"] == 1.0


@pytest.mark.parametrize(
    ("loss", "state"),
    [
        ([0.5] * 47, "stalled"),
        (np.linspace(0.9, 0.3, 47), "converged"),  # it falls still
        ([0.2] * 47, "converged"),  # little is left of it
        ([0.5] * 20, "converged"),  # too few to tell
    ],
)
def test_a_loss_that_plateaus_far_from_zero_is_stalled_not_converged(loss, state):
    values = {"loss": [1.0] * 3 + list(loss), "gradient_snr": [0.0] * (3 + len(loss))}
    assert judge({name: {"m": v} for name, v in values.items()})["m"].state == state
    negative = {**values, "loss": [v - 2.0 for v in values["loss"]]}
    found = judge({name: {"m": v} for name, v in negative.items()})["m"].state
    assert found != "stalled"


def test_no_signal_is_reported_beside_its_cause():
    found = state_of(**FLAT, dormant_fraction=[0.9] * 20)
    assert (found.state, found.no_signal_reason) == ("dormant", "starved")
    assert state_of(dormant_fraction=[0.9] * 20).no_signal_reason == ""
    assert state_of(**FLAT).no_signal_reason == "starved"


def test_few_measurements_are_unclear():
    short = {name: list(values)[:9] for name, values in HEALTHY.items()}
    history = {name: {"m": values, "out": values} for name, values in short.items()}
    assert judge(history)["m"].state == "unclear"
    assert judge({"loss": {"m": []}, "gradient_snr": {"m": []}})["m"].state == "unclear"
    assert judge({}) == {}


def test_an_unclear_module_says_why():
    def why(history, **options):
        found = judge({q: {"m": list(v)} for q, v in history.items()}, **options)["m"]
        assert (found.state, found.confidence) == ("unclear", 0.0)
        assert found.message == f"Unclear. {found.why}"
        return found.why

    short = {name: list(values)[:9] for name, values in HEALTHY.items()}
    assert "takes 10 measurements" in why(short) and "there are 9. Lower" in why(short)
    assert "there is 1." in why(HEALTHY, since=len(list(HEALTHY["loss"])) - 1)
    assert "does not train this module" in why(HEALTHY, frozen=("m",))
    assert "contradict" in why({"loss": [1.0] * 20, "gradient_snr": [0.0, 0.1] * 10})
    assert "gradient_snr and loss" in why({"loss": [1.0] * 20})
    assert "gradient_snr and loss" in why({"gradient_snr": [1.0] * 20})
    assert state_of().why == ""


def test_without_a_loss_of_its_own_a_module_serves_the_task():
    found = state_of(loss=[NAN] * 20, gradient_snr=[0.0] * 20, other={"loss": [1.0] * 20})
    assert found.state == "starved"
    found = state_of(loss=[NAN] * 20, gradient_snr=[0.0] * 20)
    assert found.state == "converged"


def test_an_objective_that_does_not_count_is_in_no_conflict():
    opposed = [NAN] * 15 + [-0.5] * 5
    assert state_of(local_alignment=opposed).state == "conflicting"
    assert state_of(local_alignment=opposed, loss=[NAN] * 20).state == "healthy"


def test_after_a_switch_of_modes_only_new_measurements_count():
    # Local training has brought the loss down; end to end goes on from there.
    loss = [1.0] * 5 + [0.1] * 15
    snr = [0.0] * 10 + [0.0] * 10
    assert state_of(since=10, loss=loss, gradient_snr=snr).state == "converged"
    assert state_of(since=12, loss=loss, gradient_snr=snr).state == "unclear"


def test_a_module_frozen_by_the_mode_is_not_called_frozen():
    found = state_of(frozen=("m",), update_ratio=[NAN] * 20)
    assert found.state == "unclear"


def test_the_message_has_numbers_and_a_way_out():
    words = state_of(**FLAT).message
    assert words.startswith(
        "Starved (100 % confidence): gradient_snr 0, loss 1 (1 at the start)."
    )
    assert "AutoMode" not in words or hasattr(__import__("keras_e2e").callbacks, "AutoMode")
    for state in states.STATES:
        assert state.advice or not state.alarm


def test_measurements_of_other_quantities_only_are_judged_as_far_as_they_go():
    history = {"loss": {"m": [1.0] * 20}, "update_ratio": {"m": [0.0] * 20}}
    assert judge(history)["m"].state == "frozen"
    assert judge({"loss": {"m": [1.0] * 20}})["m"].state == "unclear"


@pytest.mark.parametrize(
    ("state", "utility", "expected"),
    [
        ("healthy", 0.019, "idle"),
        ("healthy", -0.5, "idle"),
        ("healthy", 0.02, "healthy"),
        ("healthy", NAN, "healthy"),  # nothing was learned: it says nothing
        ("converged", 0.0, "idle"),
        ("starved", 0.0, "starved"),
        ("unclear", 0.0, "unclear"),
    ],
)
def test_a_module_without_which_training_does_as_well_is_idle(state, utility, expected):
    measured = {"frozen_utility": {"m": utility}, "cka": {"m": 0.5}}
    found = with_measured({"m": Verdict(state, 0.8, {"loss": 0.1})}, measured)["m"]
    assert found.state == expected
    assert found.confidence == 0.8
    assert not found.alarm or state == "starved"
    assert found.numbers["cka"] == 0.5
    assert found.numbers["loss"] == 0.1
    assert ("frozen_utility" in found.numbers) == (utility == utility)
    if expected == "idle":
        assert found.message.startswith(
            f"Idle (80 % confidence): frozen_utility {utility:.3g}."
        )

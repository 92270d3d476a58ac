"""The rules of AutoMode on histories that are given: no model, no training, no chance."""

import json
import math

import numpy as np
import pytest

from keras_e2e import TrainingMode
from keras_e2e.callbacks.auto_mode_policy import AutoModePolicy, Decision, History
from keras_e2e.diagnostics import Verdict, judge
from keras_e2e.diagnostics.states import Place

END_TO_END = TrainingMode("end_to_end")
NAMES = ("a", "b", "out")
NUMBERS = {"loss": 0.69, "loss at start": 0.7, "skill": 0.001}


def mixed(*stop):
    return TrainingMode("mixed", stop=stop)


def verdict(state, cause=""):
    return Verdict(state, 0.9, NUMBERS, cause)


def stuck(**causes):
    """Healthy modules, but for those that are starved or stalled."""
    healthy = dict.fromkeys(NAMES, verdict("healthy"))
    return healthy | {name: verdict(cause, cause) for name, cause in causes.items()}


def history(**given):
    """A history of one measurement, at a step at which verdicts count."""
    usual = {
        "mode": END_TO_END,
        "steps": [301],
        "losses": {"a": [math.nan], "b": [math.nan], "out": [0.69]},
        "verdicts": stuck(),
        "trainable_locally": {"a", "b"},
        "labeled": {"a"},
    }
    return History(**{**usual, **given})


def switch(step, *stop, cause="starved", task_loss=0.7):
    return Decision(step, mixed(*stop), "", dict.fromkeys(stop, cause), task_loss)


def back(step):
    return Decision(step, END_TO_END, "")


def test_where_every_module_is_healthy_the_mode_stays():
    found = AutoModePolicy().decide(history())
    assert found.mode == END_TO_END
    assert found.reason == "No module is starved or stalled that can be helped."
    assert found.causes == {}


def test_a_starved_module_is_trained_locally_and_the_reason_has_the_numbers():
    found = AutoModePolicy().decide(history(verdicts=stuck(b="starved")))
    assert (found.step, found.mode) == (301, mixed("b"))
    assert found.causes == {"b": "starved"}
    assert found.reason.startswith("b: Starved") and "skill" in found.reason
    assert found.reason.count(".") == found.reason.count("0.") + 1  # no advice
    assert found.reason.endswith(").") and "Give the module" not in found.reason


def test_a_surrogate_need_not_fall_before_modules_go_back_end_to_end():
    starved = verdict("starved", "starved")._replace(place=Place(surrogate=True))
    given = history(verdicts=stuck() | {"b": starved})
    found = AutoModePolicy().decide(given)
    assert (found.mode, found.task_loss) == (mixed("b"), math.inf)


def test_later_ones_join_those_that_are_trained_locally_already():
    given = history(
        mode=mixed("b"),
        decisions=[switch(50, "b")],
        verdicts=stuck(a="starved", b="starved"),
    )
    found = AutoModePolicy().decide(given)
    assert found.mode == mixed("a", "b")
    assert found.causes == {"a": "starved"}
    assert "b:" not in found.reason


@pytest.mark.parametrize("decisions", [[], [back(1000)]])
def test_after_the_start_and_after_each_switch_it_waits_for_the_warmup(decisions):
    policy = AutoModePolicy(warmup=200)
    for step, mode in ((1199, END_TO_END), (1200, mixed("a"))):
        given = history(
            steps=[step], start=1000, decisions=decisions, verdicts=stuck(a="starved")
        )
        found = policy.decide(given)
        assert found.mode == mode
        assert ("Warmup: no verdict counts for 1 more" in found.reason) == (step == 1199)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"a"}),
        ({"labeled": set()}, set()),
        ({"trainable_locally": {"b"}}, set()),  # its labels are missing from y
        ({"decisions": [switch(1, "a", cause="stalled"), back(50)]}, set()),  # tried
        ({"decisions": [switch(1, "a", cause="starved"), back(50)]}, {"a"}),
        ({"decisions": [switch(1, "b", cause="stalled"), back(50)]}, {"a"}),
    ],
)
def test_a_stalled_module_is_helped_once_and_if_it_has_labels(given, expected):
    given = history(**given, verdicts=stuck(a="stalled", b="stalled"))
    assert set(AutoModePolicy().decide(given).causes) == expected


@pytest.mark.parametrize(
    ("state", "cause", "helped"),
    [
        ("starved", "starved", True),
        ("dormant", "starved", True),  # a cause that its own objective may cure
        ("vanishing", "stalled", True),
        ("frozen", "starved", False),
        ("exploding", "starved", False),
        ("dormant", "", False),  # the module learns nevertheless
        ("healthy", "", False),
    ],
)
def test_which_verdicts_call_for_help(state, cause, helped):
    verdicts = stuck() | {"a": verdict(state, cause)}
    assert ("a" in AutoModePolicy().decide(history(verdicts=verdicts)).causes) == helped


def test_a_module_without_an_objective_is_left_alone():
    given = history(trainable_locally={"b"}, verdicts=stuck(a="starved", out="starved"))
    assert AutoModePolicy().decide(given).mode == END_TO_END


def test_what_the_task_loss_must_fall_below():
    losses = {"a": [math.nan] * 12, "b": [math.nan] * 12, "out": [9.0] * 2 + [0.6] * 10}
    steps = [*range(301, 313)]
    for causes, required in (
        ({"a": "starved"}, 0.6),  # the median of the latest ten
        ({"a": "stalled"}, math.inf),  # it had fallen before
        ({"a": "stalled", "b": "starved"}, 0.6),
    ):
        given = history(steps=steps, losses=losses, verdicts=stuck(**causes))
        assert AutoModePolicy().decide(given).task_loss == required
    # One that joins later does not change it, and a return ends it.
    joined = [switch(1, "a", task_loss=0.7), switch(300, "b", task_loss=0.2)]
    assert history(decisions=joined).required_task_loss == 0.7
    assert math.isnan(history(decisions=[*joined, back(400)]).required_task_loss)
    again = [*joined, back(400), switch(700, "b", task_loss=0.3)]
    assert history(decisions=again).required_task_loss == 0.3


PLATEAU = [1.0] * 5 + [0.3] * 40


@pytest.mark.parametrize(
    ("local", "task", "decisions", "reason"),
    [
        (PLATEAU, 0.4, [switch(0, "a")], "plateaued and the task loss falls."),
        (PLATEAU, 0.7, [switch(0, "a", task_loss=math.inf)], "plateaued."),
        (np.linspace(1, 0.1, 45), 0.4, [switch(0, "a")], None),  # still falls
        (PLATEAU, 0.7, [switch(0, "a")], None),  # the task does not move
        ([0.3] * 20, 0.4, [switch(0, "a")], None),  # too early
        (PLATEAU, 0.4, [switch(-9, "a"), back(-8), switch(0, "a")], None),  # waits longer
        ([0.3] * 45, 0.4, [switch(200, "a")], None),  # before the switch does not count
    ],
)
def test_it_goes_back_when_local_losses_plateau_and_the_task_loss_falls(
    local, task, decisions, reason
):
    given = history(
        mode=mixed("a"),
        steps=[10 * i + 1 for i in range(len(local))],
        losses={"a": list(local), "b": [], "out": [task] * len(local)},
        decisions=decisions,
    )
    found = AutoModePolicy(update_freq=10, warmup=1, patience=200).decide(given)
    if reason is None:
        assert found.mode == mixed("a")
    else:
        assert found.mode == END_TO_END
        assert found.reason == f"The local losses of ['a'] have {reason}"
        assert math.isnan(found.task_loss)


def replay(numbers, steps=1000, update_freq=10, **policy):
    """The decisions in a run whose measurements are given, and the modes by step.

    Args:
        numbers: from a step and the switches so far to the loss of a module "a" (in local
            training only), the task loss and its skill.
    """
    decisions, modes, taken, mode = [], [], [], END_TO_END
    kept = {q: {"a": [], "out": []} for q in ("loss", "skill")}
    for step in range(1, steps + 1, update_freq):
        local, task, skill = numbers(step, decisions)
        kept["loss"]["a"].append(local)
        kept["loss"]["out"].append(task)
        kept["skill"]["a"].append(math.nan)
        kept["skill"]["out"].append(skill)
        taken.append(step)
        modes.append(mode)
        since = max(i + 1 for i in range(-1, len(modes)) if i < 0 or modes[i] != mode)
        given = History(
            mode,
            taken,
            kept["loss"],
            judge(kept, taken, since),
            {"a"},
            {"a"},
            0,
            [*decisions],
        )
        found = AutoModePolicy(update_freq, **policy).decide(given)
        if found.mode != mode:
            mode = found.mode
            decisions.append(found)
    return decisions, dict(zip(taken, modes, strict=True))


def run_of_parity(step, decisions):
    """As on parity: nothing end to end; locally the module learns, and then the task."""
    if not decisions:
        return math.nan, 0.693, 0.0
    learned = math.exp(-(step - decisions[0].step) / 40)
    return 2.3 * learned + 0.1, 0.1 + 0.6 * learned, 0.85 * (1.0 - learned)


def test_a_whole_run_from_starved_to_local_and_back():
    decisions, modes = replay(run_of_parity)
    assert [d.mode for d in decisions] == [mixed("a"), END_TO_END]
    assert decisions[0].step == 101, "at the first measurement after the warmup"
    assert decisions[0].reason == "a: Starved: skill 0, loss 0.693 (0.693 at the start)."
    # The loss of a is below 1.05 times its end from step 345 on; the median of the first
    # ten of the 20 + 10 measurements that are compared lies 245 steps back.
    assert decisions[1].step == 591
    assert modes[101] == END_TO_END and modes[111] == modes[591] == mixed("a")
    assert modes[601] == END_TO_END


@pytest.mark.parametrize(("amplitude", "expected"), [(0.001, [101]), (0.5, [])])
def test_what_scatters_too_much_to_tell_changes_nothing(amplitude, expected):
    """What decides is stated exactly; whether a run gets there is a matter of chance."""

    def numbers(step, decisions):
        stray = amplitude * (-1) ** (step // 10)
        return math.nan, 0.693 + stray, stray

    decisions, _ = replay(numbers, steps=211)
    assert [d.step for d in decisions] == expected


def test_each_return_makes_the_next_take_twice_as_long():
    """A module that is starved whenever it is trained end to end."""

    def numbers(step, decisions):
        if decisions and decisions[-1].mode != END_TO_END:
            return 0.1, 0.3, 0.5
        return math.nan, 0.693, 0.0

    decisions, _ = replay(numbers, steps=3000)
    steps = [d.step for d in decisions]
    local = [steps[i + 1] - steps[i] for i in range(0, len(steps) - 1, 2)]
    assert local == [300, 500, 900]


def test_the_same_history_leads_to_the_same_decision():
    policy, given = AutoModePolicy(), history(verdicts=stuck(a="starved"))
    assert policy.decide(given) == policy.decide(given)
    assert given.decisions == []


@pytest.mark.parametrize(
    "decision", [back(7), switch(5, "a", "b"), switch(5, "a", task_loss=math.inf)]
)
def test_a_decision_can_be_written_as_json(decision):
    again = Decision.from_config(json.loads(json.dumps(decision.get_config())))
    assert again[:4] == decision[:4]
    np.testing.assert_equal(again.task_loss, decision.task_loss)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"update_freq": 0}, "AutoMode: update_freq=0: expected an integer of at least 1"),
        ({"warmup": 0}, "AutoMode: warmup=0"),
        ({"warmup": True}, "AutoMode: warmup=True"),
        ({"patience": 1.5}, r"AutoMode: patience=1\.5"),
        ({"patience": None}, "AutoMode: patience=None"),
        ({"min_delta": 1.0}, r"AutoMode: min_delta=1\.0: expected the share of a loss"),
        ({"min_delta": "x"}, "AutoMode: min_delta='x'"),
        ({"min_delta": None}, "AutoMode: min_delta=None"),
        ({"min_delta": math.nan}, "AutoMode: min_delta=nan"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        AutoModePolicy(**arguments)


def test_numbers_of_numpy_are_accepted():
    policy = AutoModePolicy(np.int64(5), np.int32(10), np.int16(20), np.float32(0.1))
    assert policy.decide(history()).mode == END_TO_END

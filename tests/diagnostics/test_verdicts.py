"""From measurements to a state: each rule, its edges and its precedence."""

import numpy as np
import pytest

from keras_e2e.diagnostics import judge, states
from keras_e2e.diagnostics.advice import advise
from keras_e2e.diagnostics.idle import with_measured
from keras_e2e.diagnostics.states import Place
from keras_e2e.diagnostics.verdicts import Verdict

NAN, INF = float("nan"), float("inf")
COUNT, EVERY = 100, 10
STEPS = range(1, COUNT * EVERY, EVERY)
SCATTER = np.random.default_rng(0).normal(size=COUNT)
# A loss that falls as a power of the step does, and one that has fallen and rests.
FALLING = 2.0 * (np.arange(COUNT) + 1.0) ** -0.5 + 0.01 * SCATTER
RESTING = np.maximum(2.0 - 0.2 * np.arange(COUNT), 0.1) + 0.001 * SCATTER
FLAT = {
    "loss": 0.69 + 0.001 * SCATTER,
    "skill": 0.001 * SCATTER,
    "descent": 1e-6 * SCATTER,
}
HALF = {"skill": 0.5 + 0.001 * SCATTER}
LATE = np.concatenate([FLAT["loss"][:85], np.full(15, 0.01) + 0.001 * SCATTER[:15]])
HEALTHY = {
    "loss": FALLING,
    "skill": 1.0 - FALLING / 2.3,
    "descent": [1e-3, 1.2e-3] * (COUNT // 2),
    "signal_gain": [0.5] * COUNT,
    "grad_rms": [0.01] * COUNT,
    "update_ratio": [1e-3] * COUNT,
    "dormant_fraction": [0.1] * COUNT,
    "local_alignment": [NAN] * COUNT,
}


def with_end(quantity, *end):
    """Healthy measurements of a quantity, the latest replaced."""
    return [*[*HEALTHY[quantity]][: COUNT - len(end)], *end]


def state_of(since=0, frozen=(), other=None, **changed):
    """The verdict on one module with these measurements, beside a healthy one."""
    mine = {**HEALTHY, **changed}
    other = {**HEALTHY, **(other or {})}
    history = {name: {"m": list(mine[name]), "out": list(other[name])} for name in HEALTHY}
    return judge(history, STEPS, since, frozen)["m"]


def test_a_module_that_learns_is_healthy():
    found = state_of()
    assert found.state == "healthy" and not found.alarm
    assert 0.95 < found.confidence <= 0.99
    assert found.numbers["loss at start"] == pytest.approx(np.median(FALLING[:3]))


@pytest.mark.parametrize(
    ("changed", "state"),
    [
        (FLAT, "starved"),
        ({"loss": RESTING, "skill": [0.95] * COUNT}, "converged"),
        ({"loss": RESTING + 1.0, "skill": [0.5] * COUNT}, "stalled"),
        # How much of a loss is left that may be below zero is not known.
        ({"loss": RESTING - 1.0, "skill": [0.6] * COUNT}, "converged"),
        ({"skill": FLAT["skill"]}, "healthy"),  # it falls
        ({"loss": FLAT["loss"]}, "healthy"),  # it has learned something
        # Nobody can tell: the scatter is larger than what was learned.
        ({"loss": 1.0 + 0.3 * SCATTER, "skill": 0.3 * SCATTER}, "unclear"),
        # A signal arrives that will lower the loss, though it does not yet; or a weak one.
        ({**FLAT, "descent": [2e-5, 3e-5] * (COUNT // 2)}, "starved"),
        ({**FLAT, "descent": [2e-4, 3e-4] * (COUNT // 2)}, "unclear"),
        ({"update_ratio": [0.0] * COUNT}, "frozen"),
        ({"update_ratio": [NAN] * COUNT, "grad_rms": [NAN] * COUNT}, "frozen"),
        ({"update_ratio": ([0.0] * 3 + [1e-3]) * (COUNT // 4)}, "healthy"),
        ({"signal_gain": [1e-5] * COUNT}, "vanishing"),
        ({"signal_gain": [0.0] * COUNT}, "vanishing"),
        ({"grad_rms": [1e-9] * COUNT}, "vanishing"),
        ({"signal_gain": [1e5] * COUNT}, "exploding"),
        ({"loss": [1.0] * 8 + [NAN] * (COUNT - 8)}, "exploding"),
        ({"grad_rms": [1.0] * 8 + [INF] * (COUNT - 8)}, "exploding"),
        ({"update_ratio": [NAN] * COUNT}, "exploding"),  # with a gradient: weights of NaN
        ({"dormant_fraction": [0.9] * COUNT}, "dormant"),
        # Units fall silent: not needed where all is learned, a fault where it is not.
        ({"dormant_fraction": with_end("dormant_fraction", *[0.9] * 10)}, "healthy"),
        ({**HALF, "dormant_fraction": with_end("dormant_fraction", *[0.9] * 8)}, "dormant"),
        ({**HALF, "dormant_fraction": with_end("dormant_fraction", *[0.9] * 7)}, "healthy"),
        # Noise silences units, too.
        (
            {**FLAT, "dormant_fraction": with_end("dormant_fraction", *[0.9] * 10)},
            "starved",
        ),
        (
            {**FLAT, "dormant_fraction": with_end("dormant_fraction", *[1.0] * 10)},
            "dormant",
        ),
        # It has just begun to learn.
        ({**FLAT, "skill": [0.0] * 92 + [*np.linspace(0.1, 0.9, 8)]}, "healthy"),
        ({**FLAT, "skill": [0.0] * 98 + [0.1, 0.9]}, "unclear"),
        # It falls at last, and has no use for what was before.
        ({"loss": LATE, "skill": 1.0 - LATE / 0.69}, "healthy"),
        ({"local_alignment": [NAN] * 90 + [-0.5, -0.4] * 5}, "conflicting"),
        ({"local_alignment": [NAN] * 97 + [-0.5] * 3}, "healthy"),  # too few
        ({"local_alignment": [NAN] * 90 + [-0.9, 0.7] * 5}, "healthy"),  # it scatters
        ({**FLAT, "update_ratio": [0.0] * COUNT}, "frozen"),
        ({**FLAT, "signal_gain": [1e-5] * COUNT}, "vanishing"),
    ],
)
def test_each_state_is_given_by_its_measurements(changed, state):
    found = state_of(**changed)
    assert found.state == state
    assert found.confidence >= 0.9 or state == "unclear"


def test_steps_get_small_where_there_is_nothing_left_to_learn():
    done = {"loss": RESTING, "skill": [0.95] * COUNT}
    assert state_of(**done, update_ratio=[1e-9] * COUNT).state == "converged"
    assert state_of(**done, update_ratio=[0.0] * COUNT).state == "frozen"
    assert state_of(update_ratio=[1e-9] * COUNT).state == "frozen"


def test_looking_often_raises_no_alarm_where_nothing_is_learned_by_chance():
    # Of 200 losses that are noise about a slow fall none is called converged at any time.
    rng = np.random.default_rng(1)
    fall = 1.0 - 0.15 * np.log2(np.arange(1, 401))  # 15 % of what there is per doubling
    for _ in range(200):
        loss = 2.0 + fall + 0.1 * rng.normal(size=400)
        for count in range(60, 401, 10):
            history = {"loss": {"m": loss[:count]}, "skill": {"m": [0.5] * count}}
            found = judge(history, range(1, 10 * count, 10))["m"]
            assert found.state != "stalled" and found.state != "converged"


def test_a_long_run_is_judged_by_its_latter_half_and_its_start():
    loss = np.concatenate([[1.0] * 3, [0.1] * 3997])
    history = {
        "loss": {"m": loss + 1e-4 * np.resize(SCATTER, 4000)},
        "skill": {"m": np.full(4000, 0.9)},
    }
    found = judge(history, range(1, 40000, 10))["m"]
    assert found.state == "converged"
    assert found.numbers["loss at start"] == pytest.approx(1.0, abs=1e-3)


def test_nothing_is_converged_before_moving_averages_have_settled():
    done = {"loss": {"m": RESTING}, "skill": {"m": [0.95] * COUNT}}
    assert judge(done, STEPS)["m"].state == "converged"
    assert judge(done, range(1, 5 * COUNT, 5))["m"].state == "healthy"


def test_without_skill_the_loss_at_the_start_is_the_level():
    def state(loss):
        return judge({"loss": {"m": loss}}, STEPS)["m"].state

    assert state(FLAT["loss"]) == "starved"
    assert state(RESTING) == "converged"
    assert state(RESTING + 1.0) == "stalled"
    assert state(FLAT["loss"] - 2.0) == "starved"  # a loss below zero
    assert state(FALLING - 3.0) == "healthy"


def test_no_signal_is_reported_beside_its_cause():
    found = state_of(**FLAT, dormant_fraction=[0.9] * COUNT)
    assert (found.state, found.no_signal_reason) == ("dormant", "starved")
    assert state_of(dormant_fraction=[0.9] * COUNT).no_signal_reason == ""
    assert state_of(**FLAT).no_signal_reason == "starved"


def test_few_measurements_are_unclear():
    short = {name: {"m": [*values][:9]} for name, values in HEALTHY.items()}
    assert judge(short, STEPS[:9])["m"].state == "unclear"
    assert judge({"loss": {"m": []}, "skill": {"m": []}}, [])["m"].state == "unclear"
    assert judge({}, []) == {}


def test_an_unclear_module_says_why():
    def why(history, **options):
        count = len(next(iter(history.values())))
        given = {q: {"m": list(v)} for q, v in history.items()}
        found = judge(given, STEPS[:count], **options)["m"]
        assert (found.state, found.confidence) == ("unclear", 0.0)
        assert found.message == f"Unclear. {found.why}"
        return found.why

    short = {name: list(values)[:9] for name, values in HEALTHY.items()}
    assert "takes 10 measurements" in why(short) and "there are 9. Lower" in why(short)
    assert "there is 1." in why(HEALTHY, since=COUNT - 1)
    assert "the training mode does not train" in why(HEALTHY, frozen=("m",))
    assert "quantity loss" in why({"skill": [1.0] * 20})
    noisy = why({"loss": 1.0 + 0.3 * SCATTER, "skill": 0.3 * SCATTER})
    assert "level of a constant prediction" in noisy
    assert int(noisy.split("about ")[1].split(" ")[0].replace(",", "")) > 1000
    assert state_of().why == ""


def test_without_a_loss_of_its_own_a_module_serves_the_task():
    none = [NAN] * COUNT
    noise = FLAT["descent"]
    assert state_of(loss=none, skill=none, descent=noise, other=FLAT).state == "starved"
    assert state_of(loss=none, skill=none).state == "healthy"
    done = {"loss": RESTING, "skill": [0.95] * COUNT}
    assert state_of(loss=none, skill=none, other=done).state == "converged"


def test_an_objective_that_does_not_count_is_in_no_conflict():
    opposed = [NAN] * 90 + [-0.5] * 10
    assert state_of(local_alignment=opposed).state == "conflicting"
    assert state_of(local_alignment=opposed, loss=[NAN] * COUNT).state == "healthy"


def test_after_a_switch_of_modes_only_new_measurements_count():
    # Local training has brought the loss down; end to end goes on from there.
    loss = np.concatenate([[2.0] * 10, RESTING[-1] + 0.001 * SCATTER[10:]])
    skill = [0.0] * 10 + [0.95] * 90
    assert state_of(since=10, loss=loss, skill=skill).state == "converged"
    assert state_of(since=95, loss=loss, skill=skill).state == "unclear"


def test_a_module_frozen_by_the_mode_is_not_called_frozen():
    found = state_of(frozen=("m",), update_ratio=[NAN] * COUNT)
    assert found.state == "unclear"


def test_a_loss_of_zero_has_no_gradient_and_no_fault():
    zero = {"loss": [1.0] * 5 + [0.0] * (COUNT - 5), "skill": [0.5] * 5 + [1.0] * 95}
    nothing = {"grad_rms": [0.0] * COUNT, "signal_gain": [NAN] * COUNT}
    nothing["update_ratio"] = [0.0] * COUNT
    assert state_of(**zero, **nothing, other={**zero, **nothing}).state == "converged"


def test_nothing_but_nan_is_no_frozen_module():
    nothing = {"update_ratio": [NAN] * COUNT, "grad_rms": [NAN] * COUNT}
    history = {name: {"m": [*values]} for name, values in {**HEALTHY, **nothing}.items()}
    for trained, state in ((None, "frozen"), (False, "frozen"), (True, "exploding")):
        places = {"m": Place(task=True, trained=trained)}
        assert judge(history, STEPS, places=places)["m"].state == state


def chain(**changed):
    """The verdicts on four modules; `changed` by module."""
    history = {
        quantity: {
            name: list(changed.get(name, {}).get(quantity, values))
            for name in ("a", "b", "c", "out")
        }
        for quantity, values in HEALTHY.items()
    }
    for name in ("a", "b", "c"):
        history["loss"][name] = history["skill"][name] = [NAN] * COUNT
    return judge(history, STEPS)


NOISE = {"descent": FLAT["descent"]}
NO_GRADIENT = {**NOISE, "grad_rms": [0.0] * COUNT, "signal_gain": [NAN] * COUNT}
DEAD = {"dormant_fraction": [1.0] * COUNT, "signal_gain": [0.0] * COUNT}


@pytest.mark.parametrize(
    ("changed", "cause", "effects"),
    [
        # Dead units: no signal before them, no input behind.
        ({"a": NO_GRADIENT, "b": DEAD, "c": DEAD, "out": FLAT}, "b", ["a", "c", "out"]),
        # What swallows the signal starves those before it.
        ({"a": NO_GRADIENT, "b": {"signal_gain": [1e-6] * COUNT}}, "b", ["a"]),
        ({"a": NO_GRADIENT, "b": NO_GRADIENT, "c": {"signal_gain": [0.0] * COUNT}}, "c",
         ["a", "b"]),
        # Saturated units at the start: the signal arrives, and goes no further.
        ({"a": NO_GRADIENT, "b": {"dormant_fraction": [0.9] * COUNT}}, "a", ["b"]),
        ({"c": {"signal_gain": [1e6] * COUNT}, "a": DEAD}, "c", ["a"]),
        # Where the signal died on the way its old numbers count for nothing.
        (
            {
                "a": NO_GRADIENT,
                "b": {**NO_GRADIENT, "signal_gain": [0.5] * 20 + [NAN] * 80},
                "c": {**NO_GRADIENT, "signal_gain": [0.5] * 20 + [0.0] * 80},
            },
            "c",
            ["a", "b"],
        ),
        # Weights of NaN behind which a ReLU makes zeros.
        ({"a": {"update_ratio": [NAN] * COUNT}, "b": DEAD, "c": DEAD}, "a", ["b", "c"]),
        (dict.fromkeys(("a", "b", "c"), NOISE) | {"out": FLAT}, "a", ["b", "c", "out"]),
        ({"out": {"loss": [NAN] * COUNT}}, "a", ["b", "c", "out"]),
    ],
)  # fmt: skip
def test_one_fault_raises_one_alarm(changed, cause, effects):
    found = chain(**changed)
    assert [name for name, verdict in found.items() if verdict.alarm] == [cause]
    assert [name for name, verdict in found.items() if verdict.cause == cause] == effects
    for name in effects:
        assert found[name].message.endswith(f"Effect of {cause}: mend that first.")


def test_a_module_that_gets_a_gradient_and_does_not_follow_is_a_fault_of_its_own():
    still = {"update_ratio": [0.0] * COUNT}
    found = chain(a=still, c={**still, **NO_GRADIENT}, b={"signal_gain": [1e-6] * COUNT})
    assert [name for name, verdict in found.items() if verdict.alarm] == ["a", "b"]


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (Place(task=True), "inputs and targets belong together"),
        (Place(objective="Prediction"), "train it by its own objective"),
        (
            Place(objective="IntermediateTarget", labels=False),
            "labels that y does not hold",
        ),
        (Place(objective="IntermediateTarget", labels=True), "train it by its own"),
        (Place(), "give its boundary an objective"),
        (Place(task=True, surrogate=True), "check that returns differ from episode to"),
    ],
)
def test_advice_fits_what_the_module_is_and_has(place, words):
    verdict = state_of(**FLAT)._replace(place=place)
    assert words in verdict.message
    assert Place.from_code(place.code)._replace(objective=place.objective) == place


def test_nobody_is_told_to_normalize_what_is_normalized():
    for state in ("vanishing", "exploding"):
        assert "normalize" in advise(state, Place())
        assert "normalize" not in advise(state, Place(normalized=True))


def test_the_message_has_numbers_and_a_way_out():
    words = state_of(**FLAT).message
    assert words.startswith("Starved (99 % confidence): skill ")
    assert "loss 0.69 (0.69 at the start)." in words
    for state in states.STATES:
        assert state.advice or not state.alarm


def test_measurements_of_other_quantities_only_are_judged_as_far_as_they_go():
    history = {"loss": {"m": FALLING}, "update_ratio": {"m": [0.0] * COUNT}}
    assert judge(history, STEPS)["m"].state == "frozen"
    assert judge({"loss": {"m": FALLING}}, STEPS)["m"].state == "healthy"


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


def test_what_is_learned_in_the_last_measurements_is_seen():
    """Three skills above all before, of thirty or more, or four, are no chance."""
    flat = {"loss": 0.69 + 0.01 * SCATTER, "skill": 0.02 * SCATTER}

    def with_skills(*latest, count=COUNT):
        skills = [*flat["skill"][: count - len(latest)], *latest]
        losses = [*flat["loss"][: count - len(latest)], *(0.69 * (1 - s) for s in latest)]
        history = {"loss": {"m": losses}, "skill": {"m": skills}}
        return judge(history, STEPS[:count])["m"].state

    assert with_skills() == "starved"
    assert with_skills(0.3, 0.4, 0.35) == "healthy"
    assert with_skills(0.3, 0.35) != "healthy"
    assert with_skills(0.3, -0.1, 0.35) != "healthy"
    assert with_skills(0.3, 0.4, 0.35, count=29) != "healthy"
    assert with_skills(0.3, 0.4, 0.35, 0.5, count=29) == "healthy"


def test_advice_goes_by_the_numbers():
    flat = advise("starved", Place(), {"update_ratio": 1e-3})
    assert flat.startswith("First check that inputs and targets belong together")
    small = advise("starved", Place(), {"update_ratio": 5e-6})
    assert small.startswith("The steps are small (update_ratio 5e-06")
    some = {"dormant_fraction": 0.8, "skill": 0.0}
    assert "inputs and targets" in advise("dormant", Place(), some)
    for other in ({**some, "dormant_fraction": 1.0}, {**some, "skill": 0.5}, {}):
        assert "inputs and targets" not in advise("dormant", Place(), other)


def test_a_loss_far_above_a_constant_prediction_s_is_a_matter_of_scale():
    wild = {"loss": 2.0, "skill": -1.0, "loss at start": 30.0}
    for state in ("starved", "unclear"):
        said = advise(state, Place(), wild)
        assert said.startswith("At the start the loss was 30 times that of a constant")
    for state, then in (("vanishing", "look for sat"), ("dormant", "lower the learning")):
        said = advise(state, Place(), wild)
        assert said.startswith("At the start the loss was 30 times")
        assert f"If that is not it: {then}" in said
    usual = {**wild, "loss at start": 9.0}
    assert advise("vanishing", Place(), usual).startswith("Look for saturated units")
    assert advise("unclear", Place(), usual) == ""
    # A loss that may be negative has no scale to compare with.
    assert advise("unclear", Place(), {**wild, "loss": -2.0}) == ""


def test_no_gradient_at_all_is_told_from_inputs_next_to_nothing():
    still = {"grad_rms": 0.0, "update_ratio": 0.0, "skill": 0.0, "loss": 15.0}
    for state in ("starved", "unclear"):
        assert advise(state, Place(), still).startswith("The gradient is exactly 0")
        moving = advise(state, Place(), {**still, "grad_rms": 1e-3, "update_ratio": 1e-3})
        assert moving.startswith("The predictions do not depend on the inputs")


def test_what_is_not_trainable_is_told_from_what_does_not_move():
    words = "None of its weights is trainable"
    assert words in advise("frozen", Place(), {"grad_rms": 0.1})
    for numbers in ({"update_ratio": 0.0}, {}):
        assert words not in advise("frozen", Place(), numbers)


def test_numbers_that_are_not_finite_are_named():
    verdict = state_of(loss=[1.0] * 8 + [NAN] * (COUNT - 8))
    assert "loss in 10 of the latest 10 measurements" in verdict.message
    assert "grows" not in verdict.message
    assert "Some weights have become NaN" in state_of(update_ratio=[NAN] * COUNT).message


def test_what_is_not_a_number_is_no_evidence_in_words():
    assert states.summary("vanishing", 0.9, {"signal_gain": NAN, "grad_rms": 0.0}) == (
        "Vanishing (90 % confidence): grad_rms 0"
    )


def judged_by_surrogate(since=0, module="m", **changed):
    """The verdict on a module that serves a surrogate, without a loss of its own."""
    task = {**HEALTHY, **changed}
    none = {"loss": [NAN] * COUNT, "skill": [NAN] * COUNT}
    history = {
        name: {"m": list({**task, **none}[name]), "out": list(task[name])}
        for name in HEALTHY
    }
    places = {"m": Place(), "out": Place(task=True, surrogate=True)}
    return judge(history, STEPS, since, places=places)[module]


@pytest.mark.parametrize("module", ["m", "out"])
@pytest.mark.parametrize(
    "changed",
    [
        {},  # it falls
        {"loss": RESTING, **HALF},
        {"loss": 0.01 * SCATTER, "skill": np.sign(SCATTER)},  # all actions are right
        {"loss": 0.01 * SCATTER, "skill": -0.7 + 0.1 * SCATTER},
        {"loss": 0.01 * SCATTER, "skill": 0.2 + 0.1 * SCATTER},  # learned by heart
    ],
)
def test_the_value_of_a_surrogate_says_nothing(changed, module):
    found = judged_by_surrogate(module=module, **changed)
    assert found.state == "unclear" and not found.no_signal_reason
    assert found.place.surrogate and "surrogate" in found.message
    assert not {"loss", "loss at start"} & {*found.numbers}


def test_predictions_that_stay_the_same_for_all_examples_are_starved():
    found = judged_by_surrogate(**FLAT)
    assert found.state == found.no_signal_reason == "starved"
    assert "thousand" not in found.message and "skill" in found.message
    early = judged_by_surrogate(since=60, **FLAT)  # for 400 steps
    assert early.state == "unclear"
    usable = {**FLAT, "descent": np.full(COUNT, 1e-3)}
    assert judged_by_surrogate(**usable).state == "unclear"


def test_faults_show_whatever_the_loss_is():
    assert judged_by_surrogate(update_ratio=[0.0] * COUNT, module="out").state == "frozen"
    nan = np.where(np.arange(COUNT) < 80, 0.1, NAN)
    assert judged_by_surrogate(loss=nan, module="out").state == "exploding"


def test_a_place_with_a_surrogate_goes_through_a_log():
    for surrogate in (False, True):
        place = Place(task=True, labels=True, normalized=True, surrogate=surrogate)
        assert Place.from_code(place.code) == place


def test_what_has_no_weights_can_swallow_the_signal_too():
    """A layer that scales by 1e-6 is the cause; those before it only lack the signal."""
    history = {
        "loss": {"c": HEALTHY["loss"]},
        "skill": {"c": [0.5] * COUNT},
        "grad_rms": {"a": [1e-9] * COUNT, "b": [1e-9] * COUNT, "c": [1.0] * COUNT},
        "update_ratio": {name: [1e-3] * COUNT for name in "abc"},
        "signal_gain": {"b": [1.4] * COUNT, "scaling": [1e-6] * COUNT, "c": [1.0] * COUNT},
        "dormant_fraction": {name: [0.0] * COUNT for name in ("a", "b", "scaling", "c")},
    }
    order = ("a", "b", "scaling", "c")
    nothing = [np.nan] * COUNT
    history = {q: {m: v.get(m, nothing) for m in order} for q, v in history.items()}
    found = judge(history, STEPS, frozen=["scaling"])
    assert found["scaling"].state == "vanishing" and found["scaling"].alarm
    assert found["a"].cause == found["b"].cause == "scaling"
    assert found["c"].state == "healthy"


def test_advice_for_a_signal_that_grows_depends_on_whether_numbers_are_finite():
    assert "far larger" in advise("exploding", Place(), {"loss": 0.4})
    assert "NaN" in advise("exploding", Place(), {"loss": np.nan})
    assert "NaN" in advise("exploding", Place())

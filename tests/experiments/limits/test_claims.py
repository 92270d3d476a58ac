"""Each claim is judged by its rule, with the numbers of the runs."""

import math

import numpy as np
import pytest
import sample_runs as made

from keras_e2e.experiments.limits import claims, comparisons, summary


def judged(*groups):
    rows = [row for group in groups for row in group]
    return {claim.name: claim for claim in claims.judge(summary.sections(rows))}


def cell(*steps):
    """Runs that were above the mark at these steps, None: never."""
    rows = [
        (made.setting(seed=i), made.result(reached=step)) for i, step in enumerate(steps)
    ]
    return summary.Cell("end_to_end", 3, tuple(rows))


def mann_whitney(first, second):
    """The share of pairs, and p by the normal approximation with ties and continuity."""
    n, m = len(first), len(second)
    u = sum((a > b) + 0.5 * (a == b) for a in first for b in second)
    counts = np.unique([*first, *second], return_counts=True)[1]
    ties = (counts**3 - counts).sum() / ((n + m) * (n + m - 1))
    deviation = math.sqrt(n * m / 12 * (n + m + 1 - ties))
    z = (abs(u - n * m / 2) - 0.5) / deviation
    return u / (n * m), math.erfc(max(z, 0) / math.sqrt(2))


def test_a_breakdown_that_the_others_do_not_have_supports_all_but_c3():
    found = judged(
        made.runs("end_to_end", 0, 10),
        made.runs("deep_supervision", 10),
        made.runs("greedy", 10),
    )
    verdicts = {name: claim.verdict for name, claim in found.items()}
    assert verdicts == dict.fromkeys(("C1", "C2", "C3", "C4"), "supports")
    (c2, _) = found["C2"].findings
    assert c2.numbers.startswith(
        "end to end 10 of 10 [0.72, 1.00], deep_supervision 0 of 10 [0.00, 0.28]; "
        "difference +1.00 [+0.61, +1.00]"
    )
    assert "below 0.02 in 10 of the 10" in c2.numbers
    assert found["C4"].places("supports") == {
        "parity on digits, all labels, 300 steps": [
            "deep_supervision at k = 3",
            "greedy at k = 3",
        ]
    }


def test_no_difference_supports_nothing():
    found = judged(made.runs("end_to_end", 10), made.runs("deep_supervision", 10))
    assert {found[name].verdict for name in ("C1", "C2", "C4")} == {"does not support"}
    assert found["C3"].verdict == "not measured"


def test_a_difference_the_other_way_supports_nothing():
    found = judged(made.runs("end_to_end", 10), made.runs("deep_supervision", 0, 10))
    assert {found[name].verdict for name in ("C1", "C2", "C4")} == {"does not support"}
    assert "later in 0 % of pairs" in found["C1"].findings[0].numbers


def test_the_interval_decides_not_the_rate():
    # 10 and 7 of 10: the interval of the difference reaches below 0; 10 and 6: it does not.
    for bad, verdict in ((3, "does not support"), (4, "supports")):
        low = summary.newcombe(10, 10, 10 - bad, 10)[0]
        assert (low > 0) == (verdict == "supports")
        found = judged(
            made.runs("end_to_end", 10 - bad, bad), made.runs("deep_supervision", 10)
        )
        assert found["C4"].verdict == found["C2"].verdict == verdict


@pytest.mark.parametrize(("mine", "theirs"), [(9, 10), (10, 9)])
def test_fewer_than_ten_seeds_make_no_claim(mine, theirs):
    found = judged(made.runs("end_to_end", 0, mine), made.runs("deep_supervision", theirs))
    assert {found[name].verdict for name in ("C1", "C2", "C4")} == {"no claim"}
    assert judged(made.runs("last_first", 9))["C3"].verdict == "no claim"


def test_without_runs_to_compare_it_is_not_measured():
    for claim in judged(made.runs("end_to_end", 10)).values():
        assert claim.verdict == "not measured"


def test_later_is_judged_by_mann_whitney_with_never_as_latest():
    never = None
    first, second = cell(900, 800, never, never, 500), cell(200, 500, 700, never, 200)
    found = comparisons.inefficiency(first, second)
    steps = ([9, 8, 99, 99, 5], [2, 5, 7, 99, 2])
    share, p = mann_whitney(*steps)
    assert f"later in {100 * share:.0f} % of pairs, p = {p:.2g}" in found.numbers
    assert "end to end in 3 of 5, median step 800" in found.numbers
    assert "in 4 of 5, median step 350" in found.numbers
    assert not found.supports and p > 0.05


def test_all_at_the_same_step_is_no_difference():
    for step in (200, None):
        found = comparisons.inefficiency(cell(*[step] * 10), cell(*[step] * 10))
        assert not found.supports and "p = 1" in found.numbers


def test_slower_alone_supports_inefficiency_but_no_breakdown():
    found = judged(
        made.runs("end_to_end", 10, reached=(200, 300)),
        made.runs("deep_supervision", 10, reached=(100,)),
    )
    assert found["C1"].verdict == "supports"
    assert found["C2"].verdict == found["C4"].verdict == "does not support"


@pytest.mark.parametrize(
    ("accuracy", "ceiling", "broken"),
    [
        (0.51, 0.52, True),
        (0.549, 0.549, True),
        (0.55, 0.52, False),  # a tenth of the way
        (0.51, 0.9, False),  # the first module has learned
        (0.51, None, None),
        (None, 0.52, None),
    ],
)
def test_a_run_breaks_down_if_accuracy_and_first_module_are_at_chance(
    accuracy, ceiling, broken
):
    assert comparisons.broken_down(made.result(accuracy, ceiling=ceiling)) is broken


def test_a_task_without_a_ceiling_has_no_measured_breakdown():
    rows = made.runs("end_to_end", 0, 10) + made.runs("deep_supervision", 10)
    rows = [(setting, {**result, "ceiling": None}) for setting, result in rows]
    assert judged(rows)["C2"].verdict == "not measured"


def test_runs_whose_breakdown_is_unknown_are_no_seeds():
    rows = made.runs("end_to_end", 0, 10)
    rows[0] = (rows[0][0], {**rows[0][1], "ceiling": None})
    found = judged(rows, made.runs("deep_supervision", 10))["C2"]
    assert found.verdict == "no claim"
    assert found.findings[0].numbers.startswith("end to end 9 of 9")


def test_the_signal_is_that_of_the_second_half_of_the_first_module():
    readings = [[10, 9.0], [20, 8.0], [30, None], [40, 0.3], [50, 0.1]]
    run = {"snr": {"first": readings, "second": [[10, 5.0]]}}
    assert comparisons.first_snr(run) == pytest.approx(np.median([0.3, 0.1]))
    assert comparisons.first_snr({"snr": {"first": [], "second": [[10, 5.0]]}}) is None
    assert comparisons.first_snr({}) is None


@pytest.mark.parametrize(
    ("good", "bad", "verdict"),
    [(9, 1, "supports"), (8, 2, "does not support"), (0, 10, "does not support")],
)
def test_modules_through_a_frozen_last_one_have_to_learn_in_most_seeds(good, bad, verdict):
    assert (summary.wilson(good, good + bad)[0] > 0.5) == (verdict == "supports")
    assert judged(made.runs("last_first", good, bad))["C3"].verdict == verdict


def test_a_last_module_is_judged_where_the_earlier_ones_allow_the_mark():
    found = judged(made.runs("greedy", 10, 3))["C3"]
    assert found.verdict == "supports"
    (one,) = found.findings
    assert one.numbers == (
        "10 of 10 [0.72, 1.00]; in 3 more the first module did not allow the mark"
    )
    assert judged(made.runs("greedy", 0, 10))["C3"].verdict == "not measured"


def test_that_the_last_module_had_learned_is_shown_by_another_regime():
    found = judged(made.runs("last_first", 0, 10), made.runs("independent", 10))["C3"]
    assert "succeeds in 10 of 10 (independent)" in found.findings[0].numbers


def test_findings_that_differ_are_counted():
    found = judged(
        *[made.runs("end_to_end", 10, k=k) for k in (1, 2)],
        *[made.runs("deep_supervision", 10, k=k) for k in (1, 2, 3)],
        made.runs("end_to_end", 0, 10, k=3),
        made.runs("end_to_end", 0, 5, k=4),
        made.runs("deep_supervision", 5, k=4),
    )["C4"]
    assert found.verdict == "supports in 1 of 3 comparisons"
    (places,) = found.places("does not support").values()
    assert places == ["deep_supervision at k = 1, 2"]
    (places,) = found.places("no claim").values()
    assert places == ["deep_supervision at k = 4"]

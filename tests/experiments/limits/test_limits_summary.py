"""The numbers of a sweep, against what NumPy and closed forms make of the same runs."""

import math

import numpy as np
import pytest
import sample_runs as made

from keras_e2e.experiments.command import CommandError
from keras_e2e.experiments.limits import summary
from keras_e2e.experiments.limits.setting import Setting

Z = 1.959963984540054


def wilson(count, total):
    rate = count / total
    middle = (rate + Z**2 / (2 * total)) / (1 + Z**2 / total)
    half = Z / (1 + Z**2 / total)
    half *= math.sqrt(rate * (1 - rate) / total + Z**2 / (4 * total**2))
    return middle - half, middle + half


@pytest.mark.parametrize(("count", "total"), [(0, 10), (1, 2), (7, 10), (10, 10)])
def test_the_interval_of_a_rate_is_wilsons(count, total):
    assert summary.wilson(count, total) == pytest.approx(wilson(count, total), abs=1e-9)


@pytest.mark.parametrize(
    "counts", [(56, 70, 48, 80), (9, 10, 3, 10), (0, 10, 0, 20), (10, 10, 0, 20)]
)
def test_the_interval_of_a_difference_is_newcombes(counts):
    a, n, b, m = counts
    (low, high), (low_other, high_other) = wilson(a, n), wilson(b, m)
    p, q = a / n, b / m
    below = math.sqrt((p - low) ** 2 + (high_other - q) ** 2)
    above = math.sqrt((high - p) ** 2 + (q - low_other) ** 2)
    expected = p - q - below, p - q + above
    assert summary.newcombe(*counts) == pytest.approx(expected, abs=1e-9)


def test_a_difference_seen_from_the_other_side_has_the_other_sign():
    low, high = summary.newcombe(9, 10, 3, 12)
    assert summary.newcombe(3, 12, 9, 10) == pytest.approx((-high, -low))


def test_a_cell_counts_and_takes_medians_over_its_seeds():
    accuracies = [0.9, 0.5, 0.95, 0.8]
    rows = [(made.setting(seed=i), made.result(a)) for i, a in enumerate(accuracies)]
    (section,) = summary.sections(rows)
    cell = section.cells["end_to_end", 3]
    assert (cell.successes, cell.seeds) == (3, 4)
    assert cell.interval == pytest.approx(wilson(3, 4), abs=1e-9)
    assert cell.median("accuracy") == pytest.approx(np.median(accuracies))
    assert cell.median("spent", "seconds") == 1.5
    assert cell.median("modules", "symbols", "purity") == 0.8
    assert cell.reached == [200, math.inf, 200, 200]
    assert cell.median("reached") == 200  # of those that got there


def test_what_is_missing_counts_in_no_median():
    rows = [
        (made.setting(seed=0), made.result(0.9)),
        (made.setting(seed=1), made.result(None, spent=None, modules=None)),
        (made.setting(seed=2), {}),
    ]
    (section,) = summary.sections(rows)
    cell = section.cells["end_to_end", 3]
    assert (cell.successes, cell.seeds) == (1, 3)
    assert cell.median("accuracy") == 0.9
    assert cell.median("spent", "labels") == 0
    assert cell.median("nothing", "there") is None
    assert section.modules == ["symbols"]


def test_the_seeds_are_in_order_however_the_rows_come():
    rows = made.runs("deep_supervision", 4)
    (section,) = summary.sections(reversed(rows))
    assert section.cells["deep_supervision", 3].runs == tuple(rows)


def test_only_what_can_be_compared_stands_in_one_section():
    changes = [
        {},
        {"task": "sum_mod_10"},
        {"data": "fashion_mnist"},
        {"steps": 600},
        {"batch_size": 64},
        {"examples": 10},
    ]
    rows = [
        (made.setting("deep_supervision", **change), made.result()) for change in changes
    ]
    titles = [section.title for section in summary.sections(rows)]
    assert titles == [
        "parity on digits, all labels, 300 steps",
        "sum_mod_10 on digits, all labels, 300 steps",
        "parity on fashion_mnist, all labels, 300 steps",
        "parity on digits, all labels, 600 steps",
        "parity on digits, all labels, 300 steps, batches of 64",
        "parity on digits, all labels, 300 steps, 10 examples",
    ]


def test_regimes_without_labels_stand_beside_every_number_of_labels():
    rows = [
        *made.runs("end_to_end", 1, k=2),
        *made.runs("end_to_end", 1, k=3),
        *made.runs("deep_supervision", 1, k=3),
        *made.runs("deep_supervision", 1, k=3, labels=30),
        *made.runs("deep_supervision", 1, k=3, labels=100),
    ]
    found = [(s.labels, sorted(s.cells)) for s in summary.sections(rows)]
    both = [("deep_supervision", 3), ("end_to_end", 3)]
    assert found == [
        (None, both),
        (100, both),
        (30, both),
        (None, [("end_to_end", 2)]),
    ]


def test_regimes_and_sizes_are_in_order():
    rows = [
        *made.runs("zebra", 1, k=10),
        *made.runs("deep_supervision", 1, k=2),
        *made.runs("end_to_end", 1, k=10),
    ]
    (section,) = [s for s in summary.sections(rows) if s.sizes == [2, 10]]
    assert section.regimes == ["end_to_end", "deep_supervision", "zebra"]
    assert [cell.k for cell in section.rows()] == [10, 2, 10]


def test_two_learning_rates_for_one_place_are_refused():
    rows = [
        *made.runs("deep_supervision", 1),
        *made.runs("deep_supervision", 1, learning_rate=0.01),
    ]
    with pytest.raises(
        CommandError, match=r"deep_supervision.*seed 0.*0\.01.*one learning rate"
    ):
        summary.sections(rows)


def test_a_learning_rate_of_its_own_for_each_regime_is_fine():
    rows = [*made.runs("deep_supervision", 1), *made.runs("local", 1, learning_rate=0.01)]
    (section,) = summary.sections(rows)
    assert section.regimes == ["deep_supervision", "local"]


def test_a_record_has_all_but_the_series():
    line = summary.record(made.setting(labels=5), made.result(0.9, labels=7))
    assert line["labels"] == 5 and line["spent_labels"] == 7
    assert line["accuracy"] == 0.9 and line["purity_symbols"] == 0.8
    assert not any(isinstance(value, list | dict) for value in line.values())
    assert set(Setting.__dataclass_fields__) <= set(line)

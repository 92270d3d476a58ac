"""Tuning of the learning rate: on seeds of its own, repeatable, never worse than before."""

import dataclasses
import math

import pytest

from keras_e2e.experiments.limits import tuning
from keras_e2e.experiments.limits.presets import FIRST_TUNING_SEED, Grid

SETTINGS = Grid(k=(3, 4), regimes=("deep_supervision", "auto"), seeds=3).settings()
BEST = {"deep_supervision": 4e-4, "auto": 6e-3}


class Measured:
    """Validation is best at one rate for each regime; notes what was asked for."""

    def __init__(self, failing=()):
        self.rounds, self.failing = [], failing

    def __call__(self, settings, title):
        self.rounds.append(settings)
        return [None if s.regime in self.failing else self.result(s) for s in settings]

    def result(self, setting):
        away = math.log10(setting.learning_rate) - math.log10(BEST[setting.regime])
        return {"validation": 1.0 - abs(away)}


def test_each_regime_gets_a_rate_near_its_best_and_nothing_else_changes():
    tuned, chosen = tuning.tune(SETTINGS, Measured(), trials=20)
    assert [dataclasses.replace(s, learning_rate=1e-3) for s in tuned] == SETTINGS
    for setting in tuned:
        assert 0.7 < setting.learning_rate / BEST[setting.regime] < 1.4
    assert len(chosen) == 4 and all(one.validation > 0.8 for one in chosen)
    # All seeds of a regime are run at the same rate.
    assert len({(s.k, s.regime, s.learning_rate) for s in tuned}) == 4


def test_the_seeds_of_tuning_are_those_of_no_reported_run():
    measured = Measured()
    tuning.tune(SETTINGS, measured, trials=3)
    seeds = {setting.seed for wanted in measured.rounds for setting in wanted}
    assert seeds == set(tuning.SEEDS) and min(seeds) >= FIRST_TUNING_SEED


def test_the_first_trial_is_the_given_rate_so_that_tuning_cannot_choose_worse():
    measured = Measured()
    settings = [dataclasses.replace(s, learning_rate=BEST["auto"]) for s in SETTINGS]
    tuned, _ = tuning.tune(settings, measured, trials=4)
    assert all(s.learning_rate == BEST["auto"] for s in measured.rounds[0])
    assert all(s.learning_rate == BEST["auto"] for s in tuned if s.regime == "auto")


def test_trials_are_within_the_range_and_all_regimes_are_tried_at_once():
    measured = Measured()
    tuning.tune(SETTINGS, measured, trials=6)
    assert [len(wanted) for wanted in measured.rounds] == [4 * len(tuning.SEEDS)] * 6
    rates = [s.learning_rate for wanted in measured.rounds for s in wanted]
    assert min(rates) >= 1e-4 and max(rates) <= 1e-2


def test_the_same_results_lead_to_the_same_trials():
    one, two = Measured(), Measured()
    assert tuning.tune(SETTINGS, one, 7) == tuning.tune(SETTINGS, two, 7)
    assert one.rounds == two.rounds


def test_a_regime_whose_trials_fail_keeps_its_rate():
    tuned, chosen = tuning.tune(SETTINGS, Measured(failing=["deep_supervision"]), trials=3)
    for setting in tuned:
        assert (setting.learning_rate == 1e-3) == (setting.regime == "deep_supervision")
    assert [one.validation is None for one in chosen] == [True, False] * 2


@pytest.mark.parametrize("validation", [None, 0.0])
def test_a_run_that_diverged_counts_as_failed_not_as_zero(validation):
    def measure(settings, title):
        return [{"validation": validation} for _ in settings]

    _, chosen = tuning.tune(SETTINGS[:1], measure, trials=2)
    assert chosen[0].validation == validation

"""Chooses the learning rate of each regime by runs that are not reported."""

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import optuna

from keras_e2e.experiments.limits.presets import FIRST_TUNING_SEED
from keras_e2e.experiments.limits.setting import Setting

LOWEST, HIGHEST = 1e-4, 1e-2
# Two: whether a run succeeds depends on its seed.
SEEDS = (FIRST_TUNING_SEED, FIRST_TUNING_SEED + 1)
# Trials at random before the sampler learns from them.
RANDOM_TRIALS = 4

Measure = Callable[[list[Setting], str], Sequence[dict[str, Any] | None]]


class Tuned(NamedTuple):
    """What was chosen for settings that differ in nothing but their seed.

    Attributes:
        setting: `Setting`, one of them, with the rate that was chosen.
        validation: Float or `None`: the mean validation metric at that rate; `None` if
            every run failed, and the rate is the one that was given.
    """

    setting: Setting
    validation: float | None


def tune(
    settings: Iterable[Setting], measure: Measure, trials: int = 8
) -> tuple[list[Setting], list[Tuned]]:
    """Gives each setting the learning rate that is best on validation data.

    The rate is the same for settings that differ in their seed alone. It is chosen by
    seeds that no reported run has. The first trial is the rate that the settings have, if
    it is one of those that are tried: the others are chosen by Optuna's tree-structured
    Parzen estimator (Bergstra et al. 2011) from 1e-4 to 1e-2, on a logarithmic scale. The
    same trials follow from the same results: with results that are stored, an interrupted
    tuning goes on where it was.

    Args:
        settings: The `Setting`s to be run, any number of seeds of each.
        measure: Function from a list of settings and a title to the list of their
            results, None for one that failed.
        trials: Integer, the number of rates to try for each. Defaults to 8.

    Returns:
        The settings, in their order, with their rate; and what was chosen.

    Example:

    >>> import math
    >>> from keras_e2e.experiments.limits import tuning
    >>> from keras_e2e.experiments.limits.setting import Setting
    >>> def measure(settings, title):
    ...     rates = [setting.learning_rate for setting in settings]
    ...     return [{"validation": -abs(math.log10(rate) + 2.5)} for rate in rates]
    >>> settings = [Setting("parity", 4, "auto", seed=seed) for seed in range(3)]
    >>> tuned, _ = tuning.tune(settings, measure)
    >>> [setting.seed for setting in tuned], 1e-3 < tuned[0].learning_rate < 1e-2
    ([0, 1, 2], True)
    """
    settings = list(settings)
    studies = {alike: _study(alike) for alike in dict.fromkeys(map(_alike, settings))}
    for number in range(trials):
        _try(studies, measure, f"Tuning, trial {number + 1} of {trials}")
    best = {alike: _best(alike, study) for alike, study in studies.items()}
    tuned = [
        dataclasses.replace(s, learning_rate=best[_alike(s)].setting.learning_rate)
        for s in settings
    ]
    return tuned, list(best.values())


def _alike(setting: Setting) -> Setting:
    """What settings that are tuned together have in common."""
    return dataclasses.replace(setting, seed=0)


def _study(setting: Setting) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(
        seed=int(setting.key()[:8], 16), n_startup_trials=RANDOM_TRIALS
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    if LOWEST <= setting.learning_rate <= HIGHEST:
        study.enqueue_trial({"learning_rate": setting.learning_rate})
    return study


def _try(studies: dict[Setting, optuna.Study], measure: Measure, title: str) -> None:
    """One trial of each study, all at once, whatever the number of workers."""
    asked = [(study, study.ask()) for study in studies.values()]
    wanted = []
    for alike, (_, trial) in zip(studies, asked, strict=True):
        rate = _rounded(trial.suggest_float("learning_rate", LOWEST, HIGHEST, log=True))
        wanted += [
            dataclasses.replace(alike, learning_rate=rate, seed=seed) for seed in SEEDS
        ]
    results = measure(wanted, title)
    for i, (study, trial) in enumerate(asked):
        part = results[i * len(SEEDS) : (i + 1) * len(SEEDS)]
        values = [result["validation"] for result in part if result is not None]
        if len(values) < len(SEEDS) or None in values:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, statistics.fmean(values))


def _best(alike: Setting, study: optuna.Study) -> Tuned:
    try:
        best = (
            study.best_trial
        )  # at a draw the earlier one, such as the rate that was given
    except ValueError:  # every trial failed
        return Tuned(alike, None)
    rate = _rounded(best.params["learning_rate"])
    return Tuned(dataclasses.replace(alike, learning_rate=rate), best.value)


def _rounded(rate: float) -> float:
    """To three digits, which is as precise as a rate need be in a table."""
    return float(f"{rate:.3g}")

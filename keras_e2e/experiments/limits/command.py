"""The command `keras-e2e limits`: what its flags ask for, and the report on it."""

import os
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from keras_e2e.experiments.command import Command, CommandError
from keras_e2e.experiments.limits.arguments import check, flag_values, wanted
from keras_e2e.experiments.limits.setting import Setting

RESULTS = "results.sqlite"


def run(given: flags.FlagValues, words: Sequence[str]) -> int:
    """Runs the command.

    Args:
        given: The flags, parsed.
        words: Strings, what else was on the command line: nothing.

    Returns:
        The exit status: 0, 1 if a run failed, or 130 if it was interrupted.

    Raises:
        CommandError: If the sweep cannot be run.
    """
    check(given)
    try:
        return _run(given, wanted(given))
    except KeyboardInterrupt:
        print(
            "Interrupted. What is finished is stored: the same command goes on from there.",
            file=sys.stderr,
        )
        return 130


def _run(given: flags.FlagValues, settings: list[Setting]) -> int:
    """Runs what is missing, reports on what is there."""
    try:
        # Need the packages of the extra [limits]; --help does not.
        from keras_e2e.experiments.limits import report
        from keras_e2e.experiments.limits.store import Store
    except ImportError as error:
        raise _lacking(error) from error
    folder = given.output_dir
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise CommandError(
            f"--output_dir={folder}: no such folder can be made ({error.strerror}). Give "
            "another one."
        ) from error
    with Store(os.path.join(folder, RESULTS)) as store:
        for notice in store.notices:
            print(f"Warning: {notice}", file=sys.stderr)
        settings, failed = _computed(given, settings, store)
        rows = store.rows(settings)
    if rows:
        report.write(rows, folder)
    if failed:
        print(
            f"{failed} of the runs failed, as said above, and are not in the results. The "
            "same command tries them again.",
            file=sys.stderr,
        )
    return 1 if failed else 0


def _computed(
    given: flags.FlagValues, settings: list[Setting], store: Any
) -> tuple[list[Setting], int]:
    """Runs what has no result; the settings, tuned if asked for, and how many failed."""
    if not given.tune and all(setting in store for setting in settings):
        return settings, 0
    try:
        from keras_e2e.experiments.limits import tuning
        from keras_e2e.experiments.limits.cluster import connected
        from keras_e2e.experiments.limits.sweep import sweep, words
    except ImportError as error:
        raise _lacking(error) from error
    failed = 0
    with connected(given.scheduler, given.workers) as client:
        if given.tune:

            def measure(trials: list[Setting], title: str) -> list:
                nonlocal failed
                failed += len(sweep(trials, store, client, title=title))
                return [store.get(setting) for setting in trials]

            settings, chosen = tuning.tune(settings, measure, given.trials)
            for setting, validation in chosen:
                print(f"Tuned: {words(setting)}: validation {validation}")
        failed += len(sweep(settings, store, client))
    return settings, failed


def _lacking(error: ImportError) -> Exception:
    package = (error.name or "").split(".")[0]
    if package == "keras_e2e":
        return error
    return CommandError(
        f"it needs the package {package!r}, which is not installed: "
        "pip install 'keras-e2e[limits]'."
    )


LIMITS = Command(
    "limits",
    "[flags]",
    "Compares ways of training on modular tasks, and writes tables, figures and a page.",
    "Compares ways of training on modular tasks: trains each regime on each task with\n"
    "several seeds, on all cores or on a Dask cluster, and writes tables, figures and an\n"
    "HTML page below --output_dir. Interrupted, it goes on where it was when the same\n"
    "command is given again.",
    flag_values,
    run,
)

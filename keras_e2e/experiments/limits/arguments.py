"""The flags of `keras-e2e limits`, and the settings that they ask for."""

import dataclasses
import functools
from typing import Any

from absl import flags

from keras_e2e.experiments.command import CommandError
from keras_e2e.experiments.limits.names import DATASETS, REGIMES, TASKS, WITHOUT_LABELS
from keras_e2e.experiments.limits.presets import FIRST_TUNING_SEED, PRESETS
from keras_e2e.experiments.limits.setting import Setting
from keras_e2e.utils.validation import did_you_mean

# The flags that replace the values of the preset.
LISTS = ("task", "k", "data", "regimes", "labels")
NUMBERS = ("seeds", "steps", "batch_size", "learning_rate", "examples")


def flag_values() -> flags.FlagValues:
    """The flags of the command, apart from those of the others; none is parsed yet."""
    own = flags.FlagValues()
    text = functools.partial(flags.DEFINE_string, flag_values=own)
    names = functools.partial(flags.DEFINE_list, default=None, flag_values=own)
    number = functools.partial(flags.DEFINE_integer, lower_bound=1, flag_values=own)
    most = FIRST_TUNING_SEED
    flags.DEFINE_enum(
        "preset",
        "quick",
        list(PRESETS),
        f"The sweep. {', '.join(f'--{name}' for name in (*LISTS, *NUMBERS))} replace its "
        "values.",
        flag_values=own,
    )
    names("task", help=f"Tasks: {', '.join(TASKS)}.")
    names("k", help="Sizes of the tasks, such as images in a tuple.")
    names("data", help=f"Images: {', '.join(DATASETS)}.")
    names("regimes", help=f"Ways of training: {', '.join(REGIMES)}.")
    names("labels", help="Examples that keep intermediate labels: numbers, or all.")
    number("seeds", None, "Runs of each, with the seeds from 0 on.", upper_bound=most)
    number("steps", None, "Training steps of a run.")
    number("examples", None, "Training examples.")
    number("batch_size", None, "Examples in a batch.")
    flags.DEFINE_float("learning_rate", None, "That of Adam.", flag_values=own)
    flags.DEFINE_bool("tune", False, "Tune the learning rate by regime.", flag_values=own)
    number("trials", 8, "Learning rates that --tune tries.")
    text("scheduler", None, "Address of a Dask scheduler whose workers to use.")
    number("workers", None, "Processes on this machine; by default one for each CPU.")
    text("output_dir", "limits_output", "Where results, figures and the page go.")
    return own


def check(given: flags.FlagValues) -> None:
    """Refuses flags that exclude each other.

    Args:
        given: The flags, parsed.

    Raises:
        CommandError: If there are such flags.
    """
    if given.scheduler is not None and given.workers is not None:
        raise CommandError(
            "--workers is for a cluster on this machine; that of "
            "--scheduler has its own workers. Leave one of the two out."
        )


def wanted(given: flags.FlagValues) -> list[Setting]:
    """The settings that the flags ask for, each once.

    Args:
        given: The flags, parsed.

    Returns:
        The settings, in the order in which they are run.

    Raises:
        CommandError: If one of them cannot be run.
    """
    values: dict[str, Any] = {
        name: given[name].value for name in NUMBERS if given[name].value is not None
    }
    for name in LISTS:
        if given[name].value is not None:
            values[name] = _list(name, given[name].value)
    settings = []
    for grid in PRESETS[given.preset]:
        for setting in dataclasses.replace(grid, **values).settings():
            if setting.regime in WITHOUT_LABELS:
                setting = dataclasses.replace(setting, labels=None)
            settings.append(setting)
    for setting in settings:
        try:
            setting.check()
        except ValueError as error:
            # It begins with the name of the number, which is that of its flag but for one.
            text = str(error).replace("regime=", "regimes=", 1)
            raise CommandError(f"--{text}") from error
    return list(dict.fromkeys(settings))


def _list(name: str, found: Any) -> tuple:
    """The values of a flag that takes several, numbers where it takes numbers."""
    words = [word.strip() for word in found]
    if name == "k":
        good, expected = all(map(str.isdecimal, words)), "numbers, as in --k=1,4"
    elif name == "labels":
        good = all(word == "all" or word.isdecimal() for word in words)
        expected = "numbers, or all, as in --labels=100,all"
    else:
        good, expected = "" not in words, "names with commas between them"
    if not good or not words:
        raise CommandError(f"--{name}={','.join(found)}: expected {expected}.")
    known = {"task": TASKS, "regimes": REGIMES, "data": DATASETS}.get(name)
    for word in words if known else ():
        if known and word not in known:
            raise CommandError(
                f"--{name}={word}: expected one of {', '.join(known)}."
                f"{did_you_mean(word, known)}"
            )
    if name in ("k", "labels"):
        return tuple(None if word == "all" else int(word) for word in words)
    return tuple(words)

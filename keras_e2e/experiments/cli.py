"""The keras-e2e command: `keras-e2e demo`, `report`, `memory` and `limits`.

Flags are parsed, and refused, before Keras is imported, which takes seconds. So this
module and those that it imports at the top must not import Keras or TensorFlow.
"""

import importlib.metadata
import sys
from collections.abc import Sequence

from absl import flags

from keras_e2e.experiments import demo_command, memory_command
from keras_e2e.experiments.command import Command, CommandError
from keras_e2e.experiments.limits import command as limits
from keras_e2e.utils.validation import did_you_mean

HELP = {"-h", "-help", "--help", "--helpfull", "--helpshort"}
VERSION = {"-version", "--version", "version"}


def _report_flags() -> flags.FlagValues:
    own = flags.FlagValues()
    flags.DEFINE_string("output", "report.html", "The HTML file to write.", flag_values=own)
    return own


def _report(values: flags.FlagValues, logdirs: list[str]) -> int:
    if len(logdirs) != 1:
        found = f"{len(logdirs)} of them: {' '.join(logdirs)}" if logdirs else "none"
        raise CommandError(
            f"keras-e2e report: expected one log directory, found {found}. Give the "
            "log_dir of ModuleTensorBoard, or a folder above several, as in keras-e2e "
            "report logs."
        )
    from keras_e2e.visualization import report

    try:
        runs, notices = report.write(logdirs[0], values.output)
    except report.ReportError as error:
        raise CommandError(str(error)) from error
    for notice in notices:
        print(f"Warning: {notice}", file=sys.stderr)
    print(f"{values.output}: {runs} run{'s' * (runs != 1)}.")
    return 0


REPORT = Command(
    "report",
    "LOGDIR [--output=report.html]",
    "Makes one HTML page of the runs that ModuleTensorBoard logged below LOGDIR:\n"
    "verdicts, curves, heat maps and a comparison, in a file that opens without a network.",
    _report_flags,
    _report,
)

COMMANDS = {
    command.name: command
    for command in (demo_command.DEMO, REPORT, memory_command.MEMORY, limits.LIMITS)
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the `keras-e2e` command.

    Args:
        arguments: Strings, the command line without the program's name. Defaults to
            those of the process.

    Returns:
        The exit status: 0 if all went well, 1 if some runs of a sweep failed, 2 if the
        command line cannot be run, 130 if it was interrupted.
    """
    first, *others = [*(sys.argv[1:] if arguments is None else arguments)] or [""]
    try:
        if first == "help" or first in HELP:
            named = COMMANDS.get(others[0]) if others else None
            print(named.help() if named else _help())
            return 0
        if first in VERSION:
            print(f"keras-e2e {importlib.metadata.version('keras-e2e')}")
            return 0
        if first not in COMMANDS:
            raise CommandError(_unknown(first, others))
        if HELP & set(others):
            print(COMMANDS[first].help())
            return 0
        return COMMANDS[first].main(others)
    except CommandError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130


def _help() -> str:
    parts = [
        f"{command.full_name} {command.usage}\n\n{command.about}"
        for command in COMMANDS.values()
    ]
    return "\n\n".join(
        [
            "Usage: keras-e2e COMMAND [flags]",
            *parts,
            "keras-e2e COMMAND --help lists the flags of a command, keras-e2e --version "
            "prints the version.",
        ]
    )


def _unknown(word: str, others: Sequence[str]) -> str:
    """Says that a command was expected, and which one may have been meant."""
    expected = f"keras-e2e: expected a command, one of {', '.join(COMMANDS)}, found "
    later = [other for other in others if other in COMMANDS]
    if word.startswith("-") and later:
        return (
            f"{expected}the flag {word!r}. Flags follow their command, as in keras-e2e "
            f"{later[0]} {word}."
        )
    found = repr(word) if word else "nothing"
    return f"{expected}{found}.{did_you_mean(word, COMMANDS)} See keras-e2e --help."

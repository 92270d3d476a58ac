"""The keras-e2e command: `keras-e2e diagnose`, `report`, `memory`, `demo` and `limits`.

Flags are parsed, and refused, before Keras is imported, which takes seconds. So this
module and those that it imports at the top must not import Keras or TensorFlow.
"""

import importlib.metadata
import os
import sys
from collections.abc import Sequence

from keras_e2e.experiments import (
    completion,
    demo_command,
    diagnose_command,
    memory_command,
    report_command,
)
from keras_e2e.experiments.command import INTERRUPTED, CommandError
from keras_e2e.experiments.limits import command as limits
from keras_e2e.experiments.terminal import on_one_line
from keras_e2e.utils.validation import did_you_mean

HELP = {"-h", "-help", "--help", "--helpfull", "--helpshort"}
VERSION = {"-version", "--version", "version"}
# What a shell says of a program that writes to nobody.
BROKEN_PIPE = 141

COMMANDS = {
    command.name: command
    for command in (
        diagnose_command.DIAGNOSE,
        report_command.REPORT,
        memory_command.MEMORY,
        demo_command.DEMO,
        limits.LIMITS,
    )
}
COMMANDS["completion"] = completion.command(COMMANDS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the `keras-e2e` command.

    Args:
        arguments: Strings, the command line without the program's name. Defaults to
            those of the process.

    Returns:
        The exit status: 0 if all went well, 1 if a run failed, 2 if the command line
        cannot be run, 3 if a module has an alarm and that was asked for, 130 if it was
        interrupted, 141 if nobody reads what it prints.
    """
    try:
        status = _main([*(sys.argv[1:] if arguments is None else arguments)])
        sys.stdout.flush()
    except CommandError as error:
        print(on_one_line(error), file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return status


def _main(arguments: list[str]) -> int:
    first, *others = arguments or [""]
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


def _help() -> str:
    commands = [
        f"{command.full_name} {command.usage}".rstrip() + f"\n    {command.summary}"
        for command in COMMANDS.values()
    ]
    return "\n".join(
        [
            "Usage: keras-e2e COMMAND [flags]",
            "",
            *commands,
            "",
            "keras-e2e COMMAND --help lists the flags of a command.",
            "keras-e2e --version prints the version.",
            "",
            "Exit status: 0 if all went well, 1 if a run failed, 2 if the command line",
            "cannot be run, 3 if diagnose --fail_on_alarm found an alarm, 130 if it was",
            "interrupted. An error is one line, the last.",
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

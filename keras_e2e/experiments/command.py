"""What the subcommands of keras-e2e have in common: their flags, help and errors."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from absl import flags

from keras_e2e.utils.validation import did_you_mean


class CommandError(Exception):
    """A command cannot be run; the message names what was found and a fix."""


class Command(NamedTuple):
    """A subcommand. Making one imports neither Keras nor TensorFlow.

    Attributes:
        name: String, the word that follows `keras-e2e`.
        usage: String, what follows the name on the command line.
        about: String, what the command does, a paragraph.
        define_flags: A function that returns the command's own `flags.FlagValues`.
        run: A function of the parsed flags and of the remaining words, which returns the
            exit status.
    """

    name: str
    usage: str
    about: str
    define_flags: Callable[[], flags.FlagValues]
    run: Callable[[flags.FlagValues, list[str]], int]

    @property
    def full_name(self) -> str:
        """The name as it is typed."""
        return f"keras-e2e {self.name}"

    def help(self) -> str:
        """The text of `--help`: usage, what the command does, and its flags."""
        return (
            f"Usage: {self.full_name} {self.usage}\n\n{self.about}\n\nFlags:\n"
            f"{flags_help(self.define_flags())}"
        )

    def main(self, arguments: Sequence[str]) -> int:
        """Parses the flags and runs the command.

        Args:
            arguments: Strings, what follows the command's name on the command line.

        Returns:
            The exit status, 0 if all went well.

        Raises:
            CommandError: If a flag is unknown or has an invalid value.
        """
        values = self.define_flags()
        return self.run(values, parse(self.full_name, values, arguments))


def parse(command: str, values: flags.FlagValues, arguments: Sequence[str]) -> list[str]:
    """Parses flags into `values`.

    Args:
        command: String, the command's full name, for errors.
        values: The `flags.FlagValues` of the command.
        arguments: Strings, what follows the command's name on the command line.

    Returns:
        The words that are not flags.

    Raises:
        CommandError: If a flag is unknown or has an invalid value.
    """
    try:
        return values([command, *arguments])[1:]
    except flags.UnrecognizedFlagError as error:
        near = did_you_mean(error.flagname, values, shown="--{}".format)
        why = f"unknown flag --{error.flagname}.{near}"
    except flags.Error as error:
        why = f"{error}."
    raise CommandError(f"{command}: {why} See {command} --help.")


def flags_help(values: flags.FlagValues) -> str:
    """The flags with their meaning and default, a block for each."""
    text = values.get_help(include_special_flags=False)
    # The first line that is not empty names the module that defined the flags.
    return text.strip("\n").split("\n", 1)[1]

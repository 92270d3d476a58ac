"""What the subcommands of keras-e2e have in common: their flags, help and errors."""

import traceback
from collections.abc import Callable, Sequence
from typing import NamedTuple

from absl import flags

from keras_e2e.experiments.terminal import quiet, shortened
from keras_e2e.utils.validation import did_you_mean

# The exit status, as `--help` documents it.
FAILED, UNUSABLE, ALARM, INTERRUPTED = 1, 2, 3, 130


class CommandError(Exception):
    """A command cannot be run, or failed; the message names what was found and a fix.

    Args:
        message: String, without the name of the command.
        status: Integer, the exit status. Defaults to 2, for what cannot be run.
    """

    def __init__(self, message: str, status: int = UNUSABLE):
        super().__init__(message)
        self.status = status


class Word(NamedTuple):
    """The one word that a command takes besides its flags.

    Attributes:
        what: String, what it names.
        hint: String, a sentence that says what to give.
    """

    what: str
    hint: str


class Command(NamedTuple):
    """A subcommand. Making one imports neither Keras nor TensorFlow.

    Attributes:
        name: String, the word that follows `keras-e2e`.
        usage: String, what follows the name on the command line.
        summary: String, what the command does, a line.
        about: String, the same at length, a paragraph.
        define_flags: A function that returns the command's own `flags.FlagValues`.
        run: A function of the parsed flags and of the words besides them, which returns the
            exit status.
        word: The `Word` that it takes besides flags. Defaults to `None`: flags alone.
    """

    name: str
    usage: str
    summary: str
    about: str
    define_flags: Callable[[], flags.FlagValues]
    run: Callable[[flags.FlagValues, list[str]], int]
    word: Word | None = None

    @property
    def full_name(self) -> str:
        """The name as it is typed."""
        return f"keras-e2e {self.name}"

    def flags(self) -> flags.FlagValues:
        """The flags of the command, with those that all commands have; none is parsed."""
        values = self.define_flags()
        flags.DEFINE_bool(
            "verbose",
            False,
            "Show TensorFlow's log, and of an error all of it.",
            flag_values=values,
            # Help lists flags by the module that defines them.
            module_name=next(iter(values.flags_by_module_dict()), __name__),
        )
        return values

    def help(self) -> str:
        """The text of `--help`: usage, what the command does, and its flags."""
        return (
            f"Usage: {self.full_name} {self.usage}\n\n{self.about}\n\nFlags:\n"
            f"{flags_help(self.flags())}"
        )

    def main(self, arguments: Sequence[str]) -> int:
        """Parses the flags and runs the command.

        Args:
            arguments: Strings, what follows the command's name on the command line.

        Returns:
            The exit status, 0 if all went well.

        Raises:
            CommandError: If the command line cannot be run, or whatever else went wrong.
        """
        values = self.flags()
        try:
            words = parse(self.full_name, values, arguments)
            self._check(words)
            with quiet(not values.verbose):
                return self.run(values, words)
        except CommandError as error:
            raise CommandError(f"{self.full_name}: {error}", error.status) from error
        except (BrokenPipeError, KeyboardInterrupt):
            raise
        except Exception as error:
            if values.verbose:
                traceback.print_exc()
            raise CommandError(
                f"{self.full_name}: {type(error).__name__}: {shortened(error)} "
                "(--verbose shows where.)",
                FAILED,
            ) from error

    def _check(self, words: Sequence[str]) -> None:
        if self.word is None and words:
            raise CommandError(
                f"takes flags alone, found {' '.join(words)!r}. Leave it out, or write "
                f"--flag=value. See {self.full_name} --help."
            )
        if self.word is not None and len(words) != 1:
            found = f"{len(words)} of them: {' '.join(words)}" if words else "none"
            raise CommandError(
                f"expected one {self.word.what}, found {found}. {self.word.hint}"
            )


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
        name = error.flagname.replace("-", "_")
        near = did_you_mean(name, values, shown="--{}".format)
        why = f"unknown flag --{error.flagname}.{near}"
    except flags.Error as error:
        why = f"{error}."
    raise CommandError(f"{why} See {command} --help.")


def flags_help(values: flags.FlagValues) -> str:
    """The flags with their meaning and default, a block for each."""
    text = values.get_help(include_special_flags=False)
    # The first line that is not empty names the module that defined the flags.
    return text.strip("\n").split("\n", 1)[1]

"""The command `keras-e2e report`: its flags, and what it says."""

import sys

from absl import flags

from keras_e2e.experiments.command import Command, CommandError, Word


def define_flags() -> flags.FlagValues:
    """The flags of the command; none is parsed yet."""
    own = flags.FlagValues()
    flags.DEFINE_string("output", "report.html", "The HTML file to write.", flag_values=own)
    return own


def _run(values: flags.FlagValues, words: list[str]) -> int:
    from keras_e2e.visualization import report

    try:
        runs, notices = report.write(words[0], values.output)
    except report.ReportError as error:
        raise CommandError(str(error)) from error
    for notice in notices:
        print(f"Warning: {notice}", file=sys.stderr)
    print(f"{values.output}: {runs} run{'s' * (runs != 1)}.")
    return 0


REPORT = Command(
    "report",
    "LOGDIR [flags]",
    "Makes one HTML page of what ModuleTensorBoard logged.",
    "Makes one HTML page of the runs that ModuleTensorBoard logged below LOGDIR:\n"
    "verdicts, curves, heat maps and a comparison, in a file that opens without a network.",
    define_flags,
    _run,
    Word(
        "log directory",
        "Give the log_dir of ModuleTensorBoard, or a folder above several, as in "
        "keras-e2e report logs.",
    ),
)

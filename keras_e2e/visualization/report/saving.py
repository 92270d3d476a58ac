"""Writes the page: all of it or nothing."""

import os

from keras_e2e.visualization.report.event_files import ReportError, shown


def checked(output: str | os.PathLike[str]) -> str:
    """The real path of a file that can be written, as far as can be known beforehand.

    Raises:
        ReportError: If it is a folder or a device, or its folder is missing or may not be
            written to.
    """
    named = os.fspath(output)
    if not named:
        raise ReportError("--output is empty: give a file, as in --output=report.html.")
    # A link stays a link: the file that it points to is replaced.
    path = os.path.realpath(named)
    folder = os.path.dirname(path)
    if os.path.isdir(path):
        raise ReportError(
            f"The output {shown(named)!r} is a folder: give a file in it, as in "
            f"--output={shown(os.path.join(named, 'report.html'))}."
        )
    # os.replace would put the page in the place of a device such as /dev/null.
    if os.path.lexists(path) and not os.path.isfile(path):
        raise ReportError(
            f"The output {shown(named)!r} is not a regular file: give another."
        )
    if not os.path.isdir(folder):
        raise ReportError(
            f"The output {shown(named)!r} cannot be written: there is no folder "
            f"{shown(folder)!r}. Make it, or give another --output."
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _refused(named, f"no permission to write in {shown(folder)!r}")
    if os.path.exists(path) and not os.access(path, os.W_OK):
        raise _refused(named, "the file is there, and is read-only")
    return path


def save(path: str, text: str) -> None:
    """Replaces a file at once: whoever reads it sees the old text or the new one.

    Raises:
        ReportError: If the file cannot be written; then the old one is kept.
    """
    folder, name = os.path.split(path)
    part = os.path.join(folder, f".{name[:60]}.{os.getpid()}.tmp")
    try:
        try:
            # Not tempfile, whose files are for their owner alone.
            with open(part, "x", encoding="utf-8") as file:
                file.write(text)
            os.replace(part, path)
        finally:
            if os.path.exists(part):
                os.remove(part)
    except OSError as error:
        raise _refused(path, error.strerror or str(error)) from error


def _refused(path: str, why: str) -> ReportError:
    return ReportError(
        f"The output {shown(path)!r} cannot be written: {why}. Give another --output."
    )

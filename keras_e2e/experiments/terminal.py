"""What a command shows in the terminal, and what it keeps off it."""

import contextlib
import importlib.abc
import importlib.util
import logging
import os
import re
import sys
import tempfile
import types
import warnings
from collections.abc import Iterator
from typing import Any

# How much is shown of an error that is not ours: Keras writes paragraphs.
LONGEST = 400
# Lines of the log of TensorFlow's native code, fatal errors left out.
NATIVE_LOG = re.compile(rb"WARNING: All log messages before absl::|[IWE]\d{4} ")
# Where in a graph, and in which code: TensorFlow says so before it says what went wrong.
GRAPH_TRACE = re.compile(
    r"\s*(Graph execution error:|Detected at node |File \".*\", line |\[\[\{\{)"
)


def on_one_line(text: object) -> str:
    """A text without its line breaks."""
    lines = (line.strip() for line in str(text).splitlines())
    return " ".join(line for line in lines if line)


def shortened(error: object) -> str:
    """The begin of a message, on one line; of an error in a graph what went wrong there."""
    lines = str(error).splitlines()
    text = on_one_line("\n".join(line for line in lines if not GRAPH_TRACE.match(line)))
    return text if len(text) <= LONGEST else f"{text[:LONGEST].rstrip()} ..."


def note(text: str) -> None:
    """Says on the standard error stream what a command is at."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def quiet(wanted: bool) -> Iterator[None]:
    """Keeps the logs of TensorFlow and of absl off the terminal, and warnings to a line.

    What the environment says of TensorFlow's log holds.

    Args:
        wanted: Boolean, whether to do so.
    """
    if not wanted:
        yield
        return
    import absl.logging  # noqa: F401 (makes the logger, which must be of its own class)

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    loggers = [logging.getLogger(name) for name in ("absl", "tensorflow")]
    levels = [logger.level for logger in loggers]
    format_warning = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"Warning: {on_one_line(message)}\n"
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    finder = QuietTensorFlow()
    if os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3":
        sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)
        warnings.formatwarning = format_warning
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class QuietTensorFlow(importlib.abc.MetaPathFinder):
    """Keeps off the terminal what TensorFlow logs while it is imported, wherever that is.

    TensorFlow 2.21 logs that whatever `TF_CPP_MIN_LOG_LEVEL` says.
    """

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: types.ModuleType) -> None:
                with _native_log_off():
                    run(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


@contextlib.contextmanager
def _native_log_off() -> Iterator[None]:
    """Drops what native code logs; other lines of the standard error stream come later."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as log, os.fdopen(os.dup(2), "wb") as terminal:
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal.fileno(), 2)
            log.seek(0)
            terminal.writelines(line for line in log if not NATIVE_LOG.match(line))

"""How far something is: a bar where somebody looks on, a line now and then elsewhere."""

import math
import sys
import time
from collections.abc import Mapping
from typing import Any

import keras

# Seconds from one line to the next, and from one state of the bar to the next.
BETWEEN_LINES = 10.0
BETWEEN_BARS = 0.2
SHOWN = ("loss", "episode_return")


def check_verbose(what: str, verbose: Any) -> None:
    """Raises ValueError unless `verbose` is one that `Progress` knows.

    Args:
        what: String, what has the argument.
        verbose: Its value.
    """
    if verbose not in ("auto", 0, 1, 2):
        raise ValueError(
            f"{what}(verbose={verbose!r}): expected 'auto', 0 for nothing, 1 for a bar or "
            "2 for a line now and then."
        )


class Progress:
    """Says how far something is.

    Args:
        what: String, what it is, with which each line begins.
        verbose: 0 for nothing, 1 for a bar, 2 for lines, or `"auto"`: 1 in a terminal or
            a notebook, else 2.
        unit: String, of what it takes many. Defaults to `"step"`.

    Raises:
        ValueError: If `verbose` is none of these.
    """

    def __init__(self, what: str, verbose: int | str = "auto", unit: str = "step"):
        check_verbose(what, verbose)
        if verbose == "auto":
            alive = getattr(sys.stdout, "isatty", lambda: False)()
            verbose = 1 if alive or "ipykernel" in sys.modules else 2
        self.what, self.verbose, self.unit = what, int(verbose), unit
        self._bar: Any = None
        self._total: int | None = None
        self._began = self._said = time.monotonic()

    def say(self, words: str) -> None:
        """Prints a line, unless nothing is to be said."""
        if self.verbose:
            print(f"{self.what}: {words}", flush=True)
            self._said = time.monotonic()

    def begin(self, total: int | None) -> None:
        """Begins to count up to a number; None where it is not known."""
        self._total, self._began = total, time.monotonic()
        self._said = self._began
        if self.verbose == 1:
            self._bar = keras.utils.Progbar(
                total, stateful_metrics=SHOWN, unit_name=self.unit
            )

    def update(self, done: int, logs: Mapping[str, Any] | None = None) -> None:
        """Says that so many are done, unless something was said a moment ago.

        Args:
            done: Integer, how many.
            logs: The logs of a callback, of which the loss and the return of episodes are
                shown. Defaults to None.
        """
        since, ended = time.monotonic() - self._said, done == self._total
        if self._bar is not None:
            if since >= BETWEEN_BARS or ended:
                self._bar.update(done, [*_shown(logs).items()])
                self._said = time.monotonic()
        elif since >= BETWEEN_LINES and not ended:
            of = "" if self._total is None else f" of {self._total}"
            values = "".join(f", {name} {v:.3g}" for name, v in _shown(logs).items())
            self.say(f"{self.unit} {done}{of}{values}")

    def end(self, done: int) -> float:
        """Ends the bar where it is, and returns the seconds since the beginning."""
        if self._bar is not None and done != self._total:
            self._bar.update(done, finalize=True)
        self._bar = None
        return time.monotonic() - self._began


def _shown(logs: Mapping[str, Any] | None) -> dict[str, float]:
    found = {name: float((logs or {}).get(name, math.nan)) for name in SHOWN}
    return {name: value for name, value in found.items() if math.isfinite(value)}

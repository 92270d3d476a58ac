"""The callbacks of a diagnosis: when it ends, and how far it is."""

import math
import sys
import time
from typing import Any

import keras

# Seconds from one line to the next, and from one state of the bar to the next.
BETWEEN_LINES = 10.0
BETWEEN_BARS = 0.2


class StopAfter(keras.callbacks.Callback):
    """Ends `fit` after so many steps, in the middle of an epoch if need be.

    A step takes several batches where gradients are accumulated. One in which the
    optimizer leaves the weights alone, because a loss scale overflows, counts as well.

    Args:
        steps: Integer, the number of steps.
        batches_per_step: Integer, the number of batches that a step takes.
    """

    def __init__(self, steps: int, batches_per_step: int):
        super().__init__()
        self.steps, self._batches_per_step = steps, batches_per_step
        self._batches = self._before_epoch = 0

    @property
    def taken(self) -> int:
        """How many steps there were."""
        return self._batches // self._batches_per_step

    def on_epoch_begin(self, epoch, logs=None):
        self._before_epoch = self._batches

    def on_train_batch_end(self, batch, logs=None):
        self._batches += 1
        if self.taken >= self.steps:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        if self._batches == self._before_epoch:  # the data cannot be gone through again
            self.model.stop_training = True


class Progress(keras.callbacks.Callback):
    """Says how far it is: a bar on a terminal, a line now and then elsewhere.

    Args:
        stop: What ends the training, which counts the steps.
        verbose: 0 for nothing, 1 for a bar, 2 for lines, or `"auto"`: 1 in a terminal or
            a notebook, else 2.
    """

    def __init__(self, stop: StopAfter, verbose: int | str):
        super().__init__()
        if verbose == "auto":
            alive = getattr(sys.stdout, "isatty", lambda: False)()
            verbose = 1 if alive or "ipykernel" in sys.modules else 2
        self.stop, self.verbose = stop, verbose
        self._bar: Any = None
        self._began = self._said = time.monotonic()

    def say(self, what: str) -> None:
        """Prints a line, unless nothing is to be said."""
        if self.verbose:
            print(f"diagnose: {what}", flush=True)
            self._said = time.monotonic()

    def on_train_begin(self, logs=None):
        names = [module.name for module in self.model.modules]
        modules = "one module" if len(names) == 1 else f"{len(names)} modules"
        self.say(f"{self.stop.steps} training steps of {modules}: {', '.join(names)}")
        self._began = time.monotonic()
        if self.verbose == 1:
            self._bar = keras.utils.Progbar(self.stop.steps, stateful_metrics=["loss"])

    def on_train_batch_end(self, batch, logs=None):
        taken, steps = self.stop.taken, self.stop.steps
        since = time.monotonic() - self._said
        if self._bar is not None:
            if since >= BETWEEN_BARS or taken == steps:
                self._bar.update(taken, [("loss", _loss(logs))])
                self._said = time.monotonic()
        elif since >= BETWEEN_LINES and taken < steps:
            self.say(f"step {taken} of {steps}, loss {_loss(logs):.3g}")

    def on_train_end(self, logs=None):
        if self._bar is None:
            seconds = time.monotonic() - self._began
            self.say(f"{self.stop.taken} steps in {seconds:.0f} s")
        elif self.stop.taken < self.stop.steps:
            self._bar.update(self.stop.taken, finalize=True)


def _loss(logs: Any) -> float:
    return float((logs or {}).get("loss", math.nan))

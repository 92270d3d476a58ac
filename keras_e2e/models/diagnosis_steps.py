"""The callbacks of a diagnosis: when it ends, and how far it is."""

import keras

from keras_e2e.utils.progress import Progress


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


class DiagnosisProgress(keras.callbacks.Callback):
    """Says how far a diagnosis is.

    Args:
        stop: What ends the training, which counts the steps.
        verbose: As in `diagnose`.
    """

    def __init__(self, stop: StopAfter, verbose: int | str):
        super().__init__()
        self.stop = stop
        self.progress = Progress("diagnose", verbose)
        self.say = self.progress.say

    def on_train_begin(self, logs=None):
        names = [module.name for module in self.model.modules]
        modules = "one module" if len(names) == 1 else f"{len(names)} modules"
        self.say(f"{self.stop.steps} training steps of {modules}: {', '.join(names)}")
        self.progress.begin(self.stop.steps)

    def on_train_batch_end(self, batch, logs=None):
        self.progress.update(self.stop.taken, logs)

    def on_train_end(self, logs=None):
        seconds = self.progress.end(self.stop.taken)
        if self.progress.verbose == 2:
            self.say(f"{self.stop.taken} steps in {seconds:.0f} s")

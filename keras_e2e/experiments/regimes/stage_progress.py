"""How far a training by a plan is."""

from collections.abc import Sequence

import keras

from keras_e2e.experiments.regimes.plans import Stage
from keras_e2e.utils.progress import Progress


class StageProgress(keras.callbacks.Callback):
    """Counts the steps, or the rollouts, of one stage after another.

    Args:
        progress: The `Progress`; its unit is `"step"`, or `"rollout"`, which is an epoch.
        stages: List of the `Stage`s.
        sizes: List of integers, how many each of them has.
    """

    def __init__(self, progress: Progress, stages: Sequence[Stage], sizes: Sequence[int]):
        super().__init__()
        self.progress, self.stages, self.sizes = progress, stages, sizes
        self.done = self.before = self.number = 0
        progress.begin(sum(sizes))

    def on_train_begin(self, logs=None):
        stage, much = self.stages[self.number], self.sizes[self.number]
        self.number += 1
        if self.progress.verbose == 2:
            downstream = stage.downstream_of
            what = f"downstream of {downstream}" if downstream else stage.mode
            count = f"{self.number} of {len(self.stages)}"
            self.progress.say(f"stage {count}, {what}: {much} {self.progress.unit}s")

    def on_epoch_begin(self, epoch, logs=None):
        self.before = self.done

    def on_train_batch_end(self, batch, logs=None):
        # Of the steps of one execution (`steps_per_execution`) only the last is told of.
        if self.progress.unit == "step":
            self._count(self.before + batch + 1, logs)

    def on_epoch_end(self, epoch, logs=None):
        if self.progress.unit != "step":
            self._count(self.done + 1, logs)

    def _count(self, done, logs):
        self.done = done
        self.progress.update(done, logs)

"""A policy whose training is killed; run by test_resume.py.

`python -m tests.rewards.kept_policy FOLDER` kills itself in the third epoch and leaves what
the weights were when that began in `FOLDER/weights.npz`.
"""

import os
import signal
import sys

import keras
import numpy as np

from tests.rewards.worlds import compiled, network, small, weights_of

EPOCHS = 4


def policy_and_rollouts():
    """The same on both sides of the kill."""
    keras.utils.set_random_seed(5)
    model = compiled(network(normalize=True))
    return model, small(model)


def backup(folder):
    return keras.callbacks.BackupAndRestore(os.path.join(folder, "backup"))


class Kill(keras.callbacks.Callback):
    """Ends the process behind the first batch of an epoch."""

    def __init__(self, epoch, folder):
        super().__init__()
        self.epoch, self.folder = epoch, folder

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch
        np.savez(os.path.join(self.folder, "weights.npz"), *weights_of(self.model))

    def on_train_batch_end(self, batch, logs=None):
        if self.now == self.epoch:
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder):
    """Trains until it is killed."""
    model, rollouts = policy_and_rollouts()
    callbacks = [backup(folder), Kill(2, folder)]
    model.fit(rollouts, epochs=EPOCHS, verbose=0, callbacks=callbacks)


if __name__ == "__main__":
    main(*sys.argv[1:])

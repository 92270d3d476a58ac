"""A training with AutoMode and BackupAndRestore that may be killed at any moment.

As a script: `python -m tests.callbacks.kept_training FOLDER SAVE_FREQ ORDER [SECONDS]`
trains, resuming if there is a backup, and writes `FOLDER/done.npz`; it kills itself after
so many seconds of training.
"""

import os
import signal
import struct
import sys
import threading

import keras
import numpy as np

import keras_e2e as e2e
from keras_e2e import TrainingMode
from keras_e2e.callbacks import AutoMode
from keras_e2e.callbacks.auto_mode_policy import Decision

BATCH, BATCHES, EPOCHS = 8, 10, 6
RNG = np.random.default_rng(0)
X = RNG.normal(size=(BATCH * BATCHES * EPOCHS, 4)).astype("float32")
Y = (X[:, 0] * X[:, 1] > 0).astype("int32")


def model_of_three(optimizer="adam", dtype="float32", dropout=0.2, eager=True):
    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy(dtype)
    base = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="tanh", name="a"),
            keras.layers.Dropout(dropout, seed=3),
            keras.layers.Dense(8, activation="tanh", name="b"),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(2, activation="softmax", name="out", dtype="float32"),
        ]
    )
    model = e2e.modularize(base, ["a", "b"])
    keras.config.set_dtype_policy("float32")
    model.compile(optimizer, "sparse_categorical_crossentropy", run_eagerly=eager)
    return model


class Fickle:
    """A policy whose decisions hang on every bit of what was measured."""

    MODES = (
        TrainingMode("end_to_end"),
        TrainingMode("mixed", stop=["a"]),
        TrainingMode("mixed", stop=["a", "b"]),
    )

    def __init__(self):
        self.watch = None

    def decide(self, history):
        numbers = [v[-1] for q in self.watch.history.values() for v in q.values()]
        bits = sum(struct.pack(f"{len(numbers)}f", *numbers)) + len(history.decisions)
        change = len(numbers) and bits % 3 == 0
        modes = [mode for mode in self.MODES if mode != history.mode]
        mode = modes[bits % 2] if change else history.mode
        return Decision(history.steps[-1], mode, f"bits {bits}")


def fickle(update_freq=2, **options):
    auto = AutoMode(update_freq, **options)
    auto.policy = Fickle()
    auto.policy.watch = auto
    return auto


class FromTheStep(keras.utils.PyDataset):
    """Batches that begin at the optimizer's iteration, in one epoch of all of them.

    Keras keeps no place within an epoch, so the data have to.
    """

    def __init__(self, model):
        super().__init__()
        self.model, self.first = model, 0

    def on_epoch_begin(self):
        self.first = int(self.model.optimizer.iterations)

    def __len__(self):
        return BATCHES * EPOCHS

    def __getitem__(self, index):
        rows = slice((self.first + index) * BATCH, (self.first + index + 1) * BATCH)
        return X[rows], Y[rows]


class StopAt(keras.callbacks.Callback):
    """Ends training after so many steps of the optimizer."""

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) >= BATCHES * EPOCHS:
            self.model.stop_training = True


def in_order(order, auto, backup):
    """The two callbacks, `order` first."""
    return [auto, backup] if order == "auto" else [backup, auto]


def train(model, callbacks, save_freq):
    """Ten batches an epoch, the same ones in each; or one epoch, from the step on."""
    options = {"verbose": 0, "shuffle": False}
    if save_freq == "epoch":
        few = BATCH * BATCHES
        model.fit(X[:few], Y[:few], BATCH, EPOCHS, callbacks=callbacks, **options)
    else:
        callbacks = [*callbacks, StopAt()]
        model.fit(FromTheStep(model), callbacks=callbacks, **options)


def outcome(model, auto):
    """All that must be the same after a crash."""
    recorder = model._modular.recorder
    variables = [*model.weights, *model.optimizer.variables]
    kept = [v for row in recorder.kept for each in row for v in each]
    history = [values for q in auto.history.values() for values in q.values()]
    texts = [
        str(model.training_mode),
        *map(str, auto.modes),
        *map(str, getattr(auto, "decisions", ())),
    ]
    return [
        *[np.asarray(v) for v in variables],
        *[v.numpy() for v in kept],
        np.array(history, "float32"),
        np.array(auto.steps),
        np.array(texts),
    ]


def main(folder, save_freq, order, seconds=None):
    """Trains; kills itself after `seconds` of training."""
    model, auto = model_of_three(), fickle()
    save_freq = save_freq if save_freq == "epoch" else int(save_freq)
    backup = keras.callbacks.BackupAndRestore(f"{folder}/backup", save_freq)
    begin = keras.callbacks.LambdaCallback()
    if seconds is not None:
        timer = threading.Timer(float(seconds), os.kill, (os.getpid(), signal.SIGKILL))
        begin = keras.callbacks.LambdaCallback(on_epoch_begin=lambda *_: start(timer))
    train(model, [*in_order(order, auto, backup), begin], save_freq)
    np.savez(f"{folder}/done.npz", *outcome(model, auto))


def start(timer):
    """Starts a timer, once."""
    if not timer.ident:
        timer.start()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""One of two workers that differ, or of which one dies; run by test_faulty_workers.py.

As a script: `python -m tests.callbacks.faulty_worker WHAT INDEX ADDRESSES FOLDER`, where
`WHAT` is `differs`, at the end of which the second worker dies while it trains with a
backup in `FOLDER`, or `resumes`, at the end of which it changes the mode by itself.
"""

import json
import os
import signal
import sys

import keras
import numpy as np
import tensorflow as tf

import keras_e2e as e2e
from keras_e2e.trainers import agreement
from keras_e2e.utils import workers
from tests.callbacks.kept_training import X, Y

EPOCHS = 4


def model_of_three(
    boundaries=("a", "b"),
    objective="prediction",
    beta_1=0.9,
    loss_weights=None,
    rate=0.2,
    **options,
):
    keras.utils.set_random_seed(1)
    dense = [keras.layers.Dense(8, activation="tanh", name=name) for name in "ab"]
    drop = keras.layers.Dropout(rate, seed=3)
    last = keras.layers.Dense(2, name="out")
    base = keras.Sequential([keras.Input((4,)), dense[0], drop, dense[1], last], name="net")
    options = {"training_mode": "local", "objective": objective, **options}
    model = e2e.modularize(base, [*boundaries], **options)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.Adam(0.01, beta_1)
    model.compile(optimizer, loss, loss_weights=loss_weights)
    return model


def fit(model, *callbacks, epochs=EPOCHS, count=64):
    options = {"verbose": 0, "shuffle": False, "callbacks": [*callbacks]}
    return model.fit(X[:count], Y[:count], 16, epochs, **options)


def refused(strategy, first):
    """What each of two workers is told that differ: what, and how."""
    odd = {
        "modules": {} if first else {"boundaries": "a"},
        "objectives": {} if first else {"objective": "reconstruction"},
        "mode": {} if first else {"training_mode": "deep_supervision"},
        "optimizer": {} if first else {"beta_1": 0.5},
        "package": {},
        "compile": {} if first else {"loss_weights": 0.5},
        "layers": {} if first else {"rate": 0.3},
        "values": {},
        "rate": {},
        "batches": {},
        "epochs": {},
        "predict": {},
    }
    rate = keras.callbacks.LearningRateScheduler(lambda _: 0.1 if first else 0.2)
    train = {
        "rate": lambda model: fit(model, rate),
        "batches": lambda model: fit(model, count=64 if first else 48),
        "epochs": lambda model: fit(model, epochs=4 if first else 3),
        "predict": lambda model: model.predict(X[: 64 if first else 48], verbose=0),
    }
    found, stock_version = {}, agreement._version
    for name, options in odd.items():
        if name == "package" and not first:
            agreement._version = lambda _: "0.1"
        try:
            with strategy.scope():
                model = model_of_three(**options)
            if name == "values" and not first:
                model.set_weights([2 * weight for weight in model.get_weights()])
            before = numbers(model)
            train.get(name, fit)(model)
        except ValueError as error:
            changes = name not in ("optimizer", "values", "layers", "batches", "epochs")
            same = changes or before == numbers(model)
            found[name] = str(error) if same else "something changed"
        finally:
            agreement._version = stock_version
    return found


class At(keras.callbacks.Callback):
    """Does something at a batch of the third epoch."""

    def __init__(self, action):
        super().__init__()
        self.action, self.epoch = action, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch) == (2, 1):
            self.action(self.model)


def kept(folder):
    """A schedule, and the backup that all workers read."""
    schedule = e2e.callbacks.TrainingModeScheduler({0: "local", 1: "end_to_end"})
    return schedule, keras.callbacks.BackupAndRestore(folder)


def told(**found):
    print(json.dumps(found), flush=True)


def numbers(model):
    variables = [*model.weights, *model.optimizer.variables]
    return [np.asarray(variable).tolist() for variable in variables]


def differs(strategy, first, folder):
    """Is refused, trains undisturbed, and then one dies."""
    told(refused=refused(strategy, first))
    with strategy.scope():
        model = model_of_three()
    history = fit(model, *kept(f"{folder}/whole"))
    told(whole=numbers(model), epochs=history.epoch)
    with strategy.scope():
        model = model_of_three()
    die = At(lambda model: first or os.kill(os.getpid(), signal.SIGKILL))
    fit(model, *kept(f"{folder}/killed"), die)


def resumes(strategy, first, folder):
    """Goes on where one died; then only one changes the mode."""
    with strategy.scope():
        model = model_of_three()
    history = fit(model, *kept(f"{folder}/killed"))
    told(resumed=numbers(model), epochs=history.epoch)

    def be_odd(model):
        workers.PATIENCE = 10.0
        if not first:
            model.training_mode = "deep_supervision"

    fit(model, At(be_odd))


def main(what, index, addresses, folder):
    """Trains as one of the workers, and prints what came of it."""
    task = {"type": "worker", "index": int(index)}
    cluster = {"worker": addresses.split(",")}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    {"differs": differs, "resumes": resumes}[what](strategy, index == "0", folder)


if __name__ == "__main__":
    main(*sys.argv[1:])

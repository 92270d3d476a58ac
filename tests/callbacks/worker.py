"""One of several workers that train together; run by test_workers.py.

As a script: `python -m tests.callbacks.worker INDEX ADDRESSES FOLDER`.
"""

import contextlib
import json
import os
import sys

import keras
import tensorflow as tf

import keras_e2e as e2e
from tests.callbacks.kept_training import X, Y, fickle


class OfThisWorker(e2e.diagnostics.Quantity):
    """The mean of the examples of this worker, which no other worker knows."""

    name, formula = "of_this_worker", "mean of h"

    def compute(self, module, state):
        if module.activation is None:
            return None, state
        return tf.reduce_mean(module.activation), state


def trained(strategy, mode, callbacks=()):
    """A model of three modules, and its history."""
    keras.utils.set_random_seed(1)
    with strategy.scope() if strategy else contextlib.nullcontext():
        dense = [keras.layers.Dense(8, activation="tanh", name=name) for name in "ab"]
        last = keras.layers.Dense(2, name="out")
        base = keras.Sequential([keras.Input((4,)), *dense, last])
        model = e2e.modularize(base, ["a", "b"], training_mode=mode)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, metrics=["accuracy"])
    options = {"verbose": 0, "shuffle": False, "callbacks": [*callbacks]}
    history = model.fit(X, Y, 16, 2, validation_data=(X, Y), **options)
    return model, history.history


def trained_locally(strategy=None):
    """What comes of training in local mode."""
    model, history = trained(strategy, "local")
    return {
        "history": history,
        "evaluated": model.evaluate(X, Y, 16, verbose=0),
        "predicted": model.predict(X[:32], 16, verbose=0).tolist(),
        "weights": [weight.tolist() for weight in model.get_weights()],
    }


def switched(strategy, folder):
    """What comes of AutoMode with a policy that hangs on every bit that was measured."""
    auto = fickle(quantities=[*e2e.diagnostics.default_quantities(), OfThisWorker()])
    board = e2e.callbacks.ModuleTensorBoard(folder)
    model, _ = trained(strategy, "end_to_end", [auto, board])
    return {
        "decisions": [decision.get_config() for decision in auto.decisions],
        "measured": auto.history["of_this_worker"]["a"],
        "verdicts": [verdict.state for verdict in auto.verdicts().values()],
        "switched": [weight.tolist() for weight in model.get_weights()],
    }


def scheduled(strategy, number):
    """The modes that come of a schedule that each worker has another of."""
    modes = [["local", "end_to_end", "local"], ["deep_supervision"] * 3][number]
    asked = []
    schedule = e2e.callbacks.TrainingModeScheduler(
        lambda when: modes[asked.append(when) or len(asked) % 3], "step"
    )
    watch = e2e.callbacks.ModuleDiagnostics(1, [e2e.diagnostics.ModuleLoss()])
    trained(strategy, "end_to_end", [schedule, watch])
    return {"asked": len(asked), "modes": [str(mode) for mode in watch.modes]}


def stock(strategy, folder=None):
    """The weights of a stock model after training, and what is refused."""
    e2e.enable_multi_worker()
    keras.utils.set_random_seed(1)
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    callbacks = [] if folder is None else writing(folder)
    options = {"verbose": 0, "shuffle": False, "callbacks": callbacks}
    model.fit(X, Y, 16, validation_data=(X, Y), **options)
    found = {"stock": [weight.tolist() for weight in model.get_weights()], "refused": []}
    model.compile("sgd", "mse")
    batches, seen = ((X[k : k + 16], Y[k : k + 16]) for k in range(0, 80, 16)), []
    count = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(batch)
    )
    # As many as there are: to look at a first one would leave too few.
    model.fit(batches, steps_per_epoch=5, verbose=0, callbacks=[count])
    found["of a generator"] = len(seen)
    for count, steps in ((len(X), 2), (33, 1)):
        model.compile("sgd", "mse", steps_per_execution=steps)
        try:
            model.fit(X[:count], Y[:count], 16, verbose=0)
        except ValueError as error:
            found["refused"].append(str(error))
    return found


def writing(folder):
    """Callbacks of Keras that write into a folder."""
    keep = {"monitor": "val_loss", "save_best_only": True}
    return [
        keras.callbacks.ModelCheckpoint(f"{folder}/best.keras", **keep),
        keras.callbacks.CSVLogger(f"{folder}.csv"),
        keras.callbacks.TensorBoard(f"{folder}/board", histogram_freq=1),
    ]


def main(index, addresses, folder):
    """Trains all three as one of the workers, and prints what came of it."""
    task = {"type": "worker", "index": int(index)}
    cluster = {"worker": addresses.split(",")}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    found = trained_locally(strategy) | switched(strategy, folder)
    found |= scheduled(strategy, int(index)) | stock(strategy, folder)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])

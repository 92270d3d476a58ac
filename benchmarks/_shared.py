"""What the training benchmarks share: data, the clock, results that survive a kill."""

import gc
import json
import os
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import keras_e2e as e2e
from keras_e2e.experiments import tasks

PADDING = 2
"""Pixels of zeros around an image before it is cropped at random."""


# Each run makes a model of its own, so each traces; TensorFlow would warn of that.
tf.get_logger().setLevel("ERROR")


def define_flags(epochs: int | None, help_on_epochs: str) -> None:
    """Defines the flags that the scripts share."""
    flags.DEFINE_integer("epochs", epochs, help_on_epochs, lower_bound=1)
    flags.DEFINE_integer("seeds", 3, "How many seeds, counted from 0.", lower_bound=1)
    flags.DEFINE_list("methods", None, "Which methods; by default all of them.")
    flags.DEFINE_float("minutes", None, "Begin no epoch after so many minutes.")
    flags.DEFINE_bool("jit", False, "Compile with XLA.")
    flags.DEFINE_bool("fresh", False, "Forget the runs that are in the JSON file.")
    flags.DEFINE_string("output", "benchmarks/results", "Folder of the JSON file.")


def define_sweep_flags(seeds: int) -> None:
    """Defines the flags of the scripts that train many seeds."""
    flags.DEFINE_integer("seeds", seeds, "How many seeds, counted from 0.", lower_bound=1)
    flags.DEFINE_float("minutes", None, "Begin no run after so many minutes.")
    flags.DEFINE_integer("threads", 0, "Threads of TensorFlow; 0 leaves it to it.")
    flags.DEFINE_string("output", "benchmarks/results", "Folder of the JSON file.")


def set_threads() -> None:
    """As `--threads` says."""
    tf.config.threading.set_intra_op_parallelism_threads(flags.FLAGS.threads)
    tf.config.threading.set_inter_op_parallelism_threads(flags.FLAGS.threads)


def chosen(methods: dict[str, Any]) -> list[str]:
    """The names of the methods that `--methods` asks for."""
    asked = flags.FLAGS.methods or list(methods)
    unknown = sorted(set(asked) - set(methods))
    if unknown:
        raise app.UsageError(f"--methods: {unknown} not among {list(methods)}")
    return asked


def deadline() -> float:
    """When `--minutes` are over, counted from now."""
    minutes = flags.FLAGS.minutes
    return float("inf") if minutes is None else time.monotonic() + 60 * minutes


def batches(
    x: np.ndarray,
    y: np.ndarray,
    batch: int,
    seed: int,
    augment: bool = False,
) -> tf.data.Dataset:
    """Shuffled batches that are put together (and augmented) while training runs.

    The order changes from epoch to epoch; the same seed gives the same orders.

    Args:
        x: images, (images, 28, 28) or with more axes after that; raw, in [0, 1].
        y: labels.
        batch: batch size; the last batch may be smaller.
        seed: seed of orders, crops and flips.
        augment: random crop with padding, and horizontal flip with chance one half.
    """
    images, labels = tf.constant(x), tf.constant(y)
    order = tf.data.Dataset.range(len(y)).shuffle(len(y), seed=seed).batch(batch)
    seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2)

    def together(rows, numbers):
        chosen = tf.gather(images, rows)
        if augment:
            chosen = crop_and_flip(chosen, numbers)
        return chosen, tf.gather(labels, rows)

    return tf.data.Dataset.zip(order, seeds).map(together).prefetch(4)


def crop_and_flip(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """A random crop of the padded images, half of them mirrored left to right."""
    count = tf.shape(images)[0]
    height, width = images.shape[1:3]
    border = [[0, 0], [PADDING, PADDING], [PADDING, PADDING]]
    padded = tf.pad(images, border + [[0, 0]] * (images.shape.rank - 3))
    numbers = tf.random.stateless_uniform(
        [3, count, 1], seed, maxval=2 * PADDING + 1, dtype=tf.int32
    )
    flips = tf.random.stateless_uniform([count, 1], seed + 1) < 0.5
    rows = numbers[0] + tf.range(height)
    columns = numbers[1] + tf.where(flips, tf.range(width)[::-1], tf.range(width))
    padded = tf.gather(padded, rows, axis=1, batch_dims=1)
    return tf.gather(padded, columns, axis=2, batch_dims=1)


class Curve(keras.callbacks.Callback):
    """Notes seconds of each epoch and test errors, and stops when the time is up.

    The seconds are those of the training steps: they end where the evaluation begins.
    `errors` has an entry for each epoch after which there was an evaluation.

    Args:
        deadline: `time.monotonic()` after which no new epoch is begun.
        save: called after each epoch with `errors` and `seconds` so far.
    """

    def __init__(self, deadline: float, save: Callable[[list, list], None]):
        super().__init__()
        self.deadline, self.save = deadline, save
        self.errors: list[float] = []
        self.seconds: list[float] = []
        self._begin = 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self._begin = time.perf_counter()

    def on_test_begin(self, logs=None):
        self._end_of_training()

    def on_epoch_end(self, epoch, logs=None):
        if "val_accuracy" in logs:
            self.errors.append(round(100.0 * (1.0 - float(logs["val_accuracy"])), 4))
        else:
            self._end_of_training()
        self.save(self.errors, self.seconds)
        if time.monotonic() > self.deadline:
            self.model.stop_training = True

    def _end_of_training(self):
        self.seconds.append(round(time.perf_counter() - self._begin, 4))


class Results:
    """Runs in a JSON file, written after every epoch, so that nothing is lost.

    A run is a dict: what identifies it (its key), its curves, and `epochs`, how many
    were asked for. A run with fewer `seconds` than that was cut short.

    Args:
        path: the JSON file.
        about: what the numbers are, for whoever opens the file.
        fresh: forget the runs that are in the file.
    """

    def __init__(self, path: pathlib.Path, about: dict[str, Any], fresh: bool = False):
        self.path, self.about = path, about
        self.runs: list[dict[str, Any]] = []
        if path.is_file() and not fresh:
            self.runs = json.loads(path.read_text())["runs"]
        path.parent.mkdir(parents=True, exist_ok=True)

    def find(self, **key: Any) -> dict[str, Any] | None:
        """The run with this key."""
        for run in self.runs:
            if all(run.get(k) == v for k, v in key.items()):
                return run
        return None

    def put(self, run: dict[str, Any], **key: Any) -> None:
        """Adds a run in place of the one with the same key, and writes the file."""
        old = self.find(**key)
        self.runs = [r for r in self.runs if r is not old] + [{**key, **run}]
        text = json.dumps({**self.about, "runs": self.runs}, indent=1)
        waiting = self.path.with_suffix(".writing")
        waiting.write_text(text)
        os.replace(waiting, self.path)


def train(
    make: Callable[[], keras.Model],
    train_data: Callable[[], tf.data.Dataset],
    test_data: tuple[np.ndarray, np.ndarray],
    epochs: int,
    results: Results,
    until: float = float("inf"),
    callbacks: Callable[[keras.Model], list] = lambda model: [],
    validation_freq: int = 1,
    **key: Any,
) -> dict[str, Any] | None:
    """Trains a compiled model for each epoch's test error, unless it is done already.

    Args:
        make: makes the model; called after the global seed `key["seed"]` is set.
        train_data: makes the batches; likewise, and before the model.
        test_data: images and labels, evaluated after each epoch.
        epochs: how many.
        results: where the run is looked up and put.
        until: the deadline of `Curve`.
        callbacks: more callbacks for this model.
        validation_freq: how many epochs from one evaluation to the next.
        **key: what identifies the run; `seed` among it.

    Returns:
        The run as it is in the results; None when the time was up before it began.
    """
    done = results.find(**key, epochs=epochs)
    complete = done is not None and len(done["seconds"]) >= epochs
    if complete or time.monotonic() > until:
        return done
    keras.backend.clear_session()
    gc.collect()
    keras.utils.set_random_seed(key["seed"])
    data, model = train_data(), make()

    def save(errors, seconds):
        if done is None or len(seconds) >= len(done["seconds"]):  # never lose a curve
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            run = {"errors": errors, "seconds": seconds, "written": now}
            results.put(run, **key, epochs=epochs)

    curve = Curve(until, save)
    model.fit(
        data,
        epochs=epochs,
        validation_data=test_data,
        validation_freq=validation_freq,
        validation_batch_size=1000,
        callbacks=[*callbacks(model), curve],
        shuffle=False,  # the batches are shuffled
        verbose=0,
    )
    return results.find(**key, epochs=epochs)


class Traced:
    """The models of one task: traced once, trained from many seeds.

    AutoMode measures single steps; all others run ten at once, which is quicker.
    """

    def __init__(self, task: tasks.Task):
        self.models = {}
        for steps in (1, 10):
            objectives = {
                name: e2e.objectives.IntermediateTarget(c.loss)
                for name, c in task.cuts.items()
            }
            model = e2e.modularize(task.build(0), objectives)
            model.compile(
                keras.optimizers.Adam(1e-3),
                task.loss,
                metrics=task.metrics,
                steps_per_execution=steps,
            )
            model.optimizer.build(model.trainable_variables)
            self.models[steps] = (model, [v.numpy() for v in model.optimizer.variables])

    def start(self, task: tasks.Task, seed: int, auto: bool) -> e2e.ModularModel:
        """A model with the seed's weights and a fresh optimizer."""
        model, fresh = self.models[1 if auto else 10]
        # The objective has no weights, so the plain model has as many.
        model.set_weights(task.build(seed).get_weights())
        for variable, value in zip(model.optimizer.variables, fresh, strict=True):
            variable.assign(value)
        keras.utils.set_random_seed(seed)
        return model


def spread(values: list[float], digits: int = 2) -> str:
    """Mean and standard deviation over the seeds."""
    if not values:
        return ""
    text = f"{statistics.mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.{digits}f}"
    return text

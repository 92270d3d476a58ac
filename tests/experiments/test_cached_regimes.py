"""Training on what modules upstream returned: the same numbers, and what is refused."""

import errno
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_e2e as e2e
from keras_e2e.experiments import regimes
from keras_e2e.experiments.regimes import Stage
from keras_e2e.experiments.regimes.caching import UpstreamCache
from keras_e2e.experiments.regimes.data import as_data
from keras_e2e.objectives import IntermediateTarget, Prediction, Reconstruction

RNG = np.random.default_rng(0)
X = RNG.normal(size=(70, 6)).astype("float32")
HIDDEN = (X[:, 0] > 0).astype("int32") + 2 * (X[:, 1] > 0).astype("int32")
Y = {"out": HIDDEN % 3, "a": HIDDEN}
LOSS = "sparse_categorical_crossentropy"


@keras.saving.register_keras_serializable("tests")
class Counting(layers.Layer):
    """Counts how often it is run, also in a compiled step."""

    def __init__(self, **options):
        super().__init__(**options)
        self.runs = 0

    def _count(self):
        self.runs += 1

    def call(self, x):
        tf.numpy_function(self._count, [], [])
        return x


def mlp(optimizer="adam", **options):
    """Three modules, with all that differs between training and inference."""
    base = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.3, seed=1),
            layers.Dense(4, activation="softmax", name="a"),
            Counting(name="counting"),
            layers.Dense(6, activation="relu", kernel_regularizer="l2"),
            layers.Dropout(0.3, seed=2, name="b"),
            layers.Dense(3, activation="softmax", name="out"),
        ]
    )
    model = e2e.modularize(base, {"a": IntermediateTarget(), "b": "pred"})
    model.compile(optimizer, LOSS, metrics=["accuracy"], **options)
    return model, X, Y


def convnet():
    """Images, with objectives that look at what enters the module, and metrics of heads."""
    x = np.random.default_rng(1).normal(size=(70, 8, 8, 2)).astype("float32")
    inputs = keras.Input((8, 8, 2))
    a = layers.Conv2D(4, 3, activation="relu", padding="same")(inputs)
    a = layers.BatchNormalization(name="a")(a)
    b = layers.Conv2D(4, 3, strides=2, activation="relu", name="b")(a)
    c = layers.Conv2D(4, 3, activation="relu", name="c")(b)
    out = layers.Dense(3, activation="softmax", name="out")(layers.Flatten()(c))
    objectives = {
        "a": Prediction(metrics=["accuracy"]),
        "b": Reconstruction(),
        "c": Prediction(metrics=["accuracy"]),
    }
    model = e2e.modularize(keras.Model(inputs, out), objectives)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), LOSS, metrics=["accuracy"])
    return model, x, HIDDEN % 3


def recurrent():
    """Sequences with masks, in half precision, with noise at the boundary."""
    rng = np.random.default_rng(1)
    x = rng.integers(0, 9, size=(70, 7)).astype("int32")
    x[:, 4:] *= rng.integers(0, 2, size=(70, 3)).astype("int32")
    inputs = keras.Input((7,), dtype="int32")
    a = layers.Embedding(9, 5, mask_zero=True)(inputs)
    a = e2e.ModuleBoundary(module="a", noise=0.1, seed=3)(a)
    b = layers.LSTM(6)(a)
    b = e2e.ModuleBoundary(module="b")(b)
    out = layers.Dense(3, activation="softmax", dtype="float32", name="out")(b)
    model = e2e.ModularModel(inputs, out)
    model.compile("adam", LOSS, metrics=["accuracy"])
    return model, x, HIDDEN % 3


def trained(make, plan="greedy", precision="float32", data=None, validate=0, **options):
    """Weights, the optimizer's variables and the history, and the model."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        keras.utils.set_random_seed(4)
        model, x, y = make()
    finally:
        keras.config.set_dtype_policy(before)
    options = {"batch_size": 16, **options} if data is None else options
    options = {"steps": 24, "window": 2, **options}
    if validate:
        chosen = x[:validate], keras.tree.map_structure(lambda t: t[:validate], y)
        options["validation_data"] = chosen if data is None else data(*chosen)
    x, y = (x, y) if data is None else (data(x, y), None)
    found = regimes.train(model, plan, x, y, **options)
    variables = [*model.variables, *model.optimizer.variables]
    return [v.numpy() for v in variables], found, model


def assert_same(one, other):
    for a, b in zip(one[0], other[0], strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(one[1].history, other[1].history, strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_array_equal([*a.values()], [*b.values()])


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("make", "precision", "where"),
    [
        (mlp, "float32", "memory"),
        (mlp, "mixed_bfloat16", "folder"),
        (convnet, "float32", "folder"),
        (convnet, "mixed_float16", "memory"),
        (recurrent, "float32", "memory"),
    ],
)
def test_cached_training_gives_the_same_numbers_to_the_bit(
    make, precision, where, tmp_path
):
    cache = "memory" if where == "memory" else tmp_path / "new" / "folder"
    # What others upstream make of noise is not the same each time.
    stages = [Stage(mode="sequential:a"), Stage(mode="sequential:b")]
    plan = stages if make is recurrent else "greedy"
    plain = trained(make, plan, precision, validate=40)
    cached = trained(make, plan, precision, validate=40, cache=cache)
    assert_same(plain, cached)
    assert plain[1].cached_bytes == 0 and cached[1].cached_bytes > 0
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


class Reader(keras.callbacks.Callback):
    """How often the layer `counting`, upstream of the last modules, ran in each stage."""

    def __init__(self):
        super().__init__()
        self.runs, self.modules = [], []

    def on_train_begin(self, logs=None):
        self.begin = self.model.get_layer("counting").runs

    def on_train_end(self, logs=None):
        self.runs.append(self.model.get_layer("counting").runs - self.begin)
        self.modules.append(self.model.training_mode.module)


def test_modules_upstream_run_once_for_each_example():
    plain, cached = Reader(), Reader()
    trained(mlp, callbacks=[plain])
    trained(mlp, cache="memory", callbacks=[cached])
    assert plain.modules == cached.modules == ["a", "b", "out"]
    # `counting` is part of the module "b".
    assert plain.runs == [0, 8, 8]
    assert cached.runs == [0, 8, 0]


def as_dataset(x, y):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(16)


class AsPyDataset(keras.utils.PyDataset):
    """Batches of arrays, a smaller one at the end."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return -(-len(self.x) // 16)

    def __getitem__(self, index):
        part = slice(16 * index, 16 * index + 16)
        return self.x[part], {name: values[part] for name, values in self.y.items()}


@pytest.mark.parametrize("data", [as_dataset, AsPyDataset])
def test_a_dataset_that_repeats_itself_gives_the_same_numbers_to_the_bit(data):
    plain = trained(mlp, data=data, validate=40)
    cached = trained(mlp, data=data, validate=40, cache="memory")
    assert_same(plain, cached)
    assert all("val_accuracy" in logs for logs in cached[1].history)
    assert plain[1].examples == 24 * 16


def test_the_first_stage_may_be_cached():
    stages = [Stage(mode="sequential:out"), Stage(mode="sequential:b")]
    assert_same(trained(mlp, stages), trained(mlp, stages, cache="memory"))


def shuffled(x, y):
    found = tf.data.Dataset.from_tensor_slices((x, y))
    return found.shuffle(70, seed=1, reshuffle_each_iteration=True).batch(16)


class ShuffledPyDataset(AsPyDataset):
    """In another order in each epoch."""

    def on_epoch_end(self):
        order = np.random.permutation(len(self.x))
        self.x = self.x[order]
        self.y = {name: values[order] for name, values in self.y.items()}


@pytest.mark.parametrize("data", [shuffled, ShuffledPyDataset])
def test_a_dataset_that_shuffles_goes_on_shuffling(data):
    keras.utils.set_random_seed(4)
    model, x, y = mlp()
    stages = [Stage(mode="sequential:b")]
    kept = UpstreamCache(model, stages, as_data(data(x, y), None, None), None, "memory")
    model.training_mode = "sequential:b"
    upstream = keras.Model(model.inputs, model.boundaries["a"].output)
    epochs: list[list] = [[], [], []]
    for i, (given, targets) in enumerate(kept.batches(model.training_mode, 0).take(15)):
        [crossing] = given.crossings["b"]
        found, expected = crossing["a"][0], upstream(given.x)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        chosen = [[*map(tuple, x)].index(tuple(row)) for row in given.x.numpy()]
        np.testing.assert_array_equal(targets["a"], y["a"][chosen])
        epochs[i // 5] += chosen
    assert all(sorted(epoch) == list(range(70)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    _, found, _ = trained(mlp, stages, cache="memory", data=data)
    assert found.steps == 24


def augmented(x, y):
    found = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(70)
    return found.map(lambda x, y: (x + tf.random.normal([6]), y)).batch(16)


def augmented_by_a_seed(x, y):
    """Each iterator begins alike, and draws on when it goes through the data again."""
    found = tf.data.Dataset.from_tensor_slices((x, y))
    return found.map(lambda x, y: (x + tf.random.normal([6], seed=3), y)).batch(16)


class AugmentedPyDataset(AsPyDataset):
    """With noise of its own each time."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + np.random.normal(size=x.shape), y


@keras.saving.register_keras_serializable("tests")
class AlwaysNoisy(layers.Layer):
    """Draws in inference, too."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seed = keras.random.SeedGenerator(1)

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x), seed=self.seed)


@keras.saving.register_keras_serializable("tests")
class Centered(layers.Layer):
    """Mixes the examples of a batch."""

    def call(self, x):
        return x - keras.ops.mean(x, axis=0)


@keras.saving.register_keras_serializable("tests")
class SlightlyCentered(layers.Layer):
    """Takes off a hundredth of the mean of the batch."""

    def call(self, x):
        return x - 0.009 * keras.ops.mean(x, axis=0)


def beginning_with(*first, objective="pred"):
    """Makes a model of three modules that begins with some layers."""

    def make():
        base = keras.Sequential(
            [
                keras.Input((6,)),
                *(layer() for layer in first),
                layers.Dense(4, name="a"),
                layers.Dense(4, name="b"),
                layers.Dense(3, activation="softmax", name="out"),
            ]
        )
        model = e2e.modularize(base, {"a": "pred", "b": objective})
        model.compile("adam", LOSS)
        return model, X, Y["out"]

    return make


class Own(e2e.ModularModel):
    """A model with a step of its own."""

    def train_step(self, data):
        return super().train_step(data)


def with_own_step():
    model, x, y = mlp()
    model = Own(model.inputs, model.outputs)
    model.compile("adam", LOSS)
    return model, x, y


def wrapped():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.a, self.out = layers.Dense(4, name="a"), layers.Dense(3, name="out")

        def call(self, x):
            return self.out(self.a(x))

    model = e2e.modularize(Net(), ["a"])
    model.examine(X)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model, X, Y["out"]


def sharing():
    """The first module uses what the second trains."""
    twice = layers.Dense(X.shape[-1], name="twice")
    x = inputs = keras.Input(X.shape[1:])
    for name in "ab":
        x = layers.Dense(X.shape[-1], activation="relu", name=name)(twice(x))
    out = layers.Dense(3, activation="softmax", name="out")(x)
    model = e2e.modularize(keras.Model(inputs, out), ["a", "b"], shared={"twice": "b"})
    model.compile("adam", LOSS)
    return model, X, Y["out"]


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (mlp, {"data": augmented}, "brings other examples each time.*augmented"),
        (mlp, {"data": augmented_by_a_seed}, "brings other examples each time.*augmented"),
        (mlp, {"data": AugmentedPyDataset}, "PyDataset, brings other.*cache=None"),
        (mlp, {"data": lambda x, y: as_dataset(x, y).repeat()}, "without an end"),
        (mlp, {"data": lambda x, y: iter([(x, y)])}, "x is a list_iterator; expected"),
        (mlp, {"plan": "local"}, r"cache='memory': no stage.*\['local'\].*'greedy'"),
        (mlp, {"plan": [Stage(mode="sequential:a")]}, "no stage of the plan"),
        (mlp, {"cache": True}, "cache=True: expected None, 'memory', or the path"),
        (mlp, {"cache": "Memory"}, "cache='Memory': expected None, 'memory', or the path"),
        (mlp, {"cache": ""}, "cache='': expected None, 'memory', or the path"),
        (beginning_with(SlightlyCentered), {}, "depends on the other examples"),
        (beginning_with(AlwaysNoisy), {}, "boundary 'a' returns.*not the same each time"),
        (
            beginning_with(Centered),
            {},
            "boundary 'a' returns.*depends on the other examples",
        ),
        (
            beginning_with(objective="view_contrast"),
            {},
            "objective of boundary 'b'.*inputs of its own",
        ),
        (recurrent, {}, "boundary 'a' adds noise.*upstream of 'out'"),
        (with_own_step, {}, "Own has a train_step of its own"),
        (sharing, {}, r"module 'a' uses 'twice/kernel', which 'b' owns.*cache=None"),
        (wrapped, {}, "wraps a subclassed model.*cache=None"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_anything_moves(make, options, message):
    model, x, y = make()
    before = [v.numpy() for v in model.variables]
    options = {"plan": "greedy", "cache": "memory", **options}
    data = options.pop("data", None)
    x, y = (x, y) if data is None else (data(x, y), None)
    with pytest.raises(ValueError, match=message):
        regimes.train(model, x=x, y=y, steps=24, window=2, **options)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_folder_that_is_full_or_not_writable_is_refused_by_name(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ValueError, match=r"folder '.*file/inner'.*MiB.*Not a directory"):
        trained(mlp, cache=file / "inner")

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(ValueError, match=r"No space left on device.*cache='memory'"):
        trained(mlp, cache=tmp_path / "full")
    assert not list((tmp_path / "full").iterdir())


def test_a_callback_that_switches_the_mode_of_a_cached_stage_is_refused():
    schedule = e2e.callbacks.TrainingModeScheduler({0: "sequential:b", 1: "local"})
    with pytest.raises(RuntimeError, match=r"from 'sequential .b.' to 'local'"):
        trained(mlp, [Stage(mode="sequential:b")], cache="memory", callbacks=[schedule])


def test_a_callback_that_sets_weights_upstream_of_a_cached_stage_is_refused():
    class Restore(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            kernel = self.model.get_layer("a").kernel
            kernel.assign(kernel * 0.5)

    with pytest.raises(RuntimeError, match="set weights of modules upstream of 'b'"):
        trained(mlp, [Stage(mode="sequential:b")], cache="memory", callbacks=[Restore()])


def test_diagnostics_measure_all_modules_and_change_nothing():
    def measured(cache):
        readings = e2e.callbacks.ModuleDiagnostics(update_freq=3)
        found = trained(mlp, cache=cache, callbacks=[readings])
        return found, readings.history

    plain, seen = measured(None)
    cached, seen_too = measured("memory")
    assert_same(plain, cached)
    assert_same(trained(mlp), cached)
    assert repr(seen) == repr(seen_too)


ON_JAX = """
from keras_e2e.experiments.regimes import Stage
from tests.experiments.test_cached_regimes import assert_same, convnet, trained
stages = [Stage(mode="sequential:out"), Stage(mode="sequential:c")]  # cached from the start
options = {"steps": 8, "validate": 40}
assert_same(trained(convnet, stages, **options),
            trained(convnet, stages, cache="memory", **options))
"""

ON_TWO_DEVICES = """
import pytest
import tensorflow as tf
device = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    device, [tf.config.LogicalDeviceConfiguration()] * 2)
from tests.experiments.test_cached_regimes import convnet, trained
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    with pytest.raises(ValueError, match="trained on 2 replicas.*cache=None"):
        trained(convnet, cache="memory")
    trained(convnet, validate=40)
"""


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="starts other runs")
@pytest.mark.parametrize(
    ("backend", "code"), [("jax", ON_JAX), ("tensorflow", ON_TWO_DEVICES)]
)
def test_the_numbers_are_the_same_on_jax_and_two_devices_are_refused(backend, code):
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=pathlib.Path(__file__).parents[2],
        env={**os.environ, "KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]

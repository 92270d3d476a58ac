"""Modules that train at the same time, each on a batch of its own (`ModuleParallel`)."""

import contextlib
import os
import pathlib
import subprocess
import sys
import threading
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_e2e as e2e
from keras_e2e.trainers.module_parallel import expected_speed

SIZE, CLASSES = 4, 3
RNG = np.random.default_rng(0)
# Four batches, the last one of two examples; of the executions of three one is whole.
X = RNG.normal(size=(14, 6)).astype("float32")
IMAGES = RNG.normal(size=(14, 6, 6, 1)).astype("float32")
Y = RNG.integers(0, CLASSES, 14)
LOSS = "sparse_categorical_crossentropy"


def dense(modules=2, boundary="prediction", **kwargs):
    layers = [keras.Input((6,))]
    for place in range(modules):
        end = keras.layers.Dense(8, activation="tanh", name=f"end_{place}", **kwargs)
        layers.append(end)
    layers.append(keras.layers.Dense(CLASSES, activation="softmax", name="out"))
    cuts = {f"end_{place}": boundary for place in range(modules - 1)}
    return e2e.modularize(keras.Sequential(layers), cuts, training_mode="local")


def images():
    """Convolutions with batch normalization, dropout and a skip; labels of sides."""
    x = inputs = keras.Input((6, 6, 1))
    for place in range(2):
        x = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
        y = keras.layers.Conv2D(4, 3, padding="same")(keras.layers.Dropout(0.3)(x))
        x = keras.layers.Add(name=f"end_{place}")([x, y])
    x = keras.layers.GlobalAveragePooling2D()(x)
    base = keras.Model(inputs, keras.layers.Dense(CLASSES, activation="softmax")(x))
    cuts = {"end_0": e2e.objectives.InfoNCE(seed=1)}
    return e2e.modularize(base, cuts, training_mode="local")


class Base(keras.Model):
    def __init__(self):
        super().__init__()
        self.first = keras.layers.Dense(8, activation="gelu", name="first")
        self.drop = keras.layers.Dropout(0.2)
        self.last = keras.layers.Dense(CLASSES, activation="softmax", name="last")

    def call(self, inputs, training=False):
        return self.last(self.drop(self.first(inputs), training=training))


def subclassed():
    model = e2e.modularize(Base(), ["first"])
    model.examine(X[:SIZE])
    model.training_mode = "local"
    return model


def constrained():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        return dense(2, kernel_constraint=keras.constraints.MaxNorm(0.5))
    finally:
        keras.config.set_dtype_policy("float32")


def trained(make, optimizer, parallel, data=(X, Y), batches=3, epochs=2, **kwargs):
    """The model after `fit`, and its history."""
    keras.utils.set_random_seed(1)
    model = make()
    steps = batches if parallel else 1
    model.compile(optimizer(), LOSS, metrics=["accuracy"], steps_per_execution=steps)
    with e2e.ModuleParallel() if parallel else contextlib.nullcontext():
        history = model.fit(
            *data, batch_size=SIZE, epochs=epochs, verbose=0, shuffle=False, **kwargs
        )
    return model, history.history


def values(model):
    """All that a training changes, with names."""
    variables = [*model.variables, *model.optimizer.variables]
    return [(v.path, np.copy(keras.ops.convert_to_numpy(v))) for v in variables]


def assert_same(ours, theirs):
    for (path, value), (_, other) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(value, other, err_msg=path)


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.01, clipnorm=0.1),
    "adamw": lambda: keras.optimizers.AdamW(
        keras.optimizers.schedules.CosineDecay(0.02, 20), weight_decay=0.01
    ),
    "one for each module": lambda: e2e.ModuleOptimizers(
        keras.optimizers.Nadam(0.01, global_clipnorm=0.1, use_ema=True),
    ),
}


# What a step depends on: each case the modules, the optimizer and the arguments of `fit`.
CASES = {
    "four modules": (lambda: dense(4), "adam", {"sample_weight": np.linspace(0, 1, 14)}),
    "a schedule": (lambda: dense(2, "predsim"), "adamw", {}),
    "optimizers of modules": (dense, "one for each module", {}),
    "images": (images, "sgd", {"data": (IMAGES, Y), "validation_data": (IMAGES, Y)}),
    "subclassed": (subclassed, "adam", {}),
    "constraints in bfloat16": (constrained, "sgd", {"class_weight": {0: 2.0}}),
}


@pytest.mark.parametrize("case", CASES)
def test_weights_and_history_are_those_of_fit(case):
    make, optimizer, options = CASES[case]
    plain, first = trained(make, OPTIMIZERS[optimizer], False, **options)
    ours, second = trained(make, OPTIMIZERS[optimizer], True, **options)
    assert_same(values(plain), values(ours))
    assert_same(sorted(first.items()), sorted(second.items()))
    # Three batches at once, and one for the first and for what is left of an epoch.
    assert ours.trace_counts == {("local", 0): 2}


class Meeting(keras.layers.Layer):
    """Calls a function of the first number of each batch, and returns its inputs."""

    def __init__(self, met, **kwargs):
        super().__init__(**kwargs)
        self.met = met

    def call(self, inputs):
        def note(numbers):
            self.met(float(numbers[0, 0]))
            return numbers

        noted = tf.numpy_function(note, [inputs], inputs.dtype, stateful=False)
        return inputs + tf.stop_gradient(tf.ensure_shape(noted, inputs.shape) - inputs)


def test_a_module_takes_the_next_batch_while_the_next_module_has_the_one_before():
    begun, waited = threading.Event(), []

    def early(number):
        if number == 3:
            begun.set()

    def late(number):
        if number == 2:
            waited.append(begun.wait(timeout=30))

    inputs = keras.Input((1,))
    hidden = keras.layers.Dense(1, name="end")(Meeting(early)(inputs))
    # The last module is given the batch itself, too: its number says which one it is.
    both = keras.layers.Concatenate()([hidden, Meeting(late)(inputs)])
    model = keras.Model(inputs, keras.layers.Dense(1)(both))
    model = e2e.modularize(model, ["end"], training_mode="local")
    model.compile("adam", "mse", steps_per_execution=2)
    x = np.arange(4, dtype="float32")[:, None]
    with e2e.ModuleParallel():
        model.fit(x, x, batch_size=1, shuffle=False, verbose=0)
    assert waited == [True]


def test_modes_switch_and_diagnostics_measure_between_executions():
    def run(parallel):
        measured = e2e.callbacks.ModuleDiagnostics(update_freq=8)
        modes = e2e.callbacks.TrainingModeScheduler(
            {0: "local", 1: "end_to_end", 2: "local"}
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model, history = trained(
                *(lambda: dense(2), OPTIMIZERS["adam"], parallel),
                epochs=3,
                callbacks=[modes, measured],
            )
        return model, history, [str(w.message) for w in caught]

    plain, first, _ = run(False)
    ours, second, said = run(True)
    assert_same(values(plain), values(ours))
    assert_same(sorted(first.items()), sorted(second.items()))
    (one,) = [text for text in said if "ModuleParallel" in text]
    assert "mode 'end_to_end'" in one and "no boundary stops the gradient" in one


def test_it_is_said_if_all_executions_measure():
    measured = e2e.callbacks.ModuleDiagnostics(update_freq=1)
    with pytest.warns(UserWarning, match="update_freq of several times 3"):
        trained(dense, OPTIMIZERS["sgd"], True, epochs=2, callbacks=[measured])


class OwnLoss(e2e.ModularModel):
    def compute_loss(self, *args, **kwargs):
        return super().compute_loss(*args, **kwargs)


def own_loss():
    inputs = keras.Input((6,))
    end = e2e.ModuleBoundary(name="end")(keras.layers.Dense(4)(inputs))
    return OwnLoss(inputs, keras.layers.Dense(CLASSES)(end), training_mode="local")


def sharing():
    inputs = keras.Input((6,))
    shared = keras.layers.Dense(6, name="shared")
    end = keras.layers.Dense(6, name="end")(shared(inputs))
    model = keras.Model(inputs, keras.layers.Dense(CLASSES)(shared(end)))
    return e2e.modularize(model, ["end"], training_mode="local")


def with_optimizer(**kwargs):
    return lambda: {"optimizer": keras.optimizers.SGD(0.1, **kwargs)}


REFUSED = {
    "one batch": (dense, lambda: {"steps_per_execution": 1}, "=8, or more"),
    "eager": (dense, lambda: {"run_eagerly": True}, "run_eagerly=False"),
    "XLA": (dense, lambda: {"jit_compile": True}, "jit_compile=False"),
    "norm": (dense, with_optimizer(global_clipnorm=1.0), r"ModuleOptimizers\(SGD\("),
    "average": (dense, with_optimizer(use_ema=True), r"ModuleOptimizers\(SGD\("),
    "accumulates": (dense, with_optimizer(gradient_accumulation_steps=2), "accumulated"),
    "loss scale": (
        dense,
        lambda: {"optimizer": keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())},
        "LossScaleOptimizer is not taken variable by variable",
    ),
    "penalties": (lambda: dense(kernel_regularizer="l2"), dict, "penalties of weights"),
    "shared": (sharing, dict, "modules share variables"),
    "views": (lambda: dense(boundary=views()), dict, "passes over the whole model"),
    "signals": (lambda: dense(boundary="feedback_alignment"), dict, "waits for a signal"),
    "own loss": (own_loss, dict, "OwnLoss computes its loss after the pass"),
}


def views():
    return e2e.objectives.BarlowTwins(keras.layers.Rescaling(1.5), projection_dim=4)


@pytest.mark.parametrize("case", REFUSED)
def test_what_couples_modules_is_refused_before_anything_changes(case):
    make, options, message = REFUSED[case]
    model = make()
    given = {"optimizer": "sgd", "steps_per_execution": 3, **options()}
    model.compile(loss=LOSS, **given)
    before = values(model)
    with e2e.ModuleParallel(), pytest.raises(ValueError, match=message) as error:
        model.fit(X, Y, batch_size=SIZE, verbose=0)
    assert model.name in str(error.value) and "ModuleParallel" in str(error.value)
    assert_same(before, values(model))


def test_uneven_modules_are_warned_of_with_the_expected_speed():
    wide = keras.layers.Dense(512, name="wide")
    stack = [keras.Input((6,)), keras.layers.Dense(6, name="end"), wide]
    base = keras.Sequential([*stack, keras.layers.Dense(CLASSES)])
    model = e2e.modularize(base, ["end"], training_mode="local")
    model.compile("sgd", "mse", steps_per_execution=2)
    with e2e.ModuleParallel(), pytest.warns(UserWarning, match="times as fast") as caught:
        model.fit(X, np.zeros((len(X), CLASSES)), batch_size=SIZE, verbose=0)
    (one,) = [each for each in caught if "1.0" in str(each.message)]
    assert one.filename == __file__  # it names the line of the program's `fit`


def test_a_long_trace_is_announced_once(caplog):
    with caplog.at_level("WARNING", logger="absl"):
        trained(dense, OPTIMIZERS["sgd"], True, epochs=3)
    said = [text for text in caplog.messages if "ModuleParallel" in text]
    (one,) = said
    assert "traces 3 batches as one graph" in one


def test_the_expected_speed_is_bounded_by_the_slowest_module_and_by_the_workers():
    assert expected_speed([1, 1], 8, None) == pytest.approx(16 / 9)
    assert expected_speed([1, 3], 8, None) == pytest.approx(32 / 25)
    assert expected_speed([1, 1, 1, 1], 1000, 2) == pytest.approx(2)
    assert expected_speed([1, 1], 8, 1) == pytest.approx(1)


def test_another_backend_is_refused(monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(NotImplementedError, match="KERAS_BACKEND=tensorflow"):
        e2e.ModuleParallel().__enter__()


@pytest.mark.slow
def test_modules_run_on_the_devices_that_their_weights_are_on():
    done = subprocess.run(
        [sys.executable, "-m", "tests.trainers.tensorflow.modules_on_devices"],
        cwd=pathlib.Path(__file__).parents[3],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "compared"

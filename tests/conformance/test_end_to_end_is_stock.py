"""Promise 1: `end_to_end` mode equals stock Keras, bit for bit."""

import collections
import functools
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import pytest

import keras_e2e as e2e

from . import cases, models

on_tensorflow = keras.config.backend() == "tensorflow"


@dataclass(frozen=True)
class Setting:
    """One way to train a model.

    Attributes:
        name: the test's id.
        model: the model's name in `models.BUILDERS`.
        optimizer: makes the optimizer.
        compile: further arguments of `compile`.
        fit: arguments of `fit`.
        weighted: whether `fit` gets sample weights.
        xla: whether it is tried under XLA too, where compiling takes long.
    """

    name: str
    model: str
    optimizer: Any
    compile: dict = field(default_factory=dict)
    fit: dict = field(default_factory=dict)
    weighted: bool = False
    xla: bool = False


def adamw(**kwargs):
    return lambda: keras.optimizers.AdamW(
        1e-2, weight_decay=0.01, use_ema=True, ema_momentum=0.9, clipnorm=0.5, **kwargs
    )


SETTINGS = [
    Setting("everything", "rich", adamw(), {"steps_per_execution": 2}, {}, True, xla=True),
    Setting("sgd", "rich", lambda: keras.optimizers.SGD(0.1, global_clipnorm=0.3)),
    Setting("conv", "conv", lambda: keras.optimizers.Adam(1e-2), xla=True),
    Setting("two-outputs", "two_outputs", adamw(), weighted=True, xla=True),
    Setting("nested", "nested", adamw()),
    Setting("subclassed", "subclassed", adamw(), weighted=True, xla=True),
    Setting(
        "class-weight",
        "rich",
        adamw(),
        fit={"class_weight": {0: 1.0, 1: 3.0, 2: 0.25}},
    ),
    Setting(
        "accumulated",
        "rich",
        adamw(gradient_accumulation_steps=2, ema_overwrite_frequency=3),
    ),
    Setting("eager", "rich", adamw(), {"run_eagerly": True}, weighted=True),
    Setting("eager-two-outputs", "two_outputs", adamw(), {"run_eagerly": True}),
]


def train(setting, modular, jit_compile=False):
    """Trains a model; returns all that can be told of it from outside."""
    base = models.build(setting.model)
    model = e2e.modularize(base, models.CUTS) if modular else base
    metrics = None if setting.model == "two_outputs" else ["accuracy"]
    model.compile(
        setting.optimizer(),
        **models.losses(setting.model),
        metrics=metrics,
        weighted_metrics=None if jit_compile else metrics,
        jit_compile=jit_compile,
        **setting.compile,
    )
    # In batches of 8 the last one is partial, which XLA would compile once more.
    n = 24 if jit_compile else 21
    x, y = models.inputs(setting.model, n), models.targets(setting.model, n)
    weight = np.random.RandomState(3).rand(n).astype("float32")
    keras.utils.set_random_seed(2)
    history = model.fit(
        x,
        y,
        sample_weight=weight if setting.weighted else None,
        batch_size=8,
        epochs=2,
        verbose=0,
        validation_data=(x[:8], keras.tree.map_structure(lambda t: t[:8], y)),
        **setting.fit,
    ).history
    seen = {"history": history, "weights": cases.weights(base)}
    if not jit_compile:
        seen["evaluate"] = model.evaluate(x, y, batch_size=8, verbose=0)
        seen["predict"] = models.flat(model.predict(x, verbose=0))
    return seen


def assert_same(stock, modular):
    assert modular["history"] == stock["history"]
    assert models.same(stock["weights"], modular["weights"])
    assert modular.get("evaluate") == stock.get("evaluate")
    assert models.same(stock.get("predict", []), modular.get("predict", []))


def assert_trained(before, after):
    """Training has moved the weights: else the comparison would say nothing."""
    assert not models.same(before, after)


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.name)
def test_end_to_end_is_stock(setting):
    stock = train(setting, modular=False)
    assert_trained(cases.weights(models.build(setting.model)), stock["weights"])
    assert_same(stock, train(setting, modular=True))


@pytest.mark.slow
@pytest.mark.skipif(not on_tensorflow, reason="loss scaling on TensorFlow")
def test_end_to_end_is_stock_in_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    stock = train(SETTINGS[0], modular=False)
    assert_same(stock, train(SETTINGS[0], modular=True))


def trained_once(model, x, y):
    """History and weights of the plain model after a short fit."""
    optimizer = keras.optimizers.Adam(0.01, use_ema=True, clipnorm=1.0)
    model.compile(optimizer, **models.losses(model.name))
    history = cases.fit(model, x, y).history
    modular = hasattr(model, "training_mode")
    return history, cases.weights(e2e.strip(model) if modular else model)


@functools.cache
def stock(name, hidden):
    """What training makes of a stock model: whatever the objective, the same."""
    x, y = models.inputs(name, 22), models.targets(name, 22)
    return trained_once(models.build(name, hidden=hidden), x, y)


@cases.each_distinct
def test_end_to_end_is_stock_whatever_the_objective(case):
    # Labels of the boundaries are there, and make no difference.
    history, weights = trained_once(case.modular("end_to_end"), *case.data(22))
    stock_history, stock_weights = stock(case.model, case.hidden)
    assert history == stock_history
    assert_trained(cases.weights(case.base()), weights)
    assert models.same(stock_weights, weights)


@pytest.mark.slow
def test_end_to_end_is_stock_after_other_modes_were_tried_out():
    """What another mode leaves behind (functions, traces) does not show."""
    x, y = models.inputs("rich", 20), models.targets("rich", 20)
    results = []
    for modular in (False, True):
        base = models.build("rich")
        model = e2e.modularize(base, models.CUTS) if modular else base
        model.compile(keras.optimizers.SGD(0.1), **models.losses("rich"))
        start = cases.weights(base)
        if modular:
            for mode in ("local", "sequential:second", "deep_supervision"):
                model.training_mode = mode
                cases.fit(model, x, y)
            base.set_weights(start)
            model.training_mode = "end_to_end"
        keras.utils.set_random_seed(4)
        for layer in base.layers:
            if isinstance(layer, keras.layers.Dropout):
                layer.seed_generator.state.assign([1, 2])
        history = cases.fit(model, x, y).history
        results.append((history, cases.weights(base)))
    assert results[0][0] == results[1][0]
    assert models.same(results[0][1], results[1][1])


def penalized():
    """Two penalties of an activation, at a boundary, meet what three branches send back."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = keras.layers.Dense(6, "tanh", activity_regularizer="l2", name="a")(inputs)
    x = keras.layers.ActivityRegularization(l2=0.1, name="first")(x)
    branches = [keras.layers.Dense(6, "tanh", name=f"b_{i}")(x) for i in range(3)]
    x = keras.layers.Add(name="second")([x, *branches])
    x = keras.layers.Dense(models.CLASSES, "softmax", name="out")(x)
    return keras.Model(inputs, x, name="penalized")


@pytest.mark.skipif(not on_tensorflow, reason="diagnostics on TensorFlow")
@pytest.mark.parametrize("eager", [False, True], ids=["graph", "eager"])
def test_looking_changes_no_sum_of_gradients_end_to_end(eager):
    """Neither metrics of heads nor diagnostics change their order, so the last bit."""
    x, y = models.inputs("dense", 24), models.targets("dense", 24)
    results = []
    for looked_by in ("nobody", "metrics", "diagnostics"):
        model = penalized()
        if looked_by != "nobody":
            asked = ["accuracy"] if looked_by == "metrics" else None
            heads = {c: e2e.objectives.Prediction(metrics=asked) for c in models.CUTS}
            model = e2e.modularize(model, heads)
        callbacks = [cases.Diagnose()] if looked_by == "diagnostics" else []
        model.compile(
            keras.optimizers.SGD(0.05), **models.losses("dense"), run_eagerly=eager
        )
        logs = cases.fit(model, x, y, callbacks=callbacks).history
        plain = model if looked_by == "nobody" else e2e.strip(model)
        results.append((logs["loss"], cases.weights(plain)))
    for loss, weights in results[1:]:
        assert loss == results[0][0]
        assert models.same(weights, results[0][1])


def kinds_of_ops(model, x, y):
    """How many operations of each kind a compiled step of the model has."""
    import tensorflow as tf

    step = tf.function(lambda x, y: model.train_step((x, y)), autograph=False)
    graph = step.get_concrete_function(x, y).graph.as_graph_def()
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    return collections.Counter(node.op for node in nodes)


@pytest.mark.slow
@pytest.mark.skipif(not on_tensorflow, reason="a graph of TensorFlow")
@pytest.mark.parametrize("kind", ["rich", "conv", "two_outputs"])
def test_an_end_to_end_step_has_the_operations_of_a_stock_step(kind):
    """What the benchmark of overhead can only measure: nothing is computed besides.

    Without averages (`use_ema`): Keras makes those of the idle heads too.
    """
    x, y = models.inputs(kind, 8), models.targets(kind, 8)
    x, y = keras.tree.map_structure(keras.ops.convert_to_tensor, (x, y))
    counts = []
    for modular in (False, True):
        base = models.build(kind)
        model = e2e.modularize(base, models.CUTS) if modular else base
        optimizer = keras.optimizers.AdamW(weight_decay=0.01, clipnorm=0.5)
        model.compile(optimizer, **models.losses(kind))
        cases.fit(model, x, y)
        counts.append(kinds_of_ops(model, x, y))
    assert counts[0].total() > 100
    assert counts[0] == counts[1]
    model.training_mode = "local"
    assert kinds_of_ops(model, x, y) != counts[0], "else the count would show nothing"


@pytest.mark.slow
def test_end_to_end_train_on_batch_is_stock():
    x, y = models.inputs("rich", 8), models.targets("rich", 8)
    results = []
    for modular in (False, True):
        base = models.build("rich")
        model = e2e.modularize(base, models.CUTS) if modular else base
        model.compile(adamw()(), **models.losses("rich"), metrics=["accuracy"])
        logs = [model.train_on_batch(x, y, return_dict=True) for _ in range(3)]
        results.append((logs, cases.weights(base)))
    assert results[0][0] == results[1][0]
    assert models.same(results[0][1], results[1][1])

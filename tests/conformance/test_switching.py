"""Promise 3: a switch costs one trace per mode at most; looking changes nothing."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

import keras_e2e as e2e
from keras_e2e.callbacks import TrainingModeScheduler
from keras_e2e.diagnostics import Quantity

from . import cases, models

MODES = [
    e2e.TrainingMode("end_to_end"),
    e2e.TrainingMode("local"),
    e2e.TrainingMode("deep_supervision", weights=0.3),
    e2e.TrainingMode("sequential", module="second"),
    e2e.TrainingMode("mixed", stop=["first"]),
]
# How many quantities a step measures.
LEAN, INSTRUMENTED = 0, len(cases.quantities())


def rich(optimizer=None, **kwargs):
    """A model with a regularizer, BatchNorm and Dropout in every module."""
    model = e2e.modularize(models.build("rich"), models.CUTS)
    optimizer = optimizer or keras.optimizers.SGD(0.05, momentum=0.9)
    model.compile(optimizer, **models.losses("rich"), **kwargs)
    return model


def data(n=16):
    return models.inputs("rich", n), models.targets("rich", n)


class Switch(keras.callbacks.Callback):
    """Goes through modes, one for each step, with and without diagnostics."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def on_train_batch_begin(self, batch, logs=None):
        mode, instrumented = self.steps[batch % len(self.steps)]
        self.model.training_mode = mode
        if instrumented:
            self.model.request_diagnostics()


class Seen(keras.callbacks.Callback):
    """Notes the mode of each step."""

    def on_train_begin(self, logs=None):
        self.modes = []

    def on_train_batch_begin(self, batch, logs=None):
        self.modes.append(str(self.model.training_mode))


@pytest.mark.slow
def test_a_mode_is_traced_once_however_often_it_comes_back():
    assert_traced_once([(mode, kind) for mode in MODES for kind in (LEAN, INSTRUMENTED)])


def assert_traced_once(steps, quantities=cases.quantities, **kwargs):
    model, measured = rich(**kwargs), quantities()
    model.instrument(measured)
    expected = {(str(mode), len(measured) if kind else LEAN): 1 for mode, kind in steps}
    steps = [*steps, *steps[::-1]]
    x, y = data(8 * len(steps))
    cases.fit(model, x, y, callbacks=[Switch(steps)])
    assert model.trace_counts == expected
    # Nor does a later fit or a recompiled metric's reset trace anything again.
    cases.fit(model, x, y, epochs=2, callbacks=[Switch(steps)])
    assert model.trace_counts == expected


def test_an_unused_mode_is_never_traced():
    model = rich()
    model.training_mode = "local"
    model.training_mode = "end_to_end"
    cases.fit(model, *data())
    assert model.trace_counts == {("end_to_end", LEAN): 1}


def train_by_hand(model, x, y, modes):
    """One step of 8 examples in each of these modes."""
    for step, mode in enumerate(modes):
        model.training_mode = mode
        part = slice(8 * step, 8 * step + 8)
        cases.fit(model, x[part], y[part])


def plain(optimizer=None):
    """A model without randomness."""
    model = e2e.modularize(models.build("dense"), models.CUTS)
    optimizer = optimizer or keras.optimizers.Adam(0.01)
    model.compile(optimizer, **models.losses("dense"))
    return model


@pytest.mark.slow
def test_a_schedule_in_epochs_is_switching_by_hand():
    x, y = models.inputs("dense", 8), models.targets("dense", 8)
    schedule = {1: "local", 2: "sequential:second", 4: "end_to_end"}
    by_epoch = ["end_to_end", "local", *["sequential:second"] * 2, "end_to_end"]
    model, seen = plain(), Seen()
    cases.fit(model, x, y, epochs=5, callbacks=[TrainingModeScheduler(schedule), seen])
    assert seen.modes == [str(model.check_training_mode(m)) for m in by_epoch]
    other = plain()
    for mode in by_epoch:
        other.training_mode = mode
        cases.fit(other, x, y)
    assert models.same(cases.weights(model), cases.weights(other))
    assert set(model.trace_counts.values()) == {1}


@pytest.mark.slow
def test_a_schedule_in_steps_is_switching_by_hand():
    x, y = models.inputs("dense", 40), models.targets("dense", 40)
    schedule = {0: "local", 2: "deep_supervision", 3: "local"}
    by_step = ["local", "local", "deep_supervision", "local", "local"]
    model, seen = plain(), Seen()
    cases.fit(model, x, y, callbacks=[TrainingModeScheduler(schedule, unit="step"), seen])
    assert seen.modes == by_step
    other = plain()
    train_by_hand(other, x, y, by_step)
    assert models.same(cases.weights(model), cases.weights(other))
    # Steps count from the optimizer's first: a second fit goes on where this one ended.
    cases.fit(
        model,
        x,
        y,
        callbacks=[TrainingModeScheduler({5: "end_to_end", 7: "local"}, "step"), seen],
    )
    assert seen.modes == ["end_to_end", "end_to_end", "local", "local", "local"]
    assert set(model.trace_counts.values()) == {1}


def test_a_schedule_in_steps_switches_between_executions_of_several_steps():
    x, y = models.inputs("dense", 48), models.targets("dense", 48)
    model = e2e.modularize(models.build("dense"), models.CUTS)
    model.compile("sgd", **models.losses("dense"), steps_per_execution=2)
    schedule = TrainingModeScheduler({0: "local", 3: "end_to_end"}, unit="step")
    seen = Seen()
    cases.fit(model, x, y, callbacks=[schedule, seen])
    assert seen.modes == ["local", "local", "end_to_end"]
    # The loop over the steps is one trace of its own.
    assert set(model.trace_counts) == {("local", LEAN), ("end_to_end", LEAN)}


def test_a_schedule_resumes_in_the_middle():
    x, y = models.inputs("dense", 8), models.targets("dense", 8)
    schedule = {0: "local", 3: "end_to_end"}
    whole, parts, seen = plain(), plain(), Seen()
    cases.fit(whole, x, y, epochs=5, callbacks=[TrainingModeScheduler(schedule)])
    for first, last in ((0, 2), (2, 4), (4, 5)):
        parts.training_mode = "deep_supervision"  # the schedule says what holds
        cases.fit(
            parts,
            x,
            y,
            initial_epoch=first,
            epochs=last,
            callbacks=[TrainingModeScheduler(schedule), seen],
        )
    assert models.same(cases.weights(whole), cases.weights(parts))


def adamw(**kwargs):
    return keras.optimizers.AdamW(1e-2, weight_decay=0.01, clipnorm=0.5, **kwargs)


def trained(mode, diagnosed, optimizer, quantities=cases.everything, **kwargs):
    """Weights and logs after a fit with everything that could tell a difference."""
    model = rich(optimizer(), metrics=["accuracy"], **kwargs)
    model.training_mode = mode
    # In batches of 8 the last one is partial, which XLA would compile once more.
    n = 24 if kwargs.get("jit_compile") else 21
    x, y = data(n)
    weight = np.random.RandomState(3).rand(n).astype("float32")
    keras.utils.set_random_seed(2)
    watch = cases.Diagnose(lambda step: step % 2 == 0, quantities)
    callbacks = [watch] if diagnosed else []
    validation = (x[:8], y[:8])
    history = cases.fit(
        model,
        x,
        y,
        sample_weight=weight,
        epochs=2,
        validation_data=validation,
        callbacks=callbacks,
    ).history
    assert any(kind for _, kind in model.trace_counts) == diagnosed
    return history, cases.weights(model)


def assert_looking_changes_nothing(mode, logs_to=0.0, **kwargs):
    (logs, weights), (seen_logs, seen_weights) = (
        trained(mode, diagnosed, **kwargs) for diagnosed in (False, True)
    )
    assert models.same(weights, seen_weights)
    assert set(seen_logs) == set(logs)
    for name, values in logs.items():
        np.testing.assert_allclose(seen_logs[name], values, rtol=logs_to, err_msg=name)


each_mode = pytest.mark.parametrize("mode", MODES, ids=str)


@pytest.mark.slow
@each_mode
def test_looking_changes_nothing(mode):
    averaged = {} if mode.name == "sequential" else {"use_ema": True, "ema_momentum": 0.9}
    assert_looking_changes_nothing(
        mode, optimizer=lambda: adamw(**averaged), steps_per_execution=2
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.1, global_clipnorm=0.3),
        lambda: adamw(
            gradient_accumulation_steps=2, ema_overwrite_frequency=3, use_ema=True
        ),
    ],
    ids=["clipped", "accumulated"],
)
def test_looking_changes_nothing_with_another_optimizer(optimizer):
    assert_looking_changes_nothing("local", optimizer=optimizer)


@each_mode
@pytest.mark.parametrize("eager", [False, True], ids=["graph", "eager"])
def test_looking_changes_nothing_where_branches_meet(mode, eager):
    """Sums of many gradients keep their order, which decides the last bit."""
    results = []
    for callbacks in ([], [cases.Diagnose()]):
        model = e2e.modularize(models.build("residual"), models.CUTS, training_mode=mode)
        optimizer = keras.optimizers.SGD(0.05)
        model.compile(optimizer, **models.losses("residual"), run_eagerly=eager)
        x, y = models.inputs("residual", 64), models.targets("residual", 64)
        history = cases.fit(model, x, y, callbacks=callbacks).history
        results.append((history, cases.weights(model)))
    np.testing.assert_equal(*(history for history, _ in results))
    assert models.same(results[0][1], results[1][1])


@pytest.mark.sampled(4)
@pytest.mark.slow
@cases.each_distinct
def test_looking_changes_nothing_whatever_the_objective(case):
    model = case.compiled(optimizer=keras.optimizers.Adam(0.01))
    start = cases.Start(model)
    results = []
    for callbacks in ([], [cases.Diagnose()]):
        start.restore()
        history = cases.fit(model, *case.data(), callbacks=callbacks).history
        results.append((history, cases.weights(model)))
    assert {kind for _, kind in model.trace_counts} == {LEAN, INSTRUMENTED}
    assert results[0][0] == results[1][0]
    assert models.same(results[0][1], results[1][1])


@functools.cache
def watched_alone(quantity):
    """Weights after a fit in which one quantity is computed, or none."""
    model = plain()
    make = cases.QUANTITIES.get(quantity)
    model.training_mode = "local"
    callbacks = [cases.Diagnose(quantities=lambda: [make()])] if make else []
    cases.fit(
        model, models.inputs("dense", 16), models.targets("dense", 16), callbacks=callbacks
    )
    return cases.weights(model)


@cases.each_quantity
def test_looking_changes_nothing_whatever_the_quantity(quantity):
    assert models.same(watched_alone(quantity), watched_alone(None))


class Count(Quantity):
    """How many steps were instrumented since the mode changed."""

    name, formula = "count", "steps"

    def init_state(self, shapes):
        return [()]

    def compute(self, module, state):
        return state[0] + 1.0, [state[0] + 1.0]


@pytest.mark.parametrize("due, expected", [((), None), ((0,), 1), ((1, 2, 4), 3)])
def test_only_the_steps_asked_for_are_instrumented(due, expected):
    model = plain()
    diagnose = cases.Diagnose(lambda step: step in due, lambda: [Count()])
    x, y = models.inputs("dense", 48), models.targets("dense", 48)
    cases.fit(model, x, y, callbacks=[diagnose])
    traces = {("end_to_end", LEAN): 1}
    if due:
        traces[("end_to_end", 1)] = 1
        assert set(diagnose.recorder.read()["count"].values()) == {expected}
    assert model.trace_counts == traces


def test_a_switch_of_modes_starts_the_averages_anew():
    model, count = plain(), Count()
    diagnose = cases.Diagnose(quantities=lambda: [count])
    x, y = models.inputs("dense", 24), models.targets("dense", 24)
    for mode, expected in (("local", 3), ("local", 6), ("end_to_end", 3)):
        model.training_mode = mode
        cases.fit(model, x, y, callbacks=[diagnose])
        assert set(diagnose.recorder.read()["count"].values()) == {expected}


def test_lean_steps_run_nothing_of_the_diagnostics():
    """The lean function does not even hold the operations."""

    class Loud(Quantity):
        name, formula = "loud", "1"

        def compute(self, module, state):
            asked.append(module.name)
            return ops.ones(()), state

    asked: list[str] = []
    model = plain()
    model.instrument([Loud()])
    x, y = models.inputs("dense", 8), models.targets("dense", 8)
    cases.fit(model, x, y)
    assert not asked
    model.request_diagnostics()
    cases.fit(model, x, y)
    assert asked
    before = len(asked)
    cases.fit(model, x, y, epochs=2)
    assert len(asked) == before

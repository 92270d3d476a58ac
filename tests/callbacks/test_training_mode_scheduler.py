"""Which mode is in force when, as `fit` runs."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_e2e as e2e
from keras_e2e import TrainingMode
from keras_e2e.callbacks import TrainingModeScheduler

X = np.random.default_rng(0).normal(size=(8, 5)).astype("float32")
Y = np.zeros((8, 2), "float32")


class Watch(keras.callbacks.Callback):
    """Notes the mode in each epoch and at each batch, and the optimizer's step."""

    def __init__(self):
        super().__init__()
        self.epochs, self.steps = {}, {}

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs[epoch] = str(self.model.training_mode)

    def on_train_batch_begin(self, batch, logs=None):
        at = int(self.model.optimizer.iterations)
        self.steps[at] = str(self.model.training_mode)


def modular(mode="end_to_end", **compiled):
    inputs = keras.Input((5,))
    x = layers.Dense(4, name="a")(inputs)
    x = layers.Dense(4, name="b")(x)
    base = keras.Model(inputs, layers.Dense(2, name="out")(x), name="net")
    model = e2e.modularize(base, ["a", "b"], training_mode=mode)
    model.compile("sgd", "mse", **{"run_eagerly": True, **compiled})
    return model


def fit(model, *schedules, **options):
    """Trains four steps an epoch; returns what was in force."""
    watch = Watch()
    model.fit(X, Y, batch_size=2, verbose=0, callbacks=[*schedules, watch], **options)
    return watch


def test_mode_at_is_the_latest_entry_so_far():
    schedule = TrainingModeScheduler({2: "local", 5: "end_to_end"})
    found = [schedule.mode_at(epoch) for epoch in range(7)]
    local, whole = TrainingMode("local"), TrainingMode("end_to_end")
    assert found == [None, None, local, local, local, whole, whole]


def test_entries_may_be_any_spelling_of_a_mode():
    mode = TrainingMode("mixed", stop=["a"])
    schedule = TrainingModeScheduler({0: "sequential:a", 1: mode, 2: mode.get_config()})
    assert schedule.mode_at(0) == TrainingMode("sequential", module="a")
    assert schedule.mode_at(1) is mode
    assert schedule.mode_at(2) == mode


def test_the_mode_switches_at_its_epoch():
    model = modular()
    schedule = TrainingModeScheduler({0: "local", 2: "sequential:b", 3: "end_to_end"})
    watch = fit(model, schedule, epochs=5)
    assert list(watch.epochs.values()) == [
        *["local", "local", "sequential (b)", "end_to_end", "end_to_end"]
    ]
    assert model.training_mode == TrainingMode("end_to_end")


def test_a_function_is_asked_once_for_each_epoch():
    asked = []

    def schedule(epoch):
        asked.append(epoch)
        return [None, "local", None, TrainingMode("sequential", module="b")][epoch]

    watch = fit(modular("deep_supervision"), TrainingModeScheduler(schedule), epochs=4)
    assert asked == [0, 1, 2, 3]
    modes = ["deep_supervision", "local", "local", "sequential (b)"]
    assert list(watch.epochs.values()) == modes


def test_a_function_may_count_steps():
    schedule = TrainingModeScheduler(lambda n: "local" if n % 2 else "end_to_end", "step")
    watch = fit(modular(), schedule, epochs=2)
    assert watch.steps == {n: "local" if n % 2 else "end_to_end" for n in range(8)}


@pytest.mark.parametrize("answer", ["lokal", 3, TrainingMode("sequential", module="c")])
def test_an_answer_that_does_not_fit_is_refused(answer):
    model = modular()
    with pytest.raises(ValueError, match=r"lokal|3|'c'"):
        fit(model, TrainingModeScheduler(lambda epoch: answer if epoch else "local"))
        fit(model, TrainingModeScheduler(lambda epoch: answer))
    assert model.training_mode == TrainingMode("local")


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Keras, of its length
@pytest.mark.parametrize("steps", [4, None])
def test_a_backup_has_the_epoch_of_its_weights(tmp_path, steps):
    """A process may be killed between the two files that Keras writes."""
    backup = tmp_path / "backup"

    def train(*more, epochs):
        model = modular()
        data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(2)
        if steps is None:
            data = data.filter(lambda x, y: True)  # of a length that is not known
        schedule = TrainingModeScheduler({0: "local", 2: "end_to_end"})
        kept = keras.callbacks.BackupAndRestore(backup, delete_checkpoint=False)
        history = model.fit(
            data, epochs=epochs, verbose=0, callbacks=[schedule, kept, *more]
        )
        return model, history.epoch

    train(epochs=2)
    if steps:  # as if killed before the second file was written
        (backup / "training_metadata.json").write_text('{"epoch": 1, "batch": 0}')
    model, epochs = train(epochs=4)
    assert epochs == [2, 3] and int(model.optimizer.iterations) == 16


def test_before_the_first_entry_the_mode_stays_what_it_is():
    watch = fit(modular("deep_supervision"), TrainingModeScheduler({2: "local"}), epochs=3)
    assert list(watch.epochs.values()) == ["deep_supervision"] * 2 + ["local"]


@pytest.mark.parametrize("unit", ["epoch", "step"])
def test_an_entry_in_the_past_is_in_force_when_training_resumes(unit):
    model = modular()
    factor = 1 if unit == "epoch" else 4
    schedule = {0: "local", 2: "sequential:b", 4 * factor: "end_to_end"}
    fit(model, epochs=3)  # as if the run had been interrupted
    model.training_mode = "deep_supervision"
    watch = fit(model, TrainingModeScheduler(schedule, unit), initial_epoch=3, epochs=5)
    assert set(watch.steps) == set(range(12, 20))
    modes = [watch.steps[step] for step in sorted(watch.steps)]
    assert modes == ["sequential (b)"] * 4 + ["end_to_end"] * 4


def test_the_mode_switches_at_its_step():
    schedule = TrainingModeScheduler(
        {0: "local", 1: "sequential:a", 6: "end_to_end"}, "step"
    )
    watch = fit(modular(), schedule, epochs=2)
    assert watch.steps == {
        0: "local",
        **dict.fromkeys(range(1, 6), "sequential (a)"),
        6: "end_to_end",
        7: "end_to_end",
    }


def test_steps_are_those_of_the_optimizer_over_several_fits():
    model = modular()
    schedule = TrainingModeScheduler({6: "local"}, "step")
    first, second = fit(model, schedule), fit(model, schedule)
    assert set(first.steps.values()) == {"end_to_end"}
    assert second.steps == {
        4: "end_to_end",
        5: "end_to_end",
        6: "local",
        7: "local",
    }


def test_a_mode_that_stays_is_set_once(monkeypatch):
    """To set it is no work for each batch, and on JAX to ask for the model is much."""
    asked = []
    check = e2e.ModularModel.check_training_mode

    def counted(model, mode):
        asked.append(str(mode))
        return check(model, mode)

    model = modular()
    monkeypatch.setattr(e2e.ModularModel, "check_training_mode", counted)
    fit(model, TrainingModeScheduler(lambda step: "local", unit="step"), epochs=2)
    assert asked == ["local"]


def test_with_several_steps_per_execution_a_switch_waits_for_the_next_execution():
    model = modular(run_eagerly=False, steps_per_execution=2)
    watch = fit(model, TrainingModeScheduler({1: "local"}, "step"))
    assert watch.steps == {0: "end_to_end", 2: "local"}


def test_the_mode_is_the_one_that_trains():
    """Not only the attribute: in each epoch the modules move that are to move."""
    model = modular(run_eagerly=False)
    moved = {}

    class Moves(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.before = self.kernels()

        def on_epoch_end(self, epoch, logs=None):
            after = self.kernels()
            moved[epoch] = [n for n in after if (after[n] != self.before[n]).any()]

        def kernels(self):
            names = ("a", "b", "out")
            return {n: self.model.get_layer(n).kernel.numpy() for n in names}

    modes = ["sequential:a", "sequential:b", "sequential:out", "end_to_end"]
    schedule = TrainingModeScheduler(dict(enumerate(modes)))
    # More than one step, as linear heads begin at zero, and something to learn.
    model.fit(X, X[:, :2], 2, epochs=4, verbose=0, callbacks=[schedule, Moves()])
    assert moved == {0: ["a"], 1: ["b"], 2: ["out"], 3: ["a", "b", "out"]}


def test_each_mode_is_traced_once_however_often_it_comes_back():
    model = modular(run_eagerly=False)
    schedule = TrainingModeScheduler({n: ("local", "end_to_end")[n % 2] for n in range(6)})
    fit(model, schedule, epochs=6)
    assert model.trace_counts == {("local", 0): 1, ("end_to_end", 0): 1}


def test_a_schedule_serves_several_models():
    schedule = TrainingModeScheduler({0: "local"})
    for _ in range(2):
        assert set(fit(modular(), schedule).epochs.values()) == {"local"}


def test_a_schedule_says_what_it_holds():
    schedule = TrainingModeScheduler({0: "local", 3: "sequential:a"}, unit="step")
    assert schedule.unit == "step"
    assert schedule.schedule == {
        0: TrainingMode("local"),
        3: TrainingMode("sequential:a"),
    }


def test_whole_numbers_of_numpy_are_epochs():
    epochs = np.arange(2)
    schedule = TrainingModeScheduler({epoch: "local" for epoch in epochs})
    assert schedule.mode_at(1) == TrainingMode("local")


def test_to_validate_and_predict_changes_no_mode():
    model = modular()
    schedule = TrainingModeScheduler({0: "local", 1: "end_to_end"})
    watch = fit(model, schedule, epochs=2, validation_data=(X, Y))
    assert list(watch.epochs.values()) == ["local", "end_to_end"]
    model.training_mode = "local"
    model.predict(X, verbose=0)
    model.evaluate(X, Y, verbose=0)
    assert model.training_mode == TrainingMode("local")


def test_a_wrapper_that_has_seen_no_data_takes_a_schedule():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.a, self.out = layers.Dense(4, name="a"), layers.Dense(2, name="out")

        def call(self, x):
            return self.out(self.a(x))

    model = e2e.modularize(Net(), ["a"])
    model.compile("sgd", "mse", run_eagerly=True)
    watch = fit(model, TrainingModeScheduler({0: "local", 1: "sequential:a"}), epochs=2)
    assert list(watch.epochs.values()) == ["local", "sequential (a)"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (({0: "local"}, "batch"), ValueError, "unit='batch': expected one of"),
        (({0: "local"}, None), ValueError, "unit=None"),
        ((None,), TypeError, "schedule=None: expected a dict from epoch"),
        (
            (["local"], "step"),
            TypeError,
            r"schedule=\['local'\]: expected a dict from step",
        ),
        (({},), ValueError, "at least one entry"),
        (({"0": "local"},), ValueError, "'0' is not a valid epoch; expected an integer"),
        (({3: "local", 1: "local"},), ValueError, "epoch 1 comes after 3"),
        (({0: None},), ValueError, "Expected a training mode"),
    ],
)
def test_arguments_that_are_invalid_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        TrainingModeScheduler(*arguments)


class Modes(keras.callbacks.Callback):
    """Notes the mode of each batch, a string for each epoch."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append("")

    def on_train_batch_begin(self, batch, logs=None):
        self.epochs[-1] += str(self.model.training_mode)[0]


def test_with_gradient_accumulation_steps_are_iterations():
    model = modular(run_eagerly=False)
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=4), "mse")
    x, y, modes = np.tile(X, (5, 1)), np.tile(Y, (5, 1)), Modes()
    schedule = TrainingModeScheduler({0: "local", 8: "end_to_end"}, "step")
    model.fit(x, y, 4, epochs=5, verbose=0, callbacks=[schedule, modes])
    assert modes.epochs == ["l" * 10] * 3 + ["ll" + "e" * 8] + ["e" * 10]


def test_batches_that_the_optimizer_skips_are_no_steps():
    keras.config.set_dtype_policy("mixed_float16")
    model = modular(run_eagerly=False)
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), 2.0**30)
    model.compile(scaled, "mse")
    x, y = np.tile(X, (5, 1)), np.tile(Y + 1, (5, 1))
    modes, seen = Modes(), []

    class Iterations(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            done = int(self.model.optimizer.iterations)
            seen.append((done, str(self.model.training_mode)[0]))

    schedule = TrainingModeScheduler({0: "local", 9: "end_to_end"}, "step")
    model.fit(x, y, 2, epochs=2, verbose=0, callbacks=[schedule, modes, Iterations()])
    assert seen[19][0] < 19, "some were skipped"
    assert all(mode == ("l" if done < 9 else "e") for done, mode in seen)

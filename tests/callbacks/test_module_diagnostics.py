"""ModuleDiagnostics: what is measured when, by which callback, and what is refused."""

import keras
import numpy as np
import pytest

import keras_e2e as e2e
from keras_e2e.callbacks import AutoMode, ModuleDiagnostics, ModuleTensorBoard
from keras_e2e.diagnostics import GradientSNR, GradRMS, ModuleLoss, SignalGain, UpdateRatio

X = np.random.default_rng(0).normal(size=(24, 4)).astype("float32")
Y = X[:, :3]


def model_of_three(**options):
    keras.utils.set_random_seed(1)
    base = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5, activation="tanh", name="first"),
            keras.layers.Dense(5, activation="tanh", name="second"),
            keras.layers.Dense(3, name="out"),
        ]
    )
    model = e2e.modularize(base, ["first", "second"])
    model.compile("adam", "mse", **options)
    return model


def fit(*callbacks, model=None, steps=12, **options):
    """Trains for one epoch of `steps` steps."""
    model = model or model_of_three()
    x, y = X[: 2 * steps], Y[: 2 * steps]
    model.fit(x, y, batch_size=2, verbose=0, callbacks=[*callbacks], **options)
    return model


def measured(callback, quantity, module="out"):
    """The steps at which a quantity was measured."""
    values = callback.history[quantity][module]
    assert len(values) == len(callback.steps)
    return [s for s, v in zip(callback.steps, values, strict=True) if not np.isnan(v)]


def test_a_quantity_with_a_schedule_is_measured_at_its_own_steps():
    watch = ModuleDiagnostics(3, [ModuleLoss(), GradRMS(schedule=4)])
    fit(watch)
    assert watch.steps == [1, 4, 5, 7, 9, 10]
    assert measured(watch, "grad_rms") == [1, 5, 9]
    assert measured(watch, "loss") == watch.steps, "the others are measured then, too"


def test_each_schedule_is_kept():
    given = [ModuleLoss(), GradRMS(schedule=2), UpdateRatio(schedule=6)]
    watch = ModuleDiagnostics(100, given)
    fit(watch, epochs=2)
    assert measured(watch, "loss") == measured(watch, "grad_rms") == [*range(1, 25, 2)]
    assert measured(watch, "update_ratio") == [1, 7, 13, 19]


def test_one_argument_slows_all_quantities_with_a_schedule():
    given = [ModuleLoss(), GradRMS(schedule=2), UpdateRatio(schedule=3)]
    watch = ModuleDiagnostics(4, given, expensive_update_freq=6)
    fit(watch)
    assert watch.steps == [1, 5, 7, 9]
    assert measured(watch, "grad_rms") == measured(watch, "update_ratio") == [1, 7]
    assert [quantity.schedule for quantity in given] == [None, 2, 3]


def test_what_a_subclass_is_handed():
    taken = {}

    class Take(ModuleDiagnostics):
        def on_measurement(self, step, measurements):
            taken[step] = measurements

    watch = Take(6, [SignalGain(), GradRMS(schedule=4)])
    fit(watch)
    assert sorted(taken) == watch.steps == [1, 5, 7, 9]
    assert set(taken[5]["grad_rms"]) == {"first", "second", "out"}
    assert taken[7]["grad_rms"] == {}, "not measured in this step"
    assert set(taken[7]["signal_gain"]) == {"second", "out"}, "none for the first module"


def test_modules_that_are_frozen_on_purpose_are_not_judged():
    model = model_of_three()
    model.training_mode = "sequential:second"
    watch = ModuleDiagnostics(1)
    fit(watch, model=model, steps=2)
    falling = {name: list(range(60, 30, -1)) for name in ("first", "second", "out")}
    watch.history = {"loss": falling, "grad_rms": falling}
    watch.modes, watch.steps = watch.modes[:1] * 30, list(range(1, 31))
    states = {name: verdict.state for name, verdict in watch.verdicts().items()}
    assert states == {"first": "unclear", "second": "healthy", "out": "unclear"}


def test_there_are_no_verdicts_before_the_first_measurement():
    assert ModuleDiagnostics().verdicts() == {}


def test_integers_of_numpy_are_numbers_of_steps():
    watch = ModuleDiagnostics(np.int64(5), [GradRMS(schedule=2)], np.int32(6))
    fit(watch)
    assert watch.steps == [1, 7]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"update_freq": 0},
            ValueError,
            "update_freq=0: expected an integer of at least 1",
        ),
        ({"update_freq": "epoch"}, ValueError, "update_freq='epoch': expected an integer"),
        ({"update_freq": None}, ValueError, "update_freq=None"),
        ({"expensive_update_freq": 2.5}, ValueError, r"expensive_update_freq=2\.5"),
        ({"quantities": None}, TypeError, "quantities=None: expected one of"),
        ({"quantities": 3}, TypeError, "quantities=3: expected one of"),
        ({"quantities": GradRMS()}, TypeError, "quantities=.*expected one of"),
        ({"quantities": GradRMS}, TypeError, "quantities=.*expected one of"),
        ({"quantities": [GradRMS]}, TypeError, r"quantities holds .*GradRMS\(\)"),
        ({"quantities": ["grad_rms"]}, TypeError, "quantities holds 'grad_rms'"),
        ({"quantities": ["default", GradRMS()]}, TypeError, r"\*.*default_quantities\(\)"),
        ({"quantities": "ful"}, ValueError, "quantities='ful'.*Did you mean 'full'"),
        ({"quantities": []}, ValueError, "one or more quantities"),
        ({"quantities": [GradRMS(), GradRMS()]}, ValueError, "different names"),
    ],
)
def test_arguments_that_are_invalid_are_named(arguments, error, message):
    with pytest.raises(error, match=f"ModuleDiagnostics: .*{message}"):
        ModuleDiagnostics(**arguments)


def test_callbacks_with_different_quantities_share_the_steps():
    losses = ModuleDiagnostics(2, [ModuleLoss()])
    gradients = ModuleDiagnostics(3, [GradRMS(), ModuleLoss()])
    fit(losses, gradients)
    assert losses.steps == [1, 3, 5, 7, 9, 11]
    assert gradients.steps == [1, 4, 7, 10]
    assert list(losses.history) == ["loss"]
    assert list(gradients.history) == ["grad_rms", "loss"]
    for callback in (losses, gradients):
        for quantity in callback.history:
            assert measured(callback, quantity) == callback.steps
    at = {s: i for i, s in enumerate(gradients.steps)}
    for i, step in enumerate(losses.steps):
        if step in at:
            found = gradients.history["loss"]["out"][at[step]]
            assert found == losses.history["loss"]["out"][i]


def test_what_one_callback_measures_is_not_in_the_history_of_another_that_did_not():
    """Both know the quantity; the second has it on a schedule."""
    often = ModuleDiagnostics(1, [GradRMS()])
    seldom = ModuleDiagnostics(2, [ModuleLoss(), GradRMS(schedule=4)])
    fit(often, seldom, steps=8)
    assert measured(often, "grad_rms") == [*range(1, 9)]
    assert measured(seldom, "grad_rms") == [1, 5]
    assert measured(seldom, "loss") == [1, 3, 5, 7]


def test_the_callbacks_of_the_readme_stand_side_by_side(tmp_path):
    auto = AutoMode()
    board = ModuleTensorBoard(tmp_path, update_freq=10, quantities="full")
    model = fit(auto, board)
    assert auto.steps == board.steps == [1, 11]
    assert set(auto.history) < set(board.history)
    assert measured(board, "reliability") == [1]
    fit(auto, board, model=model)  # and again
    assert auto.steps == board.steps == [21]


def test_two_different_quantities_of_one_name_are_refused():
    callbacks = [ModuleDiagnostics(1, [GradientSNR(decay)]) for decay in (0.8, 0.9)]
    model = model_of_three()
    with pytest.raises(ValueError, match=r"(?s)gradient_snr.*0\.8.*0\.9"):
        fit(*callbacks, model=model)
    assert int(model.optimizer.iterations) == 0
    fit(callbacks[1], model=model)  # in a fit of its own each is welcome
    assert len(callbacks[1].steps) == 12


class Order(keras.callbacks.Callback):
    """Notes which batch of which epoch has ended."""

    def __init__(self, events):
        super().__init__()
        self.events = events

    def on_train_batch_end(self, batch, logs=None):
        self.events.append(f"batch {batch}")

    def on_epoch_end(self, epoch, logs=None):
        self.events.append("epoch")


def test_numbers_are_read_a_batch_later_and_before_the_epoch_ends():
    events = []

    class Take(ModuleDiagnostics):
        def on_measurement(self, step, measurements):
            assert step == self.steps[-1]
            events.append((step, str(self.modes[-1]), measurements["loss"]["out"]))

    watch = Take(3, [ModuleLoss()])
    modes = e2e.callbacks.TrainingModeScheduler({0: "local", 4: "end_to_end"}, "step")
    fit(modes, watch, Order(events), steps=4, epochs=2)
    losses = watch.history["loss"]["out"]
    assert events == [
        "batch 0",
        (1, "local", losses[0]),
        *["batch 1", "batch 2", "batch 3"],
        (4, "local", losses[1]),
        *["epoch", "batch 0", "batch 1", "batch 2"],
        (7, "end_to_end", losses[2]),
        *["batch 3", "epoch"],
    ]
    assert len(set(losses)) == 3


def test_later_steps_do_not_change_a_snapshot():
    """The numbers of a step are those that it wrote, whoever reads them when."""
    model, found = model_of_three(), []

    class Late(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            found.append(model._modular.recorder.snapshot())

    watch = ModuleDiagnostics(1, [ModuleLoss(), GradRMS()])
    fit(watch, Late(), model=model)
    read = [snapshot.read() for snapshot in found]
    for column, by_module in watch.history.items():
        for module, values in by_module.items():
            assert values == [each[column].get(module, np.nan) for each in read][
                : len(values)
            ] or all(np.isnan(values))
    assert len({each["loss"]["out"] for each in read}) == len(read)


def test_a_callback_that_reads_the_history_when_an_epoch_ends_finds_it_whole():
    lengths = []

    class Reader(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            lengths.append((len(watch.steps), len(watch.history["loss"]["out"])))

    watch = ModuleDiagnostics(1, [ModuleLoss()])
    fit(watch, Reader(), steps=3, epochs=2)
    assert lengths == [(3, 3), (6, 6)]


def test_a_subclass_that_does_not_pass_on_the_end_of_an_epoch_loses_nothing():
    class Own(ModuleDiagnostics):
        def on_epoch_end(self, epoch, logs=None):
            pass

    watch = Own(2, [ModuleLoss()])
    fit(watch, steps=3, epochs=3)
    assert watch.steps == [1, 3, 5, 7, 9]


def test_training_that_stops_in_an_epoch_leaves_no_measurement_behind():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 4

    watch = ModuleDiagnostics(2, [ModuleLoss()])
    fit(watch, Stop())
    assert watch.steps == [1, 3, 5]

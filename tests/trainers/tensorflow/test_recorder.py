"""Where instrumented steps write: apart from Keras, and read at once."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_e2e as e2e
from keras_e2e import diagnostics
from keras_e2e.diagnostics import GradientSNR, GradRMS, ModuleLoss, Quantity

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 5)).astype("float32")
Y = RNG.normal(size=(8, 2)).astype("float32")


def modular(**options):
    inputs = keras.Input((5,))
    x = layers.Dense(4, name="a")(inputs)
    x = layers.Dense(4, name="b")(x)
    base = keras.Model(inputs, layers.Dense(2, name="out")(x), name="net")
    model = e2e.modularize(base, ["a", "b"])
    model.compile("adam", "mse", metrics=["mae"], **options)
    return model


def step(model):
    model.request_diagnostics()
    return model.fit(X, Y, verbose=0)


def numbers(read):
    return {q: list(modules.values()) for q, modules in read.items()}


def test_the_numbers_come_by_quantity_and_module():
    model = modular()
    recorder = model.instrument([GradRMS(), ModuleLoss()])
    step(model)
    read = recorder.read()
    assert list(read) == ["grad_rms", "loss"]
    assert list(read["grad_rms"]) == ["a", "b", "out"]
    assert list(read["loss"]) == ["out"], "no local loss counts end to end"
    assert all(type(v) is float for v in read["grad_rms"].values())


def test_reading_is_one_transfer():
    model = modular()
    recorder = model.instrument(diagnostics.default_quantities())
    step(model)
    expected = recorder.read()

    class Counted:
        transfers = 0

        def numpy(self):
            Counted.transfers += 1
            return on_device.numpy()

    recorder._snapshot = None
    snapshot = recorder.snapshot()
    on_device, snapshot._on_device = snapshot._on_device, Counted()
    assert Counted.transfers == 0, "made without waiting"
    again = snapshot.read()
    recorder.read()
    assert Counted.transfers == 1
    for name, modules in expected.items():
        np.testing.assert_array_equal(list(again[name].values()), list(modules.values()))


def test_nothing_of_it_is_tracked_by_keras():
    model = modular()
    step_free = model.fit(X, Y, validation_data=(X, Y), verbose=0).history
    lists = ("weights", "variables", "metrics", "metrics_variables", "layers", "losses")
    before = {name: [id(x) for x in getattr(model, name)] for name in lists}
    optimizer = [id(v) for v in model.optimizer.variables]
    recorder = model.instrument(diagnostics.default_quantities())
    model.request_diagnostics()
    history = model.fit(X, Y, validation_data=(X, Y), verbose=0).history
    assert {name: [id(x) for x in getattr(model, name)] for name in lists} == before
    assert [id(v) for v in model.optimizer.variables] == optimizer
    assert list(history) == list(step_free)
    kept = keras.tree.flatten([recorder.values, recorder.kept])
    assert not {id(v) for v in kept} & {i for ids in before.values() for i in ids}


def test_nothing_of_it_is_saved(tmp_path):
    model = modular()
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "plain.keras")
    model.instrument(diagnostics.default_quantities())
    step(model)
    model.save(tmp_path / "instrumented.keras")
    sizes = [
        len(keras.models.load_model(tmp_path / name).variables)
        for name in ("plain.keras", "instrumented.keras")
    ]
    assert sizes[0] == sizes[1]
    again = keras.models.load_model(tmp_path / "instrumented.keras")
    with pytest.raises(RuntimeError, match="instrument"):
        again.request_diagnostics()


def test_a_step_records_only_when_it_is_due():
    model = modular()
    recorder = model.instrument([GradRMS()])
    model.fit(X, Y, verbose=0)
    assert not np.asarray(recorder.values).any()
    step(model)
    first = recorder.read()
    assert np.all(numbers(first)["grad_rms"])
    model.fit(X, Y, epochs=3, verbose=0)
    assert recorder.read() == first
    assert model.trace_counts[("end_to_end", 1)] == 1
    step(model)
    assert recorder.read() != first
    assert model.trace_counts[("end_to_end", 1)] == 1


def test_a_request_is_for_one_execution():
    model = modular()
    recorder = model.instrument([GradRMS()])
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 1:
                model.request_diagnostics()

        def on_train_batch_end(self, batch, logs=None):
            seen.append(recorder.read()["grad_rms"].get("a"))

    model.fit(X, Y, batch_size=2, shuffle=False, verbose=0, callbacks=[Watch()])
    assert seen[0] is None
    assert seen[1] > 0
    assert seen[1] == seen[2] == seen[3]


@pytest.mark.slow
def test_the_first_snr_is_nan_and_so_is_the_first_after_a_switch_of_modes():
    model = modular()
    recorder = model.instrument([GradientSNR()])

    def read():
        step(model)
        return numbers(recorder.read())["gradient_snr"]

    assert np.isnan(read()).all()
    assert np.isfinite(read()).all()
    model.training_mode = "end_to_end"  # no switch
    assert np.isfinite(read()).all()
    model.training_mode = "local"
    assert np.isnan(read()).all()
    assert np.isfinite(read()).all()
    model.training_mode = "end_to_end"
    assert np.isnan(read()).all()


@pytest.mark.slow
def test_a_module_has_its_numbers_again_when_its_mode_comes_back():
    """Which numbers a mode has does not depend on the modes that came in between."""
    model = modular()
    recorder = model.instrument([GradRMS(), ModuleLoss()])
    expected = {}
    modes = ["end_to_end", "local", "sequential:a", "sequential:out"]
    for mode in [*modes, *modes[::-1], *modes]:
        model.training_mode = mode
        step(model)
        read = recorder.read()
        names = {quantity: list(modules) for quantity, modules in read.items()}
        assert names == expected.setdefault(mode, names), mode
        assert all(np.isfinite(v).all() for v in numbers(read).values()), mode
    assert expected["local"] == {
        "grad_rms": ["a", "b", "out"],
        "loss": ["a", "b", "out"],
    }
    assert expected["sequential:a"] == {"grad_rms": ["a"], "loss": ["a"]}


def test_instrumenting_again_with_the_same_quantities_keeps_the_recorder():
    model = modular()
    quantities = [GradRMS()]
    recorder = model.instrument(quantities)
    step(model)
    assert model.instrument(quantities) is recorder
    assert np.all(numbers(recorder.read())["grad_rms"])


def test_equal_quantities_of_another_callback_cost_no_trace_and_start_anew():
    model = modular()
    first = model.instrument([GradientSNR(decay=0.8), GradRMS()])
    step(model)
    traces = model.trace_counts
    recorder = model.instrument([GradientSNR(decay=0.8), GradRMS()])
    assert recorder is first
    step(model)
    assert model.trace_counts == traces
    # One batch since the start has no variance.
    assert np.isnan(numbers(recorder.read())["gradient_snr"]).all()
    step(model)
    assert not np.isnan(numbers(recorder.read())["gradient_snr"]).any()
    assert model.instrument([GradientSNR(decay=0.9), GradRMS()]) is not recorder


def test_quantities_are_equal_if_they_compute_the_same():
    assert GradRMS() == GradRMS()
    assert GradRMS() != ModuleLoss()
    assert GradientSNR(0.8) != GradientSNR(0.9)
    assert len({GradRMS(), GradRMS(), ModuleLoss()}) == 2
    odd, other = GradRMS(), GradRMS()
    odd.array = other.array = np.zeros(2)
    assert odd == other  # one array
    other.array = np.zeros(2)
    assert odd != other  # no single answer: not the same
    assert odd == odd


def test_instrumenting_with_others_makes_steps_that_write_them():
    model = modular()
    model.instrument([GradRMS()])
    step(model)
    recorder = model.instrument([ModuleLoss(), GradRMS()])
    step(model)
    read = recorder.read()
    assert sorted(read) == ["grad_rms", "loss"]
    assert np.all(numbers(read)["grad_rms"])


@pytest.mark.slow
def test_diagnostics_leave_the_weights_as_they_are_without_them():
    weights = []
    for instrumented in (False, True):
        keras.utils.set_random_seed(5)
        model = modular()
        if instrumented:
            model.instrument(diagnostics.default_quantities())
        for _ in range(3):
            if instrumented:
                model.request_diagnostics()
            model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


# A quantity of one's own


class LargestGradient(Quantity):
    """The example of the contract."""

    name, formula = "largest_gradient", "max abs(g)"

    def compute(self, module, state):
        if not any(g is not None for g in module.gradients):
            return None, state
        sizes = [ops.max(ops.abs(g)) for g in module.gradients if g is not None]
        return ops.max(ops.stack(sizes)), state


class Count(Quantity):
    """Keeps a number from step to step."""

    name, formula = "count", "how many instrumented steps"

    def init_state(self, shapes):
        return [(), *shapes]

    def compute(self, module, state):
        count, *rest = state
        assert [tuple(t.shape) for t in rest] == [v.shape for v in module.variables]
        return count + 1, [count + 1, *rest]


def test_quantities_of_ones_own_are_recorded():
    model = modular()
    recorder = model.instrument([LargestGradient(), Count()])
    for number in (1, 2, 3):
        step(model)
        assert recorder.read()["count"] == dict.fromkeys(("a", "b", "out"), number)
    assert all(recorder.read()["largest_gradient"].values())
    model.training_mode = "local"
    step(model)
    assert recorder.read()["count"]["a"] == 1, "state is set back by a switch of modes"


def test_a_quantity_must_say_how_it_is_computed():
    class Empty(Quantity):
        name, formula = "empty", "-"

    model = modular(run_eagerly=True)
    model.instrument([Empty()])
    with pytest.raises(NotImplementedError, match="Empty must implement compute"):
        step(model)


def test_the_default_quantities_have_names_of_their_own():
    names = [quantity.name for quantity in diagnostics.default_quantities()]
    assert len(names) == len(set(names))
    assert set(names) == {
        "loss",
        "skill",
        "grad_rms",
        "update_ratio",
        "signal_gain",
        "gradient_snr",
        "descent",
        "signal_coherence",
        "dormant_fraction",
    }
    for quantity in diagnostics.default_quantities():
        assert "/" not in quantity.name
        assert quantity.interpretation
        assert quantity.formula


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a", "out"])
def test_readings_go_on_when_layers_are_frozen_and_thawed(name):
    model = modular()
    found = []
    for trainable in (False, True, False, True):
        model.get_layer(name).trainable = trainable
        model.compile("adam", "mse")
        watch = e2e.callbacks.ModuleDiagnostics(update_freq=1)  # equal to the one before
        model.fit(X, Y, batch_size=2, verbose=0, callbacks=[watch])
        found.append(watch.history["gradient_snr"])
    for frozen in found[::2]:
        assert np.isnan(frozen.pop(name)).all()
    for snr in found:
        assert all(np.isfinite(values[1:]).all() for values in snr.values())


@pytest.mark.slow
def test_a_module_part_of_which_is_frozen_is_read():
    inputs = keras.Input((5,))
    x = layers.Dense(4, name="first")(inputs)
    x = layers.Dense(4, name="a")(x)
    model = e2e.modularize(keras.Model(inputs, layers.Dense(2, name="out")(x)), ["a"])
    for trainable in (True, False, True):
        model.get_layer("first").trainable = trainable
        model.compile("adam", "mse")
        watch = e2e.callbacks.ModuleDiagnostics(update_freq=1)
        model.fit(X, Y, batch_size=2, verbose=0, callbacks=[watch])
        assert np.isfinite(watch.history["gradient_snr"]["a"][1:]).all()


@pytest.mark.parametrize(
    "quantities, error",
    [
        ([GradRMS(), GradRMS()], "different names"),
        ([GradientSNR(), GradientSNR(decay=0.5)], "different names"),
        ([], "one or more"),
        (["grad_rms"], "Quantity objects"),
        ("full", "Quantity objects"),
    ],
)
def test_what_are_no_quantities_is_refused(quantities, error):
    model = modular()
    with pytest.raises((ValueError, TypeError), match=f"instrument: .*{error}"):
        model.instrument(quantities)
    assert not model.read_diagnostics()


def test_only_instrumented_quantities_can_be_requested():
    model = modular()
    model.instrument([GradRMS(), GradientSNR()])
    with pytest.raises(ValueError, match=r"'grad_rmz'; .* Did you mean 'grad_rms'"):
        model.request_diagnostics(["grad_rmz"])
    model.request_diagnostics("grad_rms")
    model.train_on_batch(X, Y)
    assert set(model.read_diagnostics()["grad_rms"]) == {"a", "b", "out"}
    assert not model.read_diagnostics()["gradient_snr"]

"""ModuleTensorBoard writes what the steps computed, and disturbs nothing."""

import copy
import os
import resource
from collections import defaultdict

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.util import tensor_util

import keras_e2e as e2e
from keras_e2e import diagnostics
from keras_e2e.callbacks import ModuleTensorBoard, TrainingModeScheduler
from keras_e2e.modules.training_mode import NAMES
from keras_e2e.visualization.tensorboard import event_writer
from keras_e2e.visualization.tensorboard.custom_scalars import layout

MODULES = ["first", "second", "out"]
EXAMPLES = np.random.RandomState(0).randn(24, 4).astype("float32")
LABELS = np.random.RandomState(1).randint(0, 3, 24)


def model_of_three(**options):
    keras.utils.set_random_seed(1)
    base = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5, activation="tanh", name="first"),
            keras.layers.Dense(5, activation="tanh", name="second"),
            keras.layers.Dense(3, activation="softmax", name="out"),
        ]
    )
    model = e2e.modularize(base, ["first", "second"])
    loss = "sparse_categorical_crossentropy"
    model.compile("adam", loss, metrics=["accuracy"], **options)
    return model


def fit(model, callbacks, steps=12, **options):
    """Trains for one epoch of `steps` steps."""
    x, y = EXAMPLES[: 2 * steps], LABELS[: 2 * steps]
    options = {"batch_size": 2, "verbose": 0, "shuffle": False, **options}
    return model.fit(x, y, callbacks=callbacks, **options)


class Written:
    """What TensorBoard reads from a folder."""

    def __init__(self, folder):
        self.reader = EventAccumulator(os.fspath(folder), {"tensors": 0})
        self.reader.Reload()
        found = self.reader.Tags()["tensors"]
        tags = [t for t in found if t.startswith("e2e_")]
        self.others = [t for t in found if not t.startswith("e2e_")]
        self.values, self.steps = {}, {}
        for tag in tags:
            events = self.reader.Tensors(tag)
            # Files of two fits in one second need not be read in order.
            events = sorted(events, key=lambda event: event.step)
            values = [tensor_util.make_ndarray(e.tensor_proto).item() for e in events]
            self.values[tag] = values
            self.steps[tag] = [event.step for event in events]

    def plugin(self, tag):
        return self.reader.SummaryMetadata(tag).plugin_data.plugin_name

    def description(self, tag):
        return self.reader.SummaryMetadata(tag).summary_description

    def layout(self):
        (tag,) = self.others
        events = self.reader.Tensors(tag)
        assert len(events) == 1
        value = tensor_util.make_ndarray(events[0].tensor_proto).item()
        return layout_pb2.Layout.FromString(value)


def test_writes_each_measurement_under_its_tag_and_step(tmp_path):
    model = model_of_three()
    board = ModuleTensorBoard(tmp_path, update_freq=5)
    fit(model, [board])
    assert os.listdir(tmp_path) == ["modules"]
    written = Written(tmp_path / "modules")
    absent = {
        "loss": [0, 1],
        "skill": [0, 1],
        "signal_gain": [0],
        "dormant_fraction": [2],
    }
    expected = {
        f"e2e_{q.name}/{i + 1:02d}_{module}": (q, module)
        for q in diagnostics.default_quantities()
        for i, module in enumerate(MODULES)
        if i not in absent.get(q.name, [])
    }
    banded = {q.name for q in diagnostics.default_quantities() if q.healthy}
    bands = {f"e2e_healthy/{name}_{end}" for name in banded for end in ("low", "high")}
    totals = {"e2e_summary/mode", "e2e_summary/signal_gain_product", "e2e_mode"}
    judged = {
        f"e2e_{group}/{i + 1:02d}_{module}"
        for group in (
            *("verdict", "confidence", "cause", "place", "parameters", "trained_by"),
            *("gradient_snr_error", "descent_cosine"),
        )
        for i, module in enumerate(MODULES)
    } | {"e2e_verdicts"}
    assert set(written.values) == set(expected) | bands | totals | judged
    assert board.steps == [1, 6, 11]
    assert [str(m) for m in board.modes] == ["end_to_end"] * 3
    for tag, (quantity, module) in expected.items():
        assert written.steps[tag] == board.steps
        kept = board.history[quantity.name][module]
        np.testing.assert_array_equal(written.values[tag], kept)
        assert written.plugin(tag) == "scalars"
        assert quantity.formula in written.description(tag)
        assert ("heuristic" in written.description(tag)) == bool(quantity.healthy)
    assert len({v for v in written.values["e2e_grad_rms/01_first"] if v > 0}) == 3
    assert written.values["e2e_healthy/update_ratio_low"] == pytest.approx([1e-4] * 3)
    assert written.values["e2e_healthy/update_ratio_high"] == pytest.approx([1e-2] * 3)
    gains = [board.history["signal_gain"][m] for m in ("second", "out")]
    product = written.values["e2e_summary/signal_gain_product"]
    np.testing.assert_allclose(product, np.prod(gains, axis=0), rtol=1e-6)
    assert written.layout() == layout(MODULES, board.quantities)


@pytest.mark.parametrize(
    ("update_freq", "per_execution", "before", "steps", "expected"),
    [
        (4, 1, 0, 12, [1, 5, 9]),
        (100, 1, 0, 3, [1]),
        (5, 1, 7, 12, [11, 16]),  # resumed: 10 and 15 are the multiples
        (3, 2, 0, 10, [2, 4, 8, 10]),  # 0, 3, 6 and 9 fall in these executions
        (5, 2, 3, 6, [7]),  # resumed: 3-4, 5-6, 7-8
        (7, 4, 0, 6, [4]),  # the last execution makes two steps and ends before 7
        (1, 3, 0, 6, [3, 6]),
    ],
)
def test_measurements_fall_on_the_multiples_of_update_freq(
    tmp_path, update_freq, per_execution, before, steps, expected
):
    model = model_of_three(steps_per_execution=per_execution)
    model.optimizer.iterations.assign(before)
    board = ModuleTensorBoard(tmp_path, update_freq, [diagnostics.GradRMS()])
    fit(model, [board], steps)
    assert board.steps == expected
    assert Written(tmp_path / "modules").steps["e2e_grad_rms/02_second"] == expected


def test_epochs_do_not_shift_the_measurements(tmp_path):
    model = model_of_three()
    board = ModuleTensorBoard(tmp_path, 3, [diagnostics.GradRMS()])
    fit(model, [board], steps=4, epochs=3)
    assert board.steps == [1, 4, 7, 10]


def test_a_second_fit_goes_on_where_the_first_ended(tmp_path):
    model = model_of_three()
    board = ModuleTensorBoard(tmp_path, 3, [diagnostics.GradRMS()])
    fit(model, [board], steps=4)
    traces = model.trace_counts
    fit(model, [board], steps=4)
    assert board.steps == [7]  # starts anew
    assert len(board.history["grad_rms"]["first"]) == 1
    written = Written(tmp_path / "modules")
    assert written.steps["e2e_grad_rms/01_first"] == [1, 4, 7]
    assert written.steps["e2e_mode"] == [0, 4]
    assert model.trace_counts == traces


class Broken(diagnostics.Quantity):
    name, formula, healthy = "broken", "0/0 in the first module, else 1/0", (0.0, 1.0)

    def compute(self, module, state):
        return float("nan" if module.name == "first" else "inf"), state


def test_nan_and_infinity_are_written_as_such(tmp_path):
    model = model_of_three()
    board = ModuleTensorBoard(tmp_path, 3, [Broken()])
    fit(model, [board], steps=6)
    assert int(model.optimizer.iterations) == 6
    written = Written(tmp_path / "modules")
    assert np.isnan(written.values["e2e_broken/01_first"]).all()
    assert written.steps["e2e_broken/01_first"] == [1, 4]
    assert written.values["e2e_broken/03_out"] == [np.inf, np.inf]


class Huge(diagnostics.Quantity):
    name, formula = "signal_gain", "a gain whose product over modules overflows"

    def compute(self, module, state):
        return 1e30, state


@pytest.mark.filterwarnings("error")
def test_an_overflowing_product_is_written_as_infinity(tmp_path):
    fit(model_of_three(), [ModuleTensorBoard(tmp_path, 3, [Huge()])], steps=1)
    written = Written(tmp_path / "modules")
    assert written.values["e2e_summary/signal_gain_product"] == [np.inf]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["end_to_end", "local"])
def test_weights_and_logs_are_those_without_it(tmp_path, mode):
    def train(*callbacks):
        model = model_of_three()
        model.training_mode = mode
        options = {"epochs": 2, "validation_data": (EXAMPLES, LABELS), "shuffle": True}
        history = fit(model, list(callbacks), **options).history
        return history, [v.numpy() for v in model.weights + model.optimizer.variables]

    history, weights = train()
    observed, observed_weights = train(ModuleTensorBoard(tmp_path, update_freq=2))
    assert observed == history
    for one, other in zip(weights, observed_weights, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_switches_are_marked_by_text_and_by_a_step_function(tmp_path):
    model = model_of_three()
    board = ModuleTensorBoard(tmp_path, 4, [diagnostics.ModuleLoss()])
    switches = {0: "local", 2: "end_to_end", 3: "end_to_end", 5: "local"}
    fit(model, [TrainingModeScheduler(switches, unit="step"), board], steps=10)
    written = Written(tmp_path / "modules")
    assert written.steps["e2e_mode"] == [0, 2, 5]
    assert written.plugin("e2e_mode") == "text"
    texts = [t.decode() for t in written.values["e2e_mode"]]
    assert texts == [
        "Training mode **local** from step 0 on.",
        "Training mode **end_to_end** from step 2 on.",
        "Training mode **local** from step 5 on.",
    ]
    local, whole = NAMES.index("local"), NAMES.index("end_to_end")
    points = zip(
        written.steps["e2e_summary/mode"],
        written.values["e2e_summary/mode"],
        strict=True,
    )
    assert list(points) == [
        (0, local),
        (1, local),  # a measurement
        (2, local),
        (2, whole),
        (5, whole),  # a measurement, after the step in which a multiple of 4 fell
        (5, whole),
        (5, local),
        (9, local),  # a measurement
    ]
    assert "2 deep_supervision" in written.description("e2e_summary/mode")
    assert [str(m) for m in board.modes] == ["local", "end_to_end", "local"]


def test_measurements_keep_in_step_where_a_quantity_does_not_apply(tmp_path):
    """A module without a local loss in this mode: NaN in history, nothing on disk."""
    board = ModuleTensorBoard(tmp_path, 2, [diagnostics.ModuleLoss()])
    fit(model_of_three(), [board], steps=4)
    assert np.isnan(board.history["loss"]["first"]).all()
    assert {len(v) for v in board.history["loss"].values()} == {len(board.steps)}
    assert "e2e_loss/01_first" not in Written(tmp_path / "modules").values


def test_conditions_of_the_keras_callback_do_not_hold_here(tmp_path):
    theirs = keras.callbacks.TensorBoard(tmp_path, update_freq=5, write_graph=False)
    board = ModuleTensorBoard(tmp_path, 2, [diagnostics.GradRMS()])
    fit(model_of_three(), [theirs, board], steps=6)
    written = Written(tmp_path / "modules")
    assert written.steps["e2e_grad_rms/01_first"] == [1, 3, 5]
    assert written.steps["e2e_mode"] == [0]
    assert not Written(tmp_path / "train").values


def test_measurements_can_be_read_at_the_end_of_each_epoch(tmp_path):
    found = defaultdict(list)

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            steps = Written(tmp_path / "modules").steps
            found[epoch] = steps["e2e_grad_rms/01_first"]

    board = ModuleTensorBoard(tmp_path, 4, [diagnostics.GradRMS()])
    fit(model_of_three(), [board, Look()], steps=4, epochs=2)
    assert found == {0: [1], 1: [1, 5]}


def test_a_subclassed_model_whose_modules_fit_finds(tmp_path):
    class Code(keras.Model):
        def __init__(self):
            super().__init__()
            self.first = keras.layers.Dense(5, activation="tanh", name="first")
            self.out = keras.layers.Dense(3, activation="softmax", name="out")

        def call(self, x):
            return self.out(self.first(x))

    model = e2e.modularize(Code(), ["first"])
    model.compile("sgd", "sparse_categorical_crossentropy")
    board = ModuleTensorBoard(tmp_path, 2, [diagnostics.GradRMS()])
    fit(model, [board], steps=3)
    assert board.steps == [1, 3]
    assert "e2e_grad_rms/01_first" in Written(tmp_path / "modules").values


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_step(tmp_path):
    file = tmp_path / "file"
    file.write_text("not a folder")
    model = model_of_three()
    before = [v.numpy() for v in model.weights]
    with pytest.raises(OSError, match="log_dir") as error:
        fit(model, [ModuleTensorBoard(file / "logs")])
    assert str(file / "logs") in str(error.value)
    assert "[Op:" not in str(error.value) and "{{" not in str(error.value)
    assert int(model.optimizer.iterations) == 0
    for one, other in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_stock_model_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)], name="stock")
    model.compile("sgd", "mse")
    with pytest.raises(TypeError, match=r"'stock' is a Sequential.*modularize"):
        model.fit(EXAMPLES, EXAMPLES[:, :3], callbacks=[ModuleTensorBoard(tmp_path)])
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"update_freq": 2.0}, ValueError, r"ModuleTensorBoard: update_freq=2\.0"),
        ({"quantities": None}, TypeError, "ModuleTensorBoard: quantities=None"),
        (
            {"log_dir": None},
            TypeError,
            "ModuleTensorBoard: log_dir=None: expected the path",
        ),
    ],
)
def test_arguments_that_are_invalid_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        ModuleTensorBoard(**{"log_dir": "logs", **arguments})


def boards_with(tmp_path, *quantities):
    return [
        ModuleTensorBoard(tmp_path / str(i), update_freq=1 + i, quantities=[quantity])
        for i, quantity in enumerate(quantities)
    ]


def test_a_second_one_may_have_other_quantities(tmp_path):
    boards = boards_with(tmp_path, diagnostics.GradRMS(), diagnostics.ModuleLoss())
    fit(model_of_three(), boards, steps=4)
    first, second = (Written(tmp_path / str(i) / "modules") for i in range(2))
    assert first.steps["e2e_grad_rms/01_first"] == [1, 2, 3, 4]
    assert second.steps["e2e_loss/03_out"] == [1, 3]
    assert not [tag for tag in first.values if tag.startswith("e2e_loss")]
    assert not [tag for tag in second.values if tag.startswith("e2e_grad_rms")]


def test_a_second_one_with_the_same_quantities_measures_the_same(tmp_path):
    model = model_of_three()
    boards = boards_with(tmp_path, diagnostics.GradRMS(), diagnostics.GradRMS())
    fit(model, boards)
    each, every_other = ([*board.history["grad_rms"].values()] for board in boards)
    assert every_other[0]
    assert [values[::2] for values in each] == every_other


def test_what_each_module_is_trained_by_and_how_it_does_is_written(tmp_path):
    model = model_of_three()
    board = ModuleTensorBoard(tmp_path, update_freq=1)
    schedule = TrainingModeScheduler({0: "end_to_end", 6: "local"}, unit="step")
    fit(model, [schedule, board], steps=12)
    written = Written(tmp_path / "modules")
    sizes = [
        written.values[f"e2e_parameters/{i + 1:02d}_{m}"] for i, m in enumerate(MODULES)
    ]
    assert sizes == [[m.parameters] for m in model.modules] == [[25], [30], [18]]
    assert written.values["e2e_trained_by/01_first"] == [0, 1]
    assert written.steps["e2e_trained_by/01_first"] == [0, 6]
    assert written.values["e2e_trained_by/03_out"] == [0, 0]
    # After ten measurements, and when the epoch ends.
    assert written.steps["e2e_verdict/01_first"] == [10, 12]
    latest = {m: v for m, v in board.verdicts().items()}
    for i, module in enumerate(MODULES):
        code = written.values[f"e2e_verdict/{i + 1:02d}_{module}"][-1]
        assert diagnostics.states.STATES[int(code)].name == latest[module].state
        assert written.values[f"e2e_confidence/{i + 1:02d}_{module}"][-1] == pytest.approx(
            latest[module].confidence
        )
    text = written.values["e2e_verdicts"][-1].decode()
    assert text.count("* **") == 3
    assert latest["first"].message.split(".")[0] in text


def test_in_sequential_mode_one_module_is_trained(tmp_path):
    model = model_of_three()
    model.training_mode = "sequential:second"
    fit(model, [ModuleTensorBoard(tmp_path, update_freq=1)], steps=2)
    written = Written(tmp_path / "modules").values
    found = [written[f"e2e_trained_by/0{i + 1}_{m}"] for i, m in enumerate(MODULES)]
    assert found == [[3], [1], [3]]


# Runs, and disks that are full


def test_a_training_from_the_first_step_on_gets_a_run_of_its_own(tmp_path):
    """As the trials of a hyperparameter search, each with a copy of the callback."""
    board = ModuleTensorBoard(tmp_path, 1, [diagnostics.GradRMS()])
    for _ in range(2):
        model = model_of_three()
        fit(model, [copy.deepcopy(board)], steps=2)
    fit(model, [copy.deepcopy(board)], steps=3)  # goes on
    assert sorted(os.listdir(tmp_path)) == ["modules", "modules_2"]
    tag = "e2e_grad_rms/01_first"
    assert Written(tmp_path / "modules").steps[tag] == [1, 2]
    assert Written(tmp_path / "modules_2").steps[tag] == [1, 2, 3, 4, 5]


class FullDisk(keras.callbacks.Callback):
    """Lets no file grow while the steps before `until` run, as a full disk does."""

    def __init__(self, until):
        super().__init__()
        self.until, self.steps = until, 0
        self.limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_train_batch_begin(self, batch, logs=None):
        self.steps += 1
        full = 2 < self.steps < self.until
        limit = 1 if full else self.limits[0]
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, self.limits[1]))

    def on_train_end(self, logs=None):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.limits)


def test_training_goes_on_where_the_disk_is_full(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(event_writer, "FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(event_writer, "RETRY_SECONDS", 0.0)
    model = model_of_three()
    disk = FullDisk(until=6)
    board = ModuleTensorBoard(tmp_path, 1, [diagnostics.GradRMS()])
    try:
        fit(model, [disk, board], steps=10)
    finally:
        disk.on_train_end()
    assert int(model.optimizer.iterations) == 10 and len(board.steps) == 10
    (warning,) = [r.getMessage() for r in caplog.records if "cannot write" in r.msg]
    assert str(tmp_path / "modules") in warning and "Training goes on" in warning
    steps = Written(tmp_path / "modules").steps["e2e_grad_rms/01_first"]
    assert steps[:1] == [1] and steps[-3:] == [8, 9, 10] and 4 not in steps


def test_verdicts_do_not_come_before_what_they_rest_on(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    model = model_of_three()
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), 1.0)
    model.compile(scaled, "sparse_categorical_crossentropy")
    nothing = np.full_like(EXAMPLES, np.nan)
    board = ModuleTensorBoard(tmp_path, update_freq=1)
    model.fit(nothing, LABELS, batch_size=2, epochs=2, verbose=0, callbacks=[board])
    assert int(model.optimizer.iterations) == 0, "all steps are skipped"
    written = Written(tmp_path / "modules")
    verdicts = [s for tag, s in written.steps.items() if tag.startswith("e2e_verdict/")]
    measured = [s for tag, s in written.steps.items() if tag.startswith("e2e_loss/")]
    assert verdicts and measured
    assert all(steps[-1] >= measured[0][-1] for steps in verdicts)

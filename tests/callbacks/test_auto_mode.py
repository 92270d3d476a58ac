"""AutoMode switches what is starved to local training, and back when it has learned."""

import json

import keras
import numpy as np
import pytest

import keras_e2e as e2e
from keras_e2e.callbacks import AutoMode, ModuleTensorBoard
from keras_e2e.experiments import tasks
from keras_e2e.objectives import IntermediateTarget

RNG = np.random.default_rng(0)
X = RNG.normal(size=(320, 4)).astype("float32")
Y = (X[:, 0] > 0).astype("int32")


def model_of_three(objectives=None, optimizer="adam"):
    keras.utils.set_random_seed(1)
    base = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="tanh", name="a"),
            keras.layers.Dense(8, activation="tanh", name="b"),
            keras.layers.Dense(2, activation="softmax", name="out"),
        ]
    )
    model = e2e.modularize(base, objectives or ["a", "b"])
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


def fit(model, callbacks, epochs=1, **options):
    """Ten steps in each epoch."""
    options = {"batch_size": 32, "shuffle": False, "verbose": 0, **options}
    return model.fit(X, Y, epochs=epochs, callbacks=callbacks, **options)


class Told(AutoMode):
    """Is told which modules are starved or stalled, and when they have learned."""

    def __init__(self, starved=(), learned=(), stalled=(), **kwargs):
        super().__init__(every=1, **kwargs)
        self.starved_at, self.learned_at = dict(starved), set(learned)
        self.stalled_at = dict(stalled)

    def verdicts(self):
        found = super().verdicts()
        told = (("stalled", self.stalled_at), ("starved", self.starved_at))
        for state, at in told:
            name = at.get(self.steps[-1])
            if name:
                found[name] = found[name]._replace(state=state, no_signal_reason=state)
        return found

    def _learned(self, stopped):
        return self.steps[-1] in self.learned_at


def test_what_end_to_end_training_cannot_learn_it_learns():
    """Parity of four digits: no seed of six learned it end to end (notes of the field)."""
    images, digits = tasks.load_digits(0)[0]
    data = tasks.parity_tuples(images, digits, 4, 6000, seed=0)
    base = tasks.parity_model(4, images.shape[-1], seed=0)
    model = e2e.modularize(base, {"symbols": IntermediateTarget()})
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    auto = AutoMode(patience=100)
    labels = {"parity": data.parity, "symbols": data.symbols}
    history = model.fit(data.x, labels, 128, epochs=17, verbose=0, callbacks=[auto])
    first, *later = auto.decisions
    assert 200 <= first.step < 300
    assert "mixed" in first.mode
    assert "Starved" in first.reason
    assert "gradient_snr" in first.reason
    # From then on one return at most, and no second alarm.
    assert [decision.mode for decision in later] in ([], ["end_to_end"])
    assert history.history["accuracy"][-1] > 0.85


def test_where_nothing_is_starved_it_changes_nothing():
    results = []
    for callbacks in ([], [AutoMode(every=2, warmup=10)]):
        model = model_of_three()
        fit(model, callbacks, epochs=5)
        results.append(model.get_weights())
    assert callbacks[0].decisions == []
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_only_what_is_starved_is_switched_and_later_ones_join():
    model = model_of_three()
    auto = Told({12: "b", 16: "a"}, {30}, warmup=3)
    fit(model, [auto], epochs=4)
    assert [d.step for d in auto.decisions] == [12, 16, 30]
    modes = [str(mode) for mode in auto.modes]
    assert modes[11] == "end_to_end"
    assert modes[12] == modes[15] == "mixed (stop b)"
    assert modes[16] == modes[29] == "mixed (stop a, b)"
    assert modes[30] == "end_to_end"


def test_after_a_switch_it_waits():
    auto = Told({12: "b", 13: "a", 22: "a"}, warmup=10)
    fit(model_of_three(), [auto], epochs=3)
    assert [d.step for d in auto.decisions] == [12, 22]


def test_a_stalled_module_with_labels_of_its_own_is_switched_once():
    model = model_of_three({"a": IntermediateTarget(), "b": "pred"})
    at = {12: "b", 14: "a", 25: "a", 32: "a"}
    auto = Told((), {20}, at, warmup=3)
    model.fit(X, {"out": Y, "a": Y}, 32, epochs=4, verbose=0, callbacks=[auto])
    # b has no labels; after the return a is not tried again.
    assert [(d.step, d.mode) for d in auto.decisions] == [
        (14, "mixed (stop a)"),
        (20, "end_to_end"),
    ]
    assert auto._level == np.inf


def test_dormant_units_of_a_module_that_is_stuck_are_a_reason_and_frozen_weights_none():
    model = model_of_three()
    auto = AutoMode(every=1)
    fit(model, [auto])
    first, second = (
        auto.verdicts()[name]._replace(state=state, no_signal_reason="starved")
        for name, state in (("a", "dormant"), ("b", "frozen"))
    )
    assert set(auto._needy({"a": first, "b": second})) == {"a"}
    assert auto._needy({"a": first._replace(no_signal_reason="")}) == {}


def test_a_module_without_an_objective_is_left_alone():
    model = model_of_three({"a": None, "b": "pred"})
    auto = AutoMode(every=1, warmup=1)
    fit(model, [auto])
    flat = {"loss": [0.7] * 20, "gradient_snr": [0.0] * 20}
    auto.history = {q: dict.fromkeys(("a", "b", "out"), v) for q, v in flat.items()}
    auto.modes = [model.training_mode] * 20
    assert set(auto._needy(auto.verdicts())) == {"b"}


def test_a_module_whose_labels_are_missing_is_left_alone_with_a_warning(caplog):
    model = model_of_three({"a": IntermediateTarget(), "b": "pred"})
    auto = AutoMode(every=1)
    fit(model, [auto])
    assert auto._able == {"b"}
    assert "['a'] need labels" in caplog.text
    model.fit(X, {"out": Y, "a": Y}, verbose=0, callbacks=[auto])
    assert auto._able == {"a", "b"}


def test_without_any_of_the_labels_it_says_so_at_the_first_reading():
    model = model_of_three({"a": IntermediateTarget(), "b": None})
    with pytest.raises(ValueError, match=r"objectives of \['a'\] need labels.*NAME"):
        fit(model, [AutoMode(every=1)])


@pytest.mark.parametrize(
    ("local", "task", "changed", "learned"),
    [
        ([1.0] * 5 + [0.3] * 40, [0.4] * 45, {}, True),
        (np.linspace(1, 0.1, 45), [0.4] * 45, {}, False),  # still falls
        ([1.0] * 5 + [0.3] * 40, [0.7] * 45, {}, False),  # the task does not move
        ([1.0] * 5 + [0.3] * 40, [0.7] * 45, {"_level": np.inf}, True),  # it need not
        ([0.3] * 20, [0.4] * 20, {}, False),  # too early
        ([1.0] * 5 + [0.3] * 40, [0.4] * 45, {"_returns": 1}, False),  # waits longer
        ([0.3] * 45, [0.4] * 45, {"_since": 200}, False),  # what was before does not count
    ],
)
def test_it_goes_back_when_the_local_losses_rest_and_the_task_moves(
    local, task, changed, learned
):
    auto = AutoMode(every=10, patience=200)
    auto.history = {"loss": {"a": list(local), "out": list(task)}}
    auto.steps = [10 * i + 1 for i in range(len(local))]
    auto._level = 0.7
    vars(auto).update(changed)
    assert auto._learned(["a"]) == learned


def test_tensorboard_marks_its_switches(tmp_path):
    model = model_of_three()
    board = ModuleTensorBoard(tmp_path, every=1)
    fit(model, [Told({12: "b"}, warmup=3), board], epochs=2)
    assert [str(mode) for mode in board.modes[11:13]] == ["end_to_end", "mixed (stop b)"]


class Crash(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 3:
            raise KeyboardInterrupt


def test_after_a_crash_it_goes_on_where_it_was(tmp_path):
    def callbacks(name):
        kept = keras.callbacks.BackupAndRestore(tmp_path / name / "backup")
        auto = Told({12: "b"}, {35}, warmup=3, backup=tmp_path / f"{name}.json")
        return auto, kept

    whole = model_of_three()
    expected, kept = callbacks("whole")
    fit(whole, [expected, kept], epochs=5)
    with pytest.raises(KeyboardInterrupt):
        fit(model_of_three(), [*callbacks("cut"), Crash()], epochs=5)
    assert json.loads((tmp_path / "cut.json").read_text())["iterations"] == 30
    model = model_of_three()
    auto, kept = callbacks("cut")
    fit(model, [auto, kept], epochs=5)
    assert auto.decisions == expected.decisions
    assert auto.steps == expected.steps
    for ours, theirs in zip(model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not (tmp_path / "cut.json").exists(), "the run is complete"


def test_a_state_of_another_run_is_not_taken_up(tmp_path):
    path = tmp_path / "auto.json"
    with pytest.raises(KeyboardInterrupt):
        fit(model_of_three(), [Told({12: "b"}, warmup=3, backup=path), Crash()], epochs=5)
    assert path.exists()
    auto = Told(warmup=3, backup=path)
    fit(model_of_three(), [auto])
    assert auto.decisions == []


def test_a_damaged_backup_is_named(tmp_path):
    path = tmp_path / "auto.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"auto\.json.*damaged.*Delete it"):
        fit(model_of_three(), [AutoMode(backup=path)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"warmup": 0}, "warmup=0"),
        ({"patience": 1.5}, r"patience=1\.5"),
        ({"rest": 1.0}, r"rest=1\.0"),
        ({"quantities": [e2e.diagnostics.GradRMS()]}, "gradient_snr"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        AutoMode(**arguments)


def test_a_model_without_objectives_is_refused():
    model = model_of_three({"a": None, "b": None})
    with pytest.raises(ValueError, match="is nothing to switch to"):
        fit(model, [AutoMode()])

"""A training that is killed resumes as if it had not been, with AutoMode's state."""

import os
import random
import signal
import subprocess
import sys

import h5py
import keras
import numpy as np
import pytest

import keras_e2e as e2e
from keras_e2e.callbacks import ModuleTensorBoard, TrainingModeScheduler
from tests.callbacks.kept_training import fickle, in_order, model_of_three, outcome, train


class Killed(BaseException):
    """Stands for a kill, in tests that need no process of their own."""


class KillAt(keras.callbacks.Callback):
    """Ends the training at a step of this process, as a kill would."""

    def __init__(self, step, place="end"):
        super().__init__()
        self.left, self.place = step, place

    def on_train_batch_begin(self, batch, logs=None):
        self.left -= 1
        if self.place == "begin" and not self.left:
            raise Killed

    def on_train_batch_end(self, batch, logs=None):
        if self.place == "end" and not self.left:
            raise Killed


def backup(folder, save_freq="epoch"):
    return keras.callbacks.BackupAndRestore(folder, save_freq)


def killed(folder, step, *callbacks, save_freq="epoch", make=model_of_three):
    with pytest.raises(Killed):
        callbacks = [*callbacks, backup(folder, save_freq), KillAt(step)]
        train(make(), callbacks, save_freq)


def resumed(folder, save_freq, order, kills, make=model_of_three, auto=fickle):
    """Trains with crashes after the given numbers of steps; what came of it."""
    for kill in kills:
        callbacks = in_order(order, auto(), backup(folder, save_freq))
        with pytest.raises(Killed):
            train(make(), [*callbacks, KillAt(*kill)], save_freq)
    model, last = make(), auto()
    train(model, in_order(order, last, backup(folder, save_freq)), save_freq)
    return outcome(model, last), last


def same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.sampled(1)
@pytest.mark.slow
@pytest.mark.parametrize("order", ["auto", "backup"])
@pytest.mark.parametrize("save_freq", ["epoch", 7])
def test_a_training_that_was_killed_goes_on_as_if_it_had_not_been(
    tmp_path, save_freq, order
):
    whole, auto = resumed(tmp_path / "whole", save_freq, order, [])
    assert len(auto.decisions) >= 3 and len(auto.steps) == 30
    kills = [(13, "end"), (9, "begin"), (17, "end")]
    found, _ = resumed(tmp_path / "cut", save_freq, order, kills)
    same(found, whole)
    assert not list(tmp_path.iterdir()), "the backups of complete runs are deleted"


@pytest.mark.slow
def test_float16_with_sgd_resumes_too(tmp_path):
    def make():
        return model_of_three(keras.optimizers.SGD(0.1, momentum=0.9), "mixed_float16")

    whole, _ = resumed(tmp_path / "whole", "epoch", "backup", [], make)
    same(resumed(tmp_path / "cut", "epoch", "backup", [(25,)], make)[0], whole)


@pytest.mark.long
def test_a_process_that_is_killed_at_random_resumes(tmp_path):
    """Each time a process of its own, and SIGKILL. `kill_resume.py` has all orders."""

    def run(name, *seconds):
        (tmp_path / name).mkdir(exist_ok=True)
        command = [sys.executable, "-m", "tests.callbacks.kept_training"]
        command += [str(tmp_path / name), "7", "auto", *seconds]
        found = subprocess.run(command, capture_output=True, text=True, env=os.environ)
        assert found.returncode in (0, -signal.SIGKILL), found.stderr[-3000:]
        return found.returncode

    run("whole")
    moments = random.Random(int.from_bytes(os.urandom(2)))
    kills = sum(bool(run("cut", str(moments.uniform(0.3, 3.0)))) for _ in range(3))
    run("cut")
    whole, cut = (np.load(tmp_path / name / "done.npz") for name in ("whole", "cut"))
    assert kills
    same([cut[key] for key in cut.files], [whole[key] for key in whole.files])


def test_the_weights_file_is_whole_or_the_earlier_one(tmp_path, monkeypatch):
    """A kill in the middle of writing leaves the last backup."""

    def kill(self):
        raise Killed

    with pytest.raises(Killed):
        model, auto = model_of_three(), fickle()
        stop = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: (
                epoch == 1 and monkeypatch.setattr(h5py.File, "close", kill)
            )
        )
        train(model, [auto, stop, backup(tmp_path)], "epoch")
    monkeypatch.undo()
    model, auto = model_of_three(), fickle()
    train(model, [auto, backup(tmp_path)], "epoch")
    assert auto.steps == [*range(1, 60, 2)]


@pytest.mark.parametrize("left", ['{"epoch": 1, "batch": 0}', "", None])
def test_a_crash_between_the_two_files_of_the_backup_is_mended(tmp_path, caplog, left):
    """Keras writes the epoch after the weights, and would repeat one, or fail."""
    killed(tmp_path, 25, fickle())
    path = tmp_path / "training_metadata.json"
    path.unlink() if left is None else path.write_text(left)
    auto = fickle()
    train(model_of_three(), [auto, backup(tmp_path)], "epoch")
    assert "begins with" not in caplog.text
    assert auto.steps == [*range(1, 60, 2)]


def test_the_place_in_an_epoch_that_keras_does_not_keep_is_named(tmp_path, caplog):
    killed(tmp_path, 9, fickle(), save_freq=7)
    assert "begins with" not in caplog.text
    train(model_of_three(), [fickle(), backup(tmp_path, 7)], 7)
    assert "epoch 0 begins with the weights after 7 steps of epoch 0" in caplog.text


# What cannot be restored


def test_a_backup_without_its_state_is_named(tmp_path, caplog):
    killed(tmp_path, 15)
    auto = fickle()
    train(model_of_three(), [auto, backup(tmp_path)], "epoch")
    assert "AutoMode begins anew" in caplog.text
    assert auto.steps[0] == 11 and auto.decisions[0].step >= 11


def rewritten(folder, change):
    """Changes the entries of the state in a backup."""
    with h5py.File(folder / "latest.weights.h5", "a") as file:
        state = file["_saved_with_weights/vars"]
        change(state)


def text(words):
    def change(state):
        del state["index"]
        state["index"] = np.frombuffer(words.encode(), "uint8")

    return change


def without_arrays(state):
    for key in list(state):
        if key != "index":
            del state[key]


DAMAGE = {
    **{words: text(words) for words in ("[1]", "null", "{", "3", '{"AutoMode": 3}')},
    "no arrays": without_arrays,
    "no entry": text('{"AutoMode": {"config": {}, "arrays": {}}}'),
    "types": text('{"AutoMode": {"config": {"auto_mode": [], "mode": 3}, "arrays": {}}}'),
    "a number": lambda state: (
        state.pop("index", None),
        state.__setitem__("index", np.float32(3)),
    ),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_state_is_named_and_training_goes_on(tmp_path, caplog, damage):
    killed(tmp_path, 15, fickle())
    rewritten(tmp_path, damage)
    model, auto = model_of_three(), fickle()
    train(model, [auto, backup(tmp_path)], "epoch")
    assert "begins anew" in caplog.text and "AutoMode" in caplog.text
    assert auto.steps[0] == 11 and int(model.optimizer.iterations) == 60


def test_a_state_of_other_quantities_is_named(tmp_path, caplog):
    killed(tmp_path, 15, fickle())
    few = [e2e.diagnostics.Skill(), e2e.diagnostics.ModuleLoss()]
    auto = fickle(quantities=few)
    train(model_of_three(), [auto, backup(tmp_path)], "epoch")
    assert "AutoMode begins anew" in caplog.text
    assert "it is of the quantities and modules" in caplog.text
    assert auto.steps[0] == 11


# Other callbacks and files


def test_the_diagnostics_of_tensorboard_go_on_too(tmp_path):
    def board(name):
        return ModuleTensorBoard(tmp_path / name, 2)

    whole, cut = board("whole"), board("cut")
    schedule = TrainingModeScheduler({0: "local", 35: "end_to_end"}, unit="step")
    model = model_of_three()
    train(model, [schedule, whole], "epoch")
    killed(tmp_path / "backup", 29, schedule, board("cut"))
    again = model_of_three()
    train(again, [schedule, cut, backup(tmp_path / "backup")], "epoch")
    assert cut.steps == whole.steps and cut.modes == whole.modes
    same(outcome(again, cut)[:-1], outcome(model, whole)[:-1])
    assert os.listdir(tmp_path / "cut") == ["modules"]


@pytest.mark.parametrize("unit", ["epoch", "step"])
def test_the_scheduler_resumes_in_the_right_mode(tmp_path, unit):
    entries = {"epoch": {1: "local", 4: "end_to_end"}, "step": {5: "local", 33: "local"}}

    def run(*callbacks):
        model = model_of_three(dropout=0.0)
        schedule = TrainingModeScheduler(entries[unit], unit)
        train(model, [schedule, *callbacks], "epoch")
        return [*map(np.asarray, model.weights)]

    whole = run()
    with pytest.raises(Killed):
        run(backup(tmp_path), KillAt(25))
    same(run(backup(tmp_path)), whole)


def entries(path):
    with h5py.File(path) as file:
        found = []
        file.visit(found.append)
        return found


def test_files_outside_of_fit_are_as_before(tmp_path):
    """Also after a `fit` that was interrupted."""
    model = model_of_three()
    model.optimizer.build(model.trainable_variables)
    model.save_weights(tmp_path / "before.weights.h5")
    killed(tmp_path / "backup", 3, fickle(), make=lambda: model)
    model.save_weights(tmp_path / "after.weights.h5")
    before, after = (entries(tmp_path / f"{n}.weights.h5") for n in ("before", "after"))
    held = [entry for entry in after if "saved_with" in entry]
    # Where the boundaries are is always saved, and nothing else.
    assert held == [f"_saved_with_weights{name}" for name in ("", "/vars", "/vars/places")]
    assert {*before} <= {*after}


def test_a_file_with_a_state_loads_where_others_do(tmp_path):
    """Into a model without AutoMode, by `load_model`, and into the stock model."""
    keras.utils.set_random_seed(1)
    base = keras.Sequential(
        [keras.Input((4,)), *map(keras.layers.Dense, (8, 8)), keras.layers.Dense(2)]
    )
    model = e2e.modularize(base, 1)
    model.compile("adam", "mse")
    paths = [tmp_path / name for name in ("a.weights.h5", "b.keras")]
    save = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: (model.save_weights(paths[0]), model.save(paths[1]))
    )
    x, y = np.ones((8, 4)), np.ones((8, 2))
    model.fit(x, y, verbose=0, callbacks=[e2e.callbacks.AutoMode(), save])
    assert [entry for entry in entries(paths[0]) if "saved_with" in entry]
    expected = model.predict(x, verbose=0)
    other = keras.models.load_model(paths[1])
    np.testing.assert_array_equal(other.predict(x, verbose=0), expected)
    other.fit(x, y, verbose=0)
    other.load_weights(paths[0])
    np.testing.assert_array_equal(other.predict(x, verbose=0), expected)
    stock = keras.Sequential(
        [keras.Input((4,)), *map(keras.layers.Dense, (8, 8)), keras.layers.Dense(2)]
    )
    stock.load_weights(paths[0])
    np.testing.assert_array_equal(stock.predict(x, verbose=0), expected)

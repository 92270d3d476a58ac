"""How far long calls say that they are: a bar, or a line now and then."""

import itertools
import types

import keras
import numpy as np
import pytest

import keras_e2e as e2e
from keras_e2e.experiments.regimes import Stage
from keras_e2e.utils import progress
from tests.rewards.worlds import compiled, network, small

X, Y = np.ones((64, 2), "float32"), np.ones((64, 1), "float32")


def model():
    base = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(3, name="first"),
            keras.layers.Dense(1, name="last"),
        ]
    )
    model = e2e.modularize(base, {"first": e2e.objectives.Prediction()})
    model.compile("sgd", "mse", jit_compile=False)
    return model


def trained(verbose):
    e2e.regimes.train(
        model(), "greedy", X, Y, steps=8, batch_size=16, window=2, verbose=verbose
    )


def evaluated(verbose):
    found = model()
    found.evaluate_modules(X, Y, probe_data=(X, Y), probe_epochs=1, verbose=verbose)


def measured(verbose):
    utility = e2e.diagnostics.FrozenUtility(steps=2)
    utility.measure(model(), X, Y, verbose=verbose)


def compared(verbose):
    found = model()
    cka = e2e.diagnostics.CKA(found.get_weights(), batch_size=16)
    cka.measure(found, X, verbose=verbose)


def by_reward(verbose):
    policy = compiled(e2e.modularize(network(), ["code"]))
    e2e.regimes.train_policy(policy, [Stage()], small(policy), epochs=3, verbose=verbose)


# The lines where one may follow another at once; the last number goes without saying.
LINES = [
    (
        trained,
        ["regimes.train: stage 1 of 2, sequential:first: 4 steps"]
        + ["regimes.train: stage 2 of 2, sequential:last: 4 steps"]
        + [f"regimes.train: step {n} of 8, loss" for n in range(1, 8)],
        8,
    ),
    (
        evaluated,
        ["evaluate_modules: batch 1 of 2", "evaluate_modules: a linear probe at first"],
        2,
    ),
    (measured, ["frozen_utility: module 1 of 2"], 2),
    (compared, [f"cka: batch {n} of 4" for n in (1, 2, 3)], 4),
    (
        by_reward,
        ["train_policy: stage 1 of 1, end_to_end: 3 rollouts"]
        + [f"train_policy: rollout {n} of 3, loss" for n in (1, 2)],
        3,
    ),
]


@pytest.mark.parametrize(("call", "lines", "total"), LINES)
def test_where_there_is_no_terminal_a_line_comes_now_and_then(
    call, lines, total, capsys, monkeypatch
):
    monkeypatch.setattr(progress, "BETWEEN_LINES", 0.0)
    call("auto")
    said = capsys.readouterr().out.splitlines()
    assert len(said) == len(lines)
    for line in lines:
        assert any(found.startswith(line) for found in said), (line, said)


@pytest.mark.parametrize(("call", "lines", "total"), LINES)
def test_a_bar_comes_to_its_end_and_nothing_is_said_if_so_asked(
    call, lines, total, capsys, monkeypatch
):
    monkeypatch.setattr(progress, "BETWEEN_BARS", 0.0)
    call(1)
    assert f"{total}/{total}" in capsys.readouterr().out
    call(0)
    assert capsys.readouterr().out == ""


def test_quick_things_say_nothing(capsys, monkeypatch):
    # A clock of its own: on a slow machine nothing is quick.
    clock = itertools.count(0.0, 1e-3)
    own = types.SimpleNamespace(monotonic=lambda: next(clock))
    monkeypatch.setattr(progress, "time", own)
    for call in (evaluated, measured, compared):
        call(2)
        said = capsys.readouterr().out.splitlines()
        assert [line for line in said if "probe" not in line] == []


@pytest.mark.parametrize(
    ("call", "who"),
    [
        (trained, "regimes.train"),
        (evaluated, "evaluate_modules"),
        (measured, "frozen_utility"),
        (by_reward, "train_policy"),
    ],
)
def test_other_words_are_refused(call, who):
    with pytest.raises(ValueError, match=rf"{who}\(verbose='loud'\).*'auto'"):
        call("loud")


def test_steps_of_one_execution_are_all_counted(capsys, monkeypatch):
    monkeypatch.setattr(progress, "BETWEEN_BARS", 0.0)
    found = model()
    found.compile("sgd", "mse", jit_compile=False, steps_per_execution=2)
    e2e.regimes.train(found, "greedy", X, Y, steps=8, batch_size=16, window=4, verbose=1)
    assert "8/8" in capsys.readouterr().out

"""What the README shows runs as it stands there."""

import pathlib
import re

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e

README = pathlib.Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)


def block(containing):
    """The one block of Python with this text."""
    (found,) = (text for text in BLOCKS if containing in text)
    return found


def run(text, **names):
    """Runs a block of Python; returns the names that it leaves."""
    exec(compile(text, README.name, "exec"), names)
    return names


@pytest.fixture
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def convnet():
    """A user's model, with the layer names that the README speaks of."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(name="block2_pool"),
            layers.Conv2D(4, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(name="block4_pool"),
            layers.Flatten(),
            layers.Dense(3, activation="softmax"),
        ]
    )


@pytest.mark.slow
def test_the_use(in_an_empty_folder):
    base = convnet()
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 8, 8, 1)).astype("float32"), rng.integers(0, 3, 64)
    before = [w.copy() for w in base.get_weights()]
    names = run(block("e2e.strip"), base=base, x=x, y=y)
    assert names["model"].training_mode.name == "end_to_end"
    assert [m.name for m in names["model"].modules][:2] == ["block2_pool", "block4_pool"]
    assert set(names["model"].trace_counts.values()) <= {1, 2}
    assert type(names["plain"]).__module__.startswith("keras.")
    after = names["plain"].get_weights()
    for old, new in zip(before, after, strict=True):
        assert not np.array_equal(old, new)
    assert list((in_an_empty_folder / "logs").iterdir())


@pytest.mark.slow
def test_an_objective_of_ones_own_in_fifteen_lines(in_an_empty_folder):
    text = block("LocalObjective")
    written = [line for line in text.splitlines() if line.strip()]
    assert len(written) <= 15, "the README promises an objective in 15 lines"

    inputs = keras.Input((6,))
    code = layers.Dense(4, activation="tanh", name="code")(inputs)
    base = keras.Model(inputs, layers.Dense(3)(code))
    names = run(text, base=base)
    model = names["model"]
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.training_mode = "local"
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 6)).astype("float32"), rng.integers(0, 3, 64)
    board = e2e.callbacks.ModuleTensorBoard("logs", update_freq=1)
    model.fit(x, y, epochs=20, verbose=0, callbacks=[board])
    losses = board.history["loss"]["code"]
    assert losses[-1] < losses[0]
    model.save("model.keras")
    loaded = keras.saving.load_model("model.keras")
    assert isinstance(loaded.modules[0].objective, names["Sparse"])
    loaded.fit(x, y, verbose=0)


def modular():
    """The README's model, with data for it."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 8, 8, 1)).astype("float32"), rng.integers(0, 3, 64)
    model = e2e.modularize(convnet(), ["block2_pool", "block4_pool"])
    return {"model": model, "keras": keras, "e2e": e2e, "x": x, "y": y}


def test_control_module_by_module():
    names = modular()
    run(block("ModuleOptimizers"), **names)
    model = names["model"]
    model.fit(names["x"], names["y"], epochs=2, verbose=0)
    assert isinstance(
        model.optimizer.optimizer_of("block2_pool"), keras.optimizers.SGD
    ) and isinstance(model.optimizer.optimizer_of("block4_pool"), keras.optimizers.Adam)
    assert str(model.training_mode) == "local (reach 2)"


@pytest.mark.slow
def test_evaluation_module_by_module():
    names = modular()
    names["model"].compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    names |= {"x_test": names["x"][:20], "y_test": names["y"][:20]}
    text = block("evaluate_modules").replace("model.evaluate", "found = model.evaluate", 1)
    found = run(text, **names)
    assert set(found["found"]["block2_pool"]) == {
        *("loss", "accuracy", "probe_loss", "probe_accuracy")
    }
    assert found["early"].predict(names["x_test"], verbose=0).shape == (20, 3)


@pytest.mark.slow
def test_diagnostics(in_an_empty_folder, capsys):
    names = modular()
    names["model"].compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    before = names["model"].get_weights()
    diagnose, fit = block("AutoMode").split("\nmodel.fit", 1)
    run(diagnose.replace("x, y)", "x, y, steps=50)"), **names)
    assert "block2_pool" in capsys.readouterr().out
    for old, new in zip(before, names["model"].get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    run(f"model.fit{fit}", **names)  # two callbacks that measure different quantities
    assert list((in_an_empty_folder / "logs").iterdir())


def test_the_table_of_objectives_names_every_objective_and_alias():
    text = README.read_text().split("<!-- objectives:begin -->")[1]
    text = text.split("<!-- objectives:end -->")[0]
    for alias in e2e.objectives.ALIASES:
        assert f"`{alias}`" in text or alias == "prediction", alias
    contracts = {"LocalObjective", "Signal"}
    for name, value in vars(e2e.objectives).items():
        if isinstance(value, type) and issubclass(value, e2e.objectives.LocalObjective):
            assert name in contracts or f"`{name}" in text, name


@pytest.mark.slow
def test_a_regime_on_a_task(monkeypatch):
    whole = e2e.tasks.parity
    monkeypatch.setattr(e2e.tasks, "parity", lambda k: whole(k, n=500))
    text = block("regimes.train").replace("steps=3000", "steps=200")
    names = run(text)
    assert [logs["step"] for logs in names["trained"].history] == [100, 200]


def test_an_ensemble(capsys):
    def member():
        return keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="softmax")])

    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    y = np.arange(32) % 3
    members = {f"m{i}": member() for i in (1, 2, 3)}
    run(block("e2e.ensemble("), e2e=e2e, x=x, y=y, x_test=x, y_test=y, **members)
    assert "majority" in capsys.readouterr().out


def test_remat():
    model = run(block("remat=True"), e2e=e2e, base=convnet())["model"]
    assert model.remat == ["block2_pool"]

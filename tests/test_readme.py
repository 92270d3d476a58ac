"""What README and the guides show runs as it stands there."""

import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_e2e as e2e

ROOT = pathlib.Path(__file__).parents[1]
# What the blocks of each page, one script, are changed in, to take seconds and one CPU.
PAGES = {
    "README.md": {"20_000": "1_000", "epochs=10": "epochs=6"},
    "docs/boundaries.md": {},
    "docs/devices.md": {"here, 3": "here, 2"},
    "docs/guides/deploy.md": {},
    "docs/guides/diagnose.md": {
        "(model, x, y)": "(model, x, y, steps=50)",
        "epochs=20": "epochs=2",
    },
    "docs/guides/ensembles.md": {},
    "docs/guides/extend.md": {},
    "docs/guides/language_models.md": {},
    "docs/guides/modes.md": {"epochs=20": "epochs=11"},
    "docs/guides/regimes.md": {"k=4": "k=2", "steps=3000": "steps=200"},
    "docs/guides/subclassed.md": {},
    "docs/guides/what_now.md": {"steps=1000": "steps=50", "epochs=20": "epochs=1"},
    "docs/index.md": {"20_000": "1_000", "epochs=10": "epochs=6"},
    "docs/memory.md": {"base, 7": "base, 2"},
    "docs/rewards.md": {
        "epochs=30": "epochs=1",
        "(model, rollouts)": "(model, rollouts, steps=50)",
    },
    "docs/speed.md": {"epochs=20": "epochs=1"},
    "docs/verdicts.md": {"(model, x, y,": "(model, x, y, steps=50,"},
}
# Needs keras-hub: benchmarks/compatibility.py runs these models.
ELSEWHERE = ["docs/compatibility.md"]


def blocks(page):
    """The blocks of Python of a page."""
    text = (ROOT / page).read_text()
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def block(containing, page):
    """The one block of Python of a page with this text."""
    (found,) = (text for text in blocks(page) if containing in text)
    return found


def run(text, **names):
    """Runs a block of Python; returns the names that it leaves."""
    exec(compile(text, "a page", "exec"), names)
    return names


@pytest.fixture
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def convnet():
    """A user's model, with the layer names that the guides speak of."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.MaxPooling2D(1, name="block1_pool"),
            layers.Conv2D(4, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(name="block2_pool"),
            layers.Conv2D(4, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(1, name="block3_pool"),
            layers.MaxPooling2D(name="block4_pool"),
            layers.Flatten(),
            layers.Dense(3, activation="softmax"),
        ]
    )


def test_each_page_with_python_is_run():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    shown = {str(p.relative_to(ROOT)) for p in pages}
    assert {page for page in shown if blocks(page)} == {*PAGES, *ELSEWHERE}


def what_pages_speak_of():
    """The names that a page takes for granted."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(256, 8, 8, 1)).astype("float32"), rng.integers(0, 3, 256)
    base = convnet()
    base.compile("adam", "sparse_categorical_crossentropy")
    schedule = {0: "local", 10: "end_to_end"}
    members = {f"m{i}": keras.models.clone_model(base) for i in (1, 2, 3)}
    found = {"base": base, "model": base, "x": x, "y": y, "schedule": schedule}
    test = {"x_test": x[:20], "y_test": y[:20], "inputs": keras.Input((8,))}
    return {**found, **test, **members, "e2e": e2e, "keras": keras, "tf": tf, "np": np}


def count_no_memory_where_tensorflow_does_not(monkeypatch):
    """Lets the page on memory run on processors whose allocator has no statistics."""
    counted = tf.config.experimental
    try:
        counted.get_memory_info("CPU:0")
    except ValueError:
        nothing = {"current": 0, "peak": 0}
        monkeypatch.setattr(counted, "get_memory_info", lambda device: nothing)
        monkeypatch.setattr(counted, "reset_memory_stats", lambda device: None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* holds the weights of a model without boundaries")
@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_are_a_script(page, in_an_empty_folder, monkeypatch):
    whole = e2e.tasks.parity
    monkeypatch.setattr(e2e.tasks, "parity", lambda k: whole(k, n=500))
    text = "\n".join(blocks(page))
    for old, new in PAGES[page].items():
        assert old in text
        text = text.replace(old, new)
    count_no_memory_where_tensorflow_does_not(monkeypatch)
    given = {} if page in ("README.md", "docs/index.md") else what_pages_speak_of()
    run(text, **given)


def test_the_readme_can_be_read_in_two_minutes():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


@pytest.mark.slow
def test_the_use(in_an_empty_folder):
    base = convnet()
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 8, 8, 1)).astype("float32"), rng.integers(0, 3, 64)
    before = [w.copy() for w in base.get_weights()]
    names = run(block("e2e.strip", "docs/guides/modes.md"), base=base, x=x, y=y)
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
    text = block("LocalObjective", "docs/guides/extend.md")
    written = [line for line in text.splitlines() if line.strip()]
    assert len(written) <= 15, "a promise of old: an objective in 15 lines"

    inputs = keras.Input((6,))
    code = layers.Dense(4, activation="tanh", name="code")(inputs)
    base = keras.Model(inputs, layers.Dense(3)(code))
    names = run(text, base=base, keras=keras, e2e=e2e)
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
    """The guides' model, with data for it."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 8, 8, 1)).astype("float32"), rng.integers(0, 3, 64)
    base = convnet()
    model = e2e.modularize(base, ["block2_pool", "block4_pool"])
    return {"base": base, "model": model, "keras": keras, "e2e": e2e, "x": x, "y": y}


def test_control_module_by_module():
    names = modular()
    run(block("ModuleOptimizers", "docs/guides/modes.md"), **names)
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
    text = block("evaluate_modules", "docs/guides/modes.md").replace(
        "model.evaluate", "found = model.evaluate", 1
    )
    found = run(text, **names)
    assert set(found["found"]["block2_pool"]) == {
        *("loss", "accuracy", "probe_loss", "probe_accuracy")
    }
    assert found["early"].predict(names["x_test"], verbose=0).shape == (20, 3)
    assert found["features"].predict(names["x_test"], verbose=0).shape == (20, 4, 4, 4)


@pytest.mark.slow
def test_a_diagnosis_changes_nothing(capsys):
    names = modular()
    names["model"].compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    before = names["model"].get_weights()
    text = block("e2e.diagnose(", "docs/guides/diagnose.md")
    run(text.replace("x, y)", "x, y, steps=50)"), **names)
    assert "block2_pool" in capsys.readouterr().out
    for old, new in zip(before, names["model"].get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_table_of_objectives_names_every_objective_and_alias():
    text = (
        (ROOT / "docs/guides/objectives.md")
        .read_text()
        .split("<!-- objectives:begin -->")[1]
    )
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
    text = block("regimes.train", "docs/guides/regimes.md").replace(
        "steps=3000", "steps=200"
    )
    names = run(text)
    assert [logs["step"] for logs in names["trained"].history] == [100, 200]


def test_an_ensemble(capsys):
    def member():
        return keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="softmax")])

    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    y = np.arange(32) % 3
    members = {f"m{i}": member() for i in (1, 2, 3)}
    run(
        block("e2e.ensemble(", "docs/guides/ensembles.md"),
        e2e=e2e,
        x=x,
        y=y,
        x_test=x,
        y_test=y,
        **members,
    )
    assert "majority" in capsys.readouterr().out


def test_remat():
    model = run(block("remat=True", "docs/memory.md"), e2e=e2e, base=convnet())["model"]
    assert model.remat == ["block2_pool"]

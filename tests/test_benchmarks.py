"""The training benchmarks' parts, one step of each on random data."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_e2e.objectives import InfoPro
from keras_e2e.objectives.registry import ALIASES


@pytest.fixture(scope="module")
def scripts(benchmark_script):
    """The modules `_shared`, `fashion_mnist_local_loss` and `k_sweep`."""
    names = ("_shared", "fashion_mnist_local_loss", "k_sweep")
    return tuple(map(benchmark_script, names))


def images(count, *shape):
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(count, 28, 28, *shape)).astype("float32")
    return x, np.arange(count, dtype="int32") % 10


def test_batches_hold_every_example_once_and_repeat_with_the_seed(scripts):
    shared = scripts[0]
    x, y = images(30)
    y = np.arange(30)

    def epoch(data):
        found = [(np.asarray(a), np.asarray(b)) for a, b in data]
        return tuple(np.concatenate(part) for part in zip(*found, strict=True))

    keras.utils.set_random_seed(1)
    data = shared.batches(x, y, 8, seed=1)
    first, second = epoch(data), epoch(data)
    assert sorted(first[1]) == list(y) and list(first[1]) != list(second[1])
    np.testing.assert_array_equal(first[0], x[first[1]])
    keras.utils.set_random_seed(1)
    np.testing.assert_array_equal(epoch(shared.batches(x, y, 8, seed=1))[1], first[1])


def test_crops_are_windows_of_the_padded_image_or_its_mirror(scripts):
    shared = scripts[0]
    x, _ = images(20, 1)
    cropped = shared.crop_and_flip(tf.constant(x), tf.constant([1, 2], tf.int64)).numpy()
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    flipped = 0
    for image, whole in zip(cropped, padded, strict=True):
        windows = [
            (whole[i : i + 28, j : j + 28], m)
            for i in range(5)
            for j in range(5)
            for m in "ab"
        ]
        matches = [
            m
            for window, m in windows
            if np.array_equal(image, window if m == "a" else window[:, ::-1])
        ]
        assert len(matches) == 1
        flipped += matches == ["b"]
    assert 0 < flipped < 20


def run_of(shared, path, make, data, **key):
    """Trains one epoch of a model as the scripts do."""
    x, y = data
    results = shared.Results(path, {"what": "test"})
    return shared.train(
        make, lambda: shared.batches(x, y, 20, 0, augment=True), data, 1, results, **key
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["stock Keras", "backprop", "predsim", "infopro"])
def test_the_mlp_takes_a_step(scripts, method, tmp_path):
    shared, script, _ = scripts
    path = tmp_path / "runs.json"

    def make():
        return script.make(script.METHODS[method], width=8)

    run = run_of(shared, path, make, images(20), method=method, seed=0)
    assert len(run["errors"]) == len(run["seconds"]) == 1
    assert json.loads(path.read_text())["runs"] == [run]
    # It is not run again.
    again = run_of(shared, path, None, images(20), method=method, seed=0)
    assert again == run
    assert script.report([{**run, "method": method}], False, True).row_count == 1


def test_a_greedy_run_trains_each_module_in_turn(scripts):
    _, script, _ = scripts
    method = script.METHODS[script.GREEDY]
    model = script.make(method, width=8)
    before = [[v.numpy() for v in m.trainable_variables] for m in model.modules]
    # Two steps each: the heads begin at zero, so at first they send no gradient back.
    x, y = images(80)
    callbacks = script.schedules(method, 8)(model)
    model.fit(x, y, batch_size=10, callbacks=callbacks, verbose=0)
    for module, old in zip(model.modules, before, strict=True):
        assert any(
            not np.array_equal(a, b.numpy())
            for a, b in zip(old, module.trainable_variables, strict=True)
        ), module.name


@pytest.mark.sampled(3)
@pytest.mark.slow
@pytest.mark.parametrize(
    "method, k",
    [
        ("end to end", 1),
        ("AugLocal", 2),
        ("MAN", 2),
        ("MAN++", 2),
        ("TRGL", 2),
        ("FBA", 4),
        ("ContSup", 4),
    ],
)
def test_the_residual_network_takes_a_step(scripts, method, k, tmp_path, monkeypatch):
    shared, _, script = scripts
    monkeypatch.setattr(script, "CHANNELS", (2, 2, 3, 3))
    run = run_of(
        shared,
        tmp_path / "runs.json",
        lambda: script.make(method, k, 1, blocks=4),
        images(20, 1),
        method=method,
        k=k,
        seed=0,
    )
    assert script.errors([run], method, k) == run["errors"]


def test_the_figure_is_drawn_from_what_there_is(scripts, tmp_path):
    _, _, script = scripts
    runs = [{"method": "end to end", "k": 1, "errors": [9.0], "seconds": [1.0]}]
    runs += [
        {"method": "DGL", "k": k, "errors": [9.0 + k], "seconds": [1.0]} for k in (2, 4)
    ]
    script.draw(runs, [2, 4, 8], tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000
    assert script.report(runs, [2, 4, 8])[0].row_count == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lines", "stocks", "random_parity"])
def test_the_published_breakdowns_take_steps(name, benchmark_script):
    failures = benchmark_script("failures")
    from keras_e2e.experiments import tasks

    experiment = failures.EXPERIMENTS[name]
    make = {"lines": tasks.lines, "stocks": tasks.stocks}.get(name, tasks.random_parity)
    task = make(2, n=400)
    experiment = experiment._replace(window=100, batch=20)
    for mode in filter(None, (experiment.decomposition, "end_to_end")):
        run = failures.train(experiment, task, mode, 0, 200)
        # What stops early does so at the first window above the mark.
        stopped = experiment.stops and run["reached"] is not None
        assert run["steps"] == (run["reached"] if stopped else 200)
        assert len(run["curve"]) == run["steps"] // 100
        above = [value > task.success for value in run["curve"]]
        first = 100 * above.index(True) + 100 if any(above) else None
        assert run["reached"] == first
        assert 0 <= run["test"] <= 1


def test_the_language_model_takes_steps(monkeypatch, benchmark_script):
    script = benchmark_script("language_model")
    for name, value in {"BLOCKS": 2, "WIDTH": 8, "HEADS": 2, "LOOKS": (0.5, 1.0)}.items():
        monkeypatch.setattr(script, name, value)
    train, held_out, characters = script.text()
    assert max(train) < characters and max(held_out) < characters
    monkeypatch.setattr(script, "text", lambda: (train, held_out[:4000], characters))
    found = script.trained("local", 2, seed=0, steps=4)
    # A model that knows nothing has about as many as there are characters.
    assert len(found) == 2 and all(20 < value < 2 * characters for value in found)


def test_modules_at_the_same_time_are_expected_to_wait_as_in_gpipe(benchmark_script):
    expected = benchmark_script("module_parallel").expected
    bubble, speed = expected(9.0, 0.0, devices=2, batches=8)
    assert (bubble, speed) == (pytest.approx(1 / 9), pytest.approx(16 / 9))
    assert expected(9.0, 0.5, devices=2, batches=8)[1] == pytest.approx(1.6)


def test_devices_are_compared_for_every_objective(benchmark_script):
    script = benchmark_script("several_devices")
    compared = {type(make()) for _, make in script.objectives().values()}
    # The decoder of InfoPro has BatchNormalization: that of a replica is of its examples.
    assert {*ALIASES.values()} - compared == {InfoPro}


def test_a_step_of_a_backend_is_measured(benchmark_script, monkeypatch):
    script = benchmark_script("backends")

    def tiny():
        x = inputs = keras.Input((6,))
        for units in (4, 4, 4, 4, 10):
            x = keras.layers.Dense(units)(x)
        return keras.Model(inputs, x)

    monkeypatch.setitem(script.NETWORKS, "tiny", (tiny, 8))
    # Not every TensorFlow counts the memory of a CPU.
    monkeypatch.setattr(script, "peaks_of", lambda step: [step() and 1.0])
    results = {
        f"tiny/graph/{method}": script.one(f"tiny/graph/{method}", repeats=1)
        for method in ("local", "diagnostics")
    }
    assert all(found["ratio"] > 0 for found in results.values())
    assert script.table_of(results).row_count == 1
    failed = {"tiny/jax/local": {"error": "it is refused"}}
    assert script.table_of(failed).row_count == 1


def test_policies_are_trained_and_compared(benchmark_script, capsys):
    script = benchmark_script("rewards_baselines")
    task = "CartPole-v1"
    # In place of an interpreter: a program that fails, and one that does not.
    assert script.available([task], "false") == ([script.OURS], [task])
    assert "stable-baselines3 is not installed" in capsys.readouterr().out
    assert script.available([task], "true")[0] == [script.OURS, script.THEIRS]
    setting = script.SETTINGS[task]._replace(
        env_steps=64, num_envs=2, steps=16, passes=2, batch_size=16, units=4, normalize=True
    )
    found = script.run(script.OURS, task, 0, setting)
    assert len(found["curve"]) == 2 and 0 < found["evaluated"] <= 500
    runs = [
        {"task": task, "side": side, "seed": seed, **found, "last": last}
        for side, lasts in ((script.OURS, [2.0, 2.5]), (script.THEIRS, [1.0, 3.0]))
        for seed, last in enumerate(lasts)
    ]
    assert script.table_of_returns(runs, "last").row_count == 2
    assert script.table_of_speed(runs).row_count == 4
    assert script.within([1.0, 3.0], [2.0, 2.5]) and not script.within([1.0, 1.1], [2.0])


def test_digits_by_reward_counts_runs_and_takes_up_where_it_was_cut_off(
    benchmark_script, tmp_path
):
    script = benchmark_script("rewards_digits")
    noise = np.random.default_rng(0).normal(size=36)

    def run(seed, success):
        curve = [0.5] * 30 + [0.9 if success else 0.5] * 6
        of_task = {"symbols": [None] * 36, "outputs": [*(1e-3 * noise)]}
        snr = {module: [2.0] * 3 + [0.04] * 27 + [0.0] * 6 for module in of_task}
        kept = {"loss": of_task, "skill": of_task, "gradient_snr": snr}
        names = {"k": 3, "regime": "end_to_end", "labels": 0, "rollouts": 36}
        found = {"success": success, "reward": curve[-1], "curve": curve, "numbers": kept}
        return {**names, "seed": seed, **found}

    path = tmp_path / "runs.jsonl"
    lines = [json.dumps(run(seed, seed < 2)) + "\n" for seed in range(5)]
    path.write_text("".join(lines) + lines[0][:50])
    records = script.load(path)
    assert [record["seed"] for record in records] == [0, 1, 2, 3, 4]
    assert "| end_to_end | none | 2/5 (.500) [.12, .77] |" in script.table(records)
    rows = script.signals(records).splitlines()
    assert rows[2].startswith("| 3 | 2 succeed | 0.040 (0.040 to 0.040) |")
    assert rows[3].endswith("| 3 starved |")
    script.draw(records, 1024, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_a_grid_world_shows_what_minigrid_shows(benchmark_script):
    pytest.importorskip("minigrid")
    import gymnasium

    script = benchmark_script("_minigrid")
    for world in script.WORLDS.values():
        quick = script.QuickView(gymnasium.make(world.env_id))
        stock, rng = gymnasium.make(world.env_id), np.random.default_rng(0)
        for seed in range(3):
            found = [env.reset(seed=seed) for env in (quick, stock)]
            for _ in range(40):
                np.testing.assert_array_equal(*(step[0]["image"] for step in found))
                action = int(rng.choice(world.actions))
                found = [env.step(action) for env in (quick, stock)]
                if any(found[0][2:4]):
                    break


@pytest.mark.slow
def test_a_grid_world_is_trained_in_every_phase(benchmark_script, monkeypatch, tmp_path):
    pytest.importorskip("minigrid")
    script = benchmark_script("rewards_minigrid")
    for name, value in {"NUM_ENVS": 2, "STEPS": 16, "WIDTH": 4}.items():
        monkeypatch.setattr(script.grid, name, value)
    monkeypatch.setattr(script, "BATCH", 32)
    monkeypatch.setattr(script, "EVALUATED", 2)
    world = script.grid.WORLDS["Empty-5x5"]._replace(env_steps=64)
    runs = []
    for name in ("InfoNCE", "pre-trained"):
        run = script.train(world, script.REGIMES[name], seed=0)
        phases = len(script.REGIMES[name].phases)
        assert len(run["curve"]) == max(phases, 2) and 0 <= run["success"] <= 1
        runs.append({**run, "world": "Empty-5x5", "regime": name, "seed": 0})
    table = script.reports.report(runs, "Empty-5x5", script.REGIMES)
    assert table.row_count == len(runs)
    script.reports.draw(runs, dict.fromkeys(script.REGIMES, "k"), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_an_update_is_compared_weight_by_weight(benchmark_script):
    script = benchmark_script("rewards_update")
    setting = script.SETTINGS["CartPole-v1"]._replace(batch_size=4, units=4)
    rng = np.random.default_rng(0)
    model = script.networks("CartPole-v1", setting, seed=1)
    found = {
        "observations": rng.normal(size=(4, 2, 4)),
        "final": rng.normal(size=(4, 2, 4)),
        "actions": rng.integers(2, size=(4, 2, 1)),
        "rewards": np.ones((4, 2)),
        "terminated": np.zeros((4, 2), bool),
        "truncated": rng.random((4, 2)) < 0.5,
        "orders": np.stack([rng.permutation(8) for _ in range(2)]),
        **{name: np.zeros((4, 2)) for name in ("log_probs", "advantages", "returns")},
    }
    said = model.predict(found["observations"].reshape(8, 4), verbose=0)
    found["values"] = said["value"].reshape(4, 2)
    for ours, theirs in script.LAYERS.items():
        kernel, bias = model.get_layer(ours).get_weights()
        for when, moved in (("before", 0), ("after", 1)):
            found[f"{when}/{theirs}.weight"] = kernel.T + moved
            found[f"{when}/{theirs}.bias"] = bias + moved
    numbers = script.compare("CartPole-v1", setting, found)
    assert numbers["values"] < 1e-6 and numbers["cut"] == found["truncated"].sum()
    assert numbers["returns"] > 0.5 and numbers["updates"] == 4
    # Each weight should have moved by 1, and moves by the learning rate at most each time.
    assert 0.99 < numbers["weights"] < 1.01
    script.begin_with(model, found)
    assert script.distance(model, found) == pytest.approx(1.0)

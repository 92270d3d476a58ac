"""Promise 4: every objective and quantity works however Keras runs a step."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from . import cases, models

ROOT = pathlib.Path(__file__).parents[2]
WAYS = {
    "eager": {"run_eagerly": True},
    "graph": {},
    "xla": {"jit_compile": True},
    "several-steps": {"steps_per_execution": 3},
}


def script(name, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"tests.conformance.{name}", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
    )


def train(case, way, optimizer=None, n=22, quantities=None):
    """Weights, loss and quantities; 22 examples in batches of 8 leave a partial one."""
    optimizer = optimizer or keras.optimizers.SGD(0.05)
    model = case.compiled(case.mode, optimizer, **WAYS[way])
    x, y = case.data(n)
    quantities = quantities or (lambda: cases.enough_for(case))
    diagnose = cases.Diagnose(quantities=quantities)
    history = cases.fit(model, x, y, callbacks=[diagnose])
    return cases.values(model.weights), history.history["loss"], diagnose.recorder.read()


@cases.each_computed
def test_eager_graph_xla_and_several_steps_agree(case):
    weights, loss, read = train(case, "graph")
    # XLA draws other random numbers from the same seed. Step by step and eagerly, one of
    # each class is enough: there is nothing about a head in how Keras runs a step.
    ways = [] if case.draws else ["xla"]
    ways += ["eager", "several-steps"] if case in cases.DISTINCT else []
    assert ways
    for way in ways:
        others, other_loss, other_read = train(case, way)
        for ours, theirs in zip(weights, others, strict=True):
            np.testing.assert_allclose(theirs, ours, rtol=2e-3, atol=2e-5, err_msg=way)
        np.testing.assert_allclose(other_loss, loss, rtol=1e-4, err_msg=way)
        assert_read_alike(other_read, read, way)


def assert_read_alike(found, expected, way):
    for quantity, modules in expected.items():
        assert set(modules) == set(found[quantity]), (way, quantity)
        for module, value in modules.items():
            np.testing.assert_allclose(
                found[quantity][module],
                value,
                rtol=2e-2,
                atol=1e-4,
                err_msg=f"{way} {quantity} {module}",
            )


def test_further_passes_are_made_however_a_step_runs():
    case = cases.BY_NAME["prediction-conv1"]
    _, _, read = train(case, "graph", quantities=cases.everything)
    for quantity in set(cases.QUANTITIES) - {"signal_gain"}:
        assert len(read[quantity]) >= 2, quantity
    for way in ("eager", "xla", "several-steps"):
        _, _, other = train(case, way, quantities=cases.everything)
        assert_read_alike(other, read, way)


@cases.each_computed
def test_mixed_precision_is_close_to_float32(case):
    # Small steps: a few large ones lead the two precisions to different places.
    _, loss, read = train(case, "graph", keras.optimizers.SGD(0.01), n=24)
    keras.config.set_dtype_policy("mixed_float16")
    # Keras's first loss scale, 2 ** 15, overflows on some of these models: as it is meant
    # to, but such a step has no gradients to compare.
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.01), initial_scale=2.0**6
    )
    weights, half_loss, half_read = train(case, "graph", optimizer, n=24)
    assert all(np.isfinite(w).all() for w in weights)
    np.testing.assert_allclose(half_loss, loss, rtol=0.02, atol=0.02)
    for quantity in ("grad_rms", "signal_gain", "loss"):
        for module, value in read[quantity].items():
            np.testing.assert_allclose(
                half_read[quantity][module],
                value,
                rtol=0.1,
                atol=0.02,
                err_msg=f"{quantity} {module}",
            )


# Statistics of a batch leave such examples out; a BatchNorm in a head cannot.
ALONE = {"sim", "predsim-conv", "supcon", "barlow_twins", "vicreg", "view_contrast"}


@pytest.mark.parametrize(
    "case",
    [c for c in cases.OBJECTIVES if not c.batch_statistics or c.name in ALONE],
    ids=lambda c: c.name,
)
def test_an_example_of_weight_zero_teaches_nothing(case):
    x, y = case.data(8)
    weight = np.array([1, 1, 0, 1, 0, 1, 1, 1], "float32")
    results = []
    for noise in (0.0, 3.0):
        changed = np.where(
            weight.reshape(-1, *[1] * (x.ndim - 1)) == 0, x + np.float32(noise), x
        )
        model = case.compiled("local", keras.optimizers.SGD(0.1))
        cases.fit(model, changed, y, sample_weight=weight)
        results.append(cases.values(model.weights))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """Trains and saves every case, lets a fresh process go on, and goes on here too."""
    folder = tmp_path_factory.mktemp("resumed")
    ours = {}
    trained = {}
    for case in cases.DISTINCT:
        model = case.compiled("local", keras.optimizers.Adam(0.01))
        x, y = case.data(16)
        cases.fit(model, x, y)
        model.save(folder / f"{case.name}.keras")
        trained[case.name] = model
    run = script("resume", folder)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    for case in cases.DISTINCT:
        model = trained[case.name]
        x, y = case.data(16)
        predicted = models.flat(model.predict(x, verbose=0))
        cases.fit(model, x, y)
        ours[case.name] = [*predicted, *cases.values(model.weights)]
    return folder, ours


@cases.each_distinct
def test_a_saved_model_goes_on_in_a_fresh_process(case, resumed):
    folder, ours = resumed
    with np.load(folder / f"{case.name}.npz") as file:
        theirs = list(file.values())
    assert len(theirs) == len(ours[case.name])
    if case.draws:  # Keras saves no state of a random generator
        assert all(np.isfinite(b).all() for b in theirs)
        return
    for a, b in zip(ours[case.name], theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@cases.each_distinct
def test_weights_and_saved_model_files_hold_the_same_model(case, tmp_path):
    model = case.compiled("local")
    x, y = case.data(16)
    cases.fit(model, x, y)
    model.save_weights(tmp_path / "model.weights.h5")
    other = case.compiled("local", seed=2)
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
        other.load_weights(tmp_path / "model.weights.h5")  # it has not trained yet
    assert models.same(cases.values(model.weights), cases.values(other.weights))
    if case.name == "prediction":  # the exported function holds no head: one will do
        import tensorflow as tf

        model.export(tmp_path / "exported", verbose=False)
        exported = tf.saved_model.load(tmp_path / "exported")
        np.testing.assert_allclose(
            exported.serve(x), model.predict(x, verbose=0), rtol=1e-5, atol=1e-6
        )


def test_two_devices_give_the_result_of_one():
    run = script("mirrored")
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert "compared" in run.stdout

"""Promise 4: every objective and quantity works however Keras runs a step.

Under XLA: `under_xla.py`.
"""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from . import cases, models

on_tensorflow = keras.backend.backend() == "tensorflow"
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
        env=os.environ,
    )


class Watch(keras.callbacks.Callback):
    """Notes weights, the mean loss and what is measured after each execution."""

    def __init__(self, quantities):
        super().__init__()
        self.diagnose = cases.Diagnose(quantities=quantities)
        self.seen = []

    def set_model(self, model):
        super().set_model(model)
        self.diagnose.set_model(model)

    def on_train_begin(self, logs=None):
        self.diagnose.on_train_begin()

    def on_train_batch_begin(self, batch, logs=None):
        self.diagnose.on_train_batch_begin(batch)

    def on_train_batch_end(self, batch, logs=None):
        read = self.diagnose.recorder.read()
        self.seen.append((cases.values(self.model.weights), float(logs["loss"]), read))


def compiled(case, way, optimizer=None):
    optimizer = optimizer or keras.optimizers.SGD(0.05)
    return case.compiled(case.mode, optimizer, **WAYS[way])


def train(model, case, n=22, first=None, quantities=None):
    """What there is after each execution, on the first of n examples or on all of them.

    Of 22 examples the last batch is partial.
    """
    watch = Watch(quantities or (lambda: cases.enough_for(case)))
    x, y = keras.tree.map_structure(lambda t: t[:first], case.data(n))
    cases.fit(model, x, y, callbacks=[watch])
    return watch.seen


def assert_alike(found, expected, way):
    for ours, theirs in zip(expected[0], found[0], strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=2e-3, atol=2e-5, err_msg=way)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4, err_msg=way)
    assert_read_alike(found[2], expected[2], way)


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


@pytest.mark.sampled(6)
@pytest.mark.slow
@cases.each_computed
def test_a_step_is_the_same_however_keras_runs_it(case):
    model = compiled(case, "graph")
    start = cases.Start(model)
    seen = train(model, case)
    # Eagerly and in several steps one case of each class is enough: there is nothing about
    # a head in how Keras runs a step.
    for way in ("eager", "several-steps") if case in cases.DISTINCT else ():
        assert_alike(train(compiled(case, way), case)[-1], seen[-1], way)
    if on_tensorflow:
        # Small steps: a few large ones lead the two precisions to different places.
        start.restore()
        model.optimizer.learning_rate = 0.01
        assert_half_precision_is_close(case, train(model, case, n=24)[-1])


def assert_half_precision_is_close(case, expected):
    _, loss, read = expected
    keras.config.set_dtype_policy("mixed_float16")
    # Keras's first loss scale, 2 ** 15, overflows on some of these models: as it is meant
    # to, but such a step has no gradients to compare.
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.01), initial_scale=2.0**6
    )
    half = compiled(case, "graph", optimizer)
    weights, half_loss, half_read = train(half, case, n=24)[-1]
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


@pytest.mark.slow
def test_further_passes_are_made_however_a_step_runs():
    case = cases.BY_NAME["prediction-conv1"]
    *_, (_, _, read) = train(compiled(case, "graph"), case, quantities=cases.everything)
    for quantity in set(cases.QUANTITIES) - {"signal_gain", "skill"}:
        assert len(read[quantity]) >= 2, quantity
    for way in ("eager", "several-steps"):
        seen = train(compiled(case, way), case, quantities=cases.everything)
        assert_read_alike(seen[-1][2], read, way)


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
    model = case.compiled("local", keras.optimizers.SGD(0.1))
    start = cases.Start(model)
    results = []
    for noise in (0.0, 3.0):
        changed = np.where(
            weight.reshape(-1, *[1] * (x.ndim - 1)) == 0, x + np.float32(noise), x
        )
        start.restore()
        cases.fit(model, changed, y, sample_weight=weight)
        results.append(cases.values(model.weights))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """Trains and saves every case, lets a fresh process go on, and goes on here too."""
    folder = tmp_path_factory.mktemp("resumed")
    trained = {}
    for case in cases.DISTINCT:
        model = case.compiled("local", keras.optimizers.Adam(0.01))
        cases.fit(model, *case.data(16))
        model.save(folder / f"{case.name}.keras")
        model.save_weights(folder / f"{case.name}.weights.h5")
        trained[case.name] = model, cases.values(model.weights)
    run = script("resume", folder)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    ours = {}
    for case in cases.DISTINCT:
        model, weights = trained[case.name]
        x, y = case.data(16)
        predicted = models.flat(model(x, training=False))
        cases.fit(model, x, y)
        ours[case.name] = weights, [*predicted, *cases.values(model.weights)]
    return folder, ours


@pytest.mark.slow
@cases.each_distinct
def test_a_saved_model_goes_on_in_a_fresh_process(case, resumed):
    folder, ours = resumed
    _, expected = ours[case.name]
    with np.load(folder / f"{case.name}.npz") as file:
        theirs = list(file.values())
    assert len(theirs) == len(expected)
    if case.draws:  # Keras saves no state of a random generator
        assert all(np.isfinite(b).all() for b in theirs)
        return
    for a, b in zip(expected, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@cases.each_distinct
def test_a_file_of_weights_holds_them_all(case, resumed):
    folder, ours = resumed
    weights, _ = ours[case.name]
    other = case.compiled("local", seed=2)
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
        other.load_weights(folder / f"{case.name}.weights.h5")  # it has not trained yet
    assert models.same(weights, cases.values(other.weights))


@pytest.mark.skipif(not on_tensorflow, reason="a SavedModel of TensorFlow")
def test_an_exported_model_predicts_the_same(tmp_path):
    """The exported function holds no head: one case will do."""
    import tensorflow as tf

    case = cases.BY_NAME["prediction"]
    model = case.compiled("local")
    x, y = case.data(16)
    cases.fit(model, x, y)
    model.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(
        exported.serve(x), model.predict(x, verbose=0), rtol=1e-5, atol=1e-6
    )


@pytest.mark.slow
@pytest.mark.skipif(not on_tensorflow, reason="MirroredStrategy of TensorFlow")
def test_two_devices_give_the_result_of_one():
    """Of ten objectives, others in each run; `mirrored.py` alone has all."""
    run = script("mirrored", 10, int.from_bytes(os.urandom(2)))
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert "compared" in run.stdout

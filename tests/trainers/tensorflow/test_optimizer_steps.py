"""What is measured, and at which step, against plain TensorFlow with the stock optimizer.

The optimizer may skip a batch (loss scaling), or take several for one step (accumulation).
"""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, optimizers

import keras_e2e as e2e
from keras_e2e.callbacks import ModuleDiagnostics
from keras_e2e.diagnostics import (
    GradientSNR,
    GradRMS,
    ModuleLoss,
    NoiseScale,
    Quantity,
    Reliability,
    UpdateRatio,
)

X = np.random.default_rng(0).normal(size=(96, 5)).astype("float32")
Y = 5 + X[:, :1] - X[:, 1:2]
SIZE = 4
MODULES = ("a", "b", "out")


def network():
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(8, "tanh", name="a"),
            layers.Dense(8, "relu", name="b"),
            layers.Dense(1, dtype="float32", name="out"),
        ]
    )


def scaled(optimizer, scale, growth=2000):
    return optimizers.LossScaleOptimizer(optimizer, scale, growth)


# The policy, the optimizer, the batches of one step.
CASES = {
    "plain": ("float32", lambda: optimizers.Adam(0.01), 1),
    "bfloat16": ("mixed_bfloat16", lambda: optimizers.Adam(0.01), 1),
    "overflow": ("mixed_float16", lambda: scaled(optimizers.SGD(0.01), 2.0**18), 1),
    "growth": ("mixed_float16", lambda: scaled(optimizers.Adam(0.01), 16.0, 3), 1),
    "grows too far": ("mixed_float16", lambda: scaled(optimizers.SGD(0.01), 2.0**12, 2), 1),
    "accumulation": (
        "float32",
        lambda: optimizers.SGD(0.05, 0.9, gradient_accumulation_steps=4),
        4,
    ),
    "both": (
        "mixed_float16",
        lambda: scaled(optimizers.SGD(0.01, gradient_accumulation_steps=3), 2.0**17),
        3,
    ),
    "factor": ("float32", lambda: optimizers.SGD(0.01, loss_scale_factor=128.0), 1),
}
each_case = pytest.mark.parametrize("case", CASES)


def norm(tensors):
    return np.sqrt(sum(np.sum(np.asarray(t, "float64") ** 2) for t in tensors))


def by_hand(optimizer, epochs=1):
    """Loop of plain TensorFlow: by step what it did."""
    model = network()
    optimizer.build(model.trainable_variables)
    found = {}
    for _, start in itertools.product(range(epochs), range(0, len(X), SIZE)):
        x, y = X[start : start + SIZE], Y[start : start + SIZE]
        scale = float(optimizer.scale_loss(tf.ones(())))
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
            total = optimizer.scale_loss(loss)
        variables = model.trainable_variables
        gradients = [np.asarray(g) / scale for g in tape.gradient(total, variables)]
        with tf.GradientTape() as tape:
            total = optimizer.scale_loss(tf.reduce_mean((model(x, training=True) - y) ** 2))
        steps, before = int(optimizer.iterations), [v.numpy() for v in variables]
        optimizer.apply_gradients(
            zip(tape.gradient(total, variables), variables, strict=True)
        )
        if int(optimizer.iterations) > steps:
            found[steps + 1] = {}
            for i, name in enumerate(MODULES):
                own = slice(2 * i, 2 * i + 2)
                moved = [
                    v.numpy() - b for v, b in zip(variables[own], before[own], strict=True)
                ]
                found[steps + 1][name] = {
                    "grad_rms": norm(gradients[own])
                    / np.sqrt(sum(b.size for b in before[own])),
                    "update_ratio": norm(moved) / norm(before[own]),
                }
            found[steps + 1]["out"]["loss"] = float(loss)
    return found


def fit(optimizer, update_freq=1, quantities=None, epochs=1, **options):
    quantities = quantities or [ModuleLoss(), GradRMS(), UpdateRatio(), GradientSNR()]
    watch = ModuleDiagnostics(update_freq, quantities)
    model = e2e.modularize(network(), ["a", "b"])
    model.compile(optimizer, "mse", **options)
    model.fit(X, Y, SIZE, epochs, verbose=0, shuffle=False, callbacks=[watch])
    return watch


def assert_same(watch, expected, rtol):
    for index, step in enumerate(watch.steps):
        for module, numbers in expected[step].items():
            for quantity, value in numbers.items():
                np.testing.assert_allclose(
                    watch.history[quantity][module][index],
                    value,
                    rtol=rtol,
                    err_msg=f"{quantity} of {module} at step {step}",
                )


@each_case
def test_the_numbers_are_those_of_a_loop_in_plain_tensorflow(case):
    policy, optimizer, batches = CASES[case]
    keras.config.set_dtype_policy(policy)
    expected = by_hand(optimizer(), epochs=2)
    watch = fit(optimizer(), epochs=2)
    assert len(expected) <= 48 // batches
    missed = sorted(set(expected) - set(watch.steps))
    if "mixed_float16" not in policy:
        assert not missed
    # After a batch that was skipped the next try is a few batches later.
    assert len(missed) <= 3 * (48 // batches - len(expected)), missed
    assert watch.steps == sorted(set(watch.steps))
    assert set(watch.steps) <= set(expected)
    rtol = {"float32": 1e-4, "mixed_float16": 0.02, "mixed_bfloat16": 0.1}[policy]
    assert_same(watch, expected, rtol)
    for module in MODULES:
        assert np.isfinite(watch.history["gradient_snr"][module][1:]).all()


@pytest.mark.parametrize(
    "way",
    [{"run_eagerly": True}, {"jit_compile": True}, {"steps_per_execution": 3}],
    ids=str,
)
@pytest.mark.parametrize("case", ["plain", "overflow", "both"])
def test_the_numbers_are_the_same_however_keras_runs_a_step(case, way):
    policy, optimizer, _ = CASES[case]
    keras.config.set_dtype_policy(policy)
    expected = by_hand(optimizer(), epochs=2)
    watch = fit(optimizer(), epochs=2, **way)
    assert len(watch.steps) >= 4
    assert watch.steps == sorted(set(watch.steps))
    assert_same(watch, expected, {"float32": 1e-4, "mixed_float16": 0.03}[policy])


def test_with_accumulation_steps_are_iterations():
    watch = fit(CASES["accumulation"][1](), update_freq=5, epochs=3)
    assert watch.steps == [1, 6, 11, 16]
    for module in MODULES:
        assert min(watch.history["update_ratio"][module]) > 1e-6
        assert watch.verdicts()[module].state != "frozen"


def test_a_step_that_takes_more_batches_than_an_epoch_has_is_measured_at_its_end():
    optimizer = optimizers.SGD(0.05, gradient_accumulation_steps=5)
    watch = ModuleDiagnostics(1, [UpdateRatio()])
    model = e2e.modularize(network(), ["a", "b"])
    model.compile(optimizer, "mse")
    model.fit(X[:8], Y[:8], SIZE, epochs=7, verbose=0, callbacks=[watch])
    assert watch.steps == [1, 2]
    model.fit(X[:8], Y[:8], SIZE, epochs=3, verbose=0, callbacks=[watch])
    assert watch.steps == [3, 4]
    assert min(watch.history["update_ratio"]["a"]) > 1e-6


def test_a_group_of_optimizers_counts_the_steps_of_its_default():
    default = optimizers.SGD(0.05, gradient_accumulation_steps=4)
    watch = fit(e2e.ModuleOptimizers(default), update_freq=2)
    assert watch.steps == [1, 3, 5]
    assert min(watch.history["update_ratio"]["a"]) > 1e-6


def test_it_is_measured_where_every_module_is_updated():
    longer = {"a": optimizers.SGD(0.05, gradient_accumulation_steps=4)}
    watch = fit(e2e.ModuleOptimizers(optimizers.SGD(0.05), longer), update_freq=6)
    assert watch.steps == [4, 16]
    for module in MODULES:
        assert min(watch.history["update_ratio"][module]) > 1e-6


class Count(Quantity):
    """How many measurements there were, and the sum of the losses."""

    name, formula = "count", "number of measurements"
    extra_outputs = ("sum",)

    def init_state(self, shapes):
        return [(), ()]

    def compute(self, module, state):
        if module.loss is None:
            return None, state
        count, total = state[0] + 1.0, state[1] + module.loss
        return (count, total), [count, total]


def test_a_skipped_step_leaves_what_is_kept_as_it_was():
    keras.config.set_dtype_policy("mixed_float16")
    watch = fit(CASES["grows too far"][1](), quantities=[Count(), ModuleLoss()])
    counts, sums = watch.history["count"]["out"], watch.history["sum"]["out"]
    losses = watch.history["loss"]["out"]
    assert len(counts) < 24, "some were skipped"
    assert np.isfinite(losses).all()
    assert counts == [*range(1, len(counts) + 1)]
    np.testing.assert_allclose(sums, np.cumsum(losses), rtol=1e-4)


def test_a_half_that_overflows_is_left_out():
    """Each example and the whole are in range; the sum over one half is not."""
    keras.config.set_dtype_policy("mixed_float16")
    x = np.ones((64, 1), "float32")
    opposed = np.repeat([1.0, -1.0], 32)[:, None].astype("float32")
    calm = np.tile([[0.1], [0.05]], (32, 1)).astype("float32")
    base = keras.Sequential(
        [
            keras.Input((1,)),
            layers.Dense(1, kernel_initializer="zeros", name="a"),
            layers.Dense(1, kernel_initializer="ones", name="out"),
        ]
    )
    model = e2e.modularize(base, ["a"])
    model.compile(scaled(optimizers.SGD(0.01), 2.0**17), "mse")
    watch = ModuleDiagnostics(
        1, [NoiseScale(schedule=1), Reliability(schedule=1), GradRMS()]
    )
    data = tf.data.Dataset.from_tensor_slices(
        (np.stack([x] * 4), np.stack([opposed, calm, calm, calm]))
    )
    model.fit(data, verbose=0, callbacks=[watch])
    assert watch.steps == [1, 2, 3, 4], "no batch overflows"
    for quantity in ("noise_scale", "reliability"):
        values = watch.history[quantity]["a"]
        assert np.isnan(values[0]), quantity
        assert not np.isnan(values[1:]).any(), quantity
    np.testing.assert_allclose(watch.history["reliability"]["a"][1:], 1.0, atol=1e-3)


def test_a_step_that_breaks_the_weights_is_seen():
    watch = fit(optimizers.SGD(1e30))
    assert watch.steps == [*range(1, 25)]
    assert not np.isfinite(watch.history["grad_rms"]["a"][-10:]).any()
    assert watch.verdicts()["a"].state == "exploding"


def test_gradients_that_no_scale_mends_are_seen():
    """Every batch is skipped, while the scale falls to nothing."""
    keras.config.set_dtype_policy("mixed_float16")
    model = e2e.modularize(network(), ["a", "b"])
    model.compile(scaled(optimizers.SGD(0.01), 2.0**4), "mse")
    watch = ModuleDiagnostics(2, [ModuleLoss(), GradRMS(), GradientSNR()])
    x = X.copy()
    x[:, 0] = np.nan
    model.fit(x, Y, SIZE, verbose=0, epochs=2, callbacks=[watch])
    assert int(model.optimizer.iterations) == 0
    assert 15 < len(watch.steps) < 24, "not as long as the scale may be to blame"
    assert watch.steps == sorted(set(watch.steps))
    assert np.isnan(watch.history["grad_rms"]["a"]).all()


def test_a_model_without_a_weight_to_train_is_measured():
    base = network()
    base.trainable = False
    model = e2e.modularize(base, ["a", "b"])
    model.compile("sgd", "mse")
    watch = ModuleDiagnostics(6, [ModuleLoss()])
    with pytest.warns(UserWarning, match="nothing to train|no trainable"):
        model.fit(X, Y, SIZE, verbose=0, callbacks=[watch])
    assert len(watch.steps) == len(set(watch.steps)) == 4
    assert np.isfinite(watch.history["loss"]["out"]).all()

"""One optimizer for each module: the use, and what Keras does with an optimizer."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import optimizers

from keras_e2e.optimizers.module_optimizers import ModuleOptimizers
from tests.conformance import cases, models

MODULES = ("first", "second", "out")
WAYS = {
    "graph": {},
    "eager": {"run_eagerly": True},
    "xla": {"jit_compile": True},
    "several-steps": {"steps_per_execution": 2},
}
CASE = cases.BY_NAME["prediction"]


def compiled(optimizer, mode="deep_supervision", seed=1, **kwargs):
    return CASE.compiled(mode, optimizer, seed, **kwargs)


def trained(optimizer, mode="deep_supervision", epochs=2, n=22, model=None, **kwargs):
    callbacks = kwargs.pop("callbacks", [])
    model = model or compiled(optimizer, mode, **kwargs)
    cases.fit(model, *CASE.data(n), epochs=epochs, callbacks=callbacks)
    return model


def all_variables(module):
    return [*module.trainable_variables, *module.head_variables]


def moves(model, before):
    """How far each module has moved, as one array by name."""
    after = {m.name: cases.values(all_variables(m)) for m in model.modules}
    return {
        name: np.concatenate(
            [(b - a).ravel() for b, a in zip(before[name], new, strict=True)]
        )
        for name, new in after.items()
    }


def one_step(optimizer, mode="deep_supervision", steps=1):
    """What a module's weights lost in a few steps on the same batch."""
    model = compiled(optimizer, mode)
    before = {m.name: cases.values(all_variables(m)) for m in model.modules}
    x, y = CASE.data(8)
    for _ in range(steps):
        model.train_on_batch(x, y)
    return moves(model, before)


def rates(optimizer):
    return [float(optimizer.optimizer_of(m).learning_rate) for m in MODULES]


def mixed():
    sgd = optimizers.SGD(0.1, momentum=0.9)
    return ModuleOptimizers(optimizers.Adam(0.01), {"second": sgd, "out": "adamw"})


# What it computes


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_the_same_optimizer_everywhere_gives_the_weights_of_the_plain_one(way):
    def adam():
        optimizer = optimizers.AdamW(0.01, weight_decay=0.1, clipvalue=0.05)
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        return optimizer

    plain = trained(adam(), **WAYS[way])
    ours = trained(ModuleOptimizers(adam(), {"second": adam()}), **WAYS[way])
    assert models.same(cases.weights(plain), cases.weights(ours))
    assert int(ours.optimizer.iterations) == int(plain.optimizer.iterations) == 6


def test_each_module_has_a_learning_rate_of_its_own():
    gradients = one_step(optimizers.SGD(1.0))
    schedule = optimizers.schedules.PiecewiseConstantDecay([0], [0.5, 9.0])
    optimizer = ModuleOptimizers(
        optimizers.SGD(0.25), {"second": optimizers.SGD(schedule), "out": "sgd"}
    )
    moved = one_step(optimizer)
    for name, rate in zip(MODULES, (0.25, 0.5, 0.01), strict=True):
        np.testing.assert_allclose(moved[name], rate * gradients[name], atol=1e-6)


def test_clipping_is_by_module_its_head_included():
    gradients = one_step(optimizers.SGD(1.0))
    optimizer = ModuleOptimizers(
        optimizers.SGD(1.0, global_clipnorm=0.03),
        {"second": optimizers.SGD(1.0, clipvalue=0.01)},
    )
    moved = one_step(optimizer)
    for name in ("first", "out"):
        expected = gradients[name] * 0.03 / np.linalg.norm(gradients[name])
        np.testing.assert_allclose(moved[name], expected, rtol=1e-4, atol=1e-7)
    expected = np.clip(gradients["second"], -0.01, 0.01)
    np.testing.assert_allclose(moved["second"], expected, atol=1e-6)


def test_accumulation_is_by_module():
    def accumulating():
        return optimizers.SGD(0.1, gradient_accumulation_steps=2)

    moved = one_step(ModuleOptimizers(optimizers.SGD(0.1), {"second": accumulating()}))
    assert moved["first"].any() and not moved["second"].any()
    plain, ours = trained(accumulating()), trained(ModuleOptimizers(accumulating()))
    assert models.same(cases.weights(plain), cases.weights(ours))
    assert int(plain.optimizer.iterations) == int(ours.optimizer.iterations) == 3


@pytest.mark.filterwarnings("ignore:.*the variables of whole modules:UserWarning")
def test_averages_are_written_for_modules_that_were_trained():
    def averaging():
        return optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)

    plain, ours = trained(averaging()), trained(ModuleOptimizers(averaging()))
    assert models.same(cases.weights(plain), cases.weights(ours))
    model = compiled(ModuleOptimizers(averaging()))
    cases.force_mode(model, cases.only("first"))
    still = cases.values(all_variables(model.modules[1]))
    trained(None, model=model)
    assert models.same(still, cases.values(all_variables(model.modules[1])))
    with pytest.raises(ValueError, match="use_ema"):
        model.training_mode = "sequential:first"


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX applies to all")
def test_only_the_module_in_training_steps():
    model = trained(mixed(), "sequential:second", epochs=1)
    counts = {m: int(model.optimizer.optimizer_of(m).iterations) for m in MODULES}
    assert counts == {"first": 0, "second": 3, "out": 0}
    assert int(model.optimizer.iterations) == 3


def test_variables_of_no_module_go_to_the_default():
    optimizer = ModuleOptimizers(optimizers.SGD(0.5), {"a": optimizers.SGD(0.1)})
    inside, outside = keras.Variable([1.0]), keras.Variable([1.0])
    optimizer.bind({"a": [inside]})
    optimizer.build([outside, inside])
    optimizer.apply([keras.ops.ones(1), keras.ops.ones(1)])
    assert [float(outside.value[0]), float(inside.value[0])] == pytest.approx([0.5, 0.9])
    assert len(optimizer.variables) == 5 and optimizer.learning_rate.value == 0.5


def test_loss_scale_factor_of_the_default_holds_for_all():
    plain = trained(optimizers.SGD(0.1, loss_scale_factor=64.0))
    ours = trained(
        ModuleOptimizers(
            optimizers.SGD(0.1, loss_scale_factor=64.0), {"out": optimizers.SGD(0.1)}
        )
    )
    assert models.same(cases.weights(plain), cases.weights(ours))


# Learning rates


def test_callbacks_move_all_rates_by_one_factor():
    schedule = optimizers.schedules.ExponentialDecay(0.3, 1000, 0.9)
    optimizer = ModuleOptimizers(
        optimizers.Adam(0.01),
        {"first": optimizers.SGD(0.1), "out": optimizers.SGD(schedule)},
    )
    seen = []
    planned = [0.02, 0.0, 0.005]
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch, rate: planned[epoch])
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(
            (logs["learning_rate"], rates(optimizer))
        )
    )
    trained(optimizer, epochs=3, callbacks=[scheduler, watch])
    for (logged, (first, second, out)), rate in zip(seen, planned, strict=True):
        assert [logged, first, second] == pytest.approx([rate, 10 * rate, rate])
        assert out == pytest.approx(0.3, rel=1e-2)


def test_reduce_on_plateau_keeps_the_ratio():
    optimizer = ModuleOptimizers(optimizers.SGD(0.1), {"first": optimizers.SGD(0.01)})
    plateau = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=9)
    trained(optimizer, epochs=3, callbacks=[plateau])
    assert rates(optimizer) == pytest.approx([0.0025, 0.025, 0.025])


def test_setting_the_rate_it_has_changes_no_bit():
    optimizer = ModuleOptimizers(optimizers.SGD(0.003), {"first": optimizers.SGD(0.07)})
    before = float(optimizer.optimizer_of("first").learning_rate)
    optimizer.learning_rate = 0.0
    optimizer.learning_rate = 0.003
    assert float(optimizer.optimizer_of("first").learning_rate) == before


def test_a_rate_of_zero_in_the_config_keeps_the_ratio():
    optimizer = ModuleOptimizers(optimizers.SGD(0.1), {"first": optimizers.SGD(0.01)})
    optimizer.learning_rate = 0.0
    again = optimizers.get(optimizers.serialize(optimizer))
    again.learning_rate = 1.0
    assert float(again.optimizer_of("first").learning_rate) == pytest.approx(0.1)
    optimizer.learning_rate = 1.0
    assert again.get_config() == optimizer.get_config()


def test_rates_that_cannot_be_set():
    schedule = optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    optimizer = ModuleOptimizers(optimizers.SGD(schedule), {"out": "sgd"})
    with pytest.raises(TypeError, match="LearningRateSchedule"):
        optimizer.learning_rate = 0.1
    optimizer = ModuleOptimizers("sgd")
    with pytest.raises(TypeError, match=r"number only\. Found: ExponentialDecay"):
        optimizer.learning_rate = schedule
    optimizer = ModuleOptimizers(optimizers.SGD(0.0), {"out": "sgd"})
    with pytest.raises(ValueError, match=r"rates of \['out'\] have no ratio"):
        optimizer.learning_rate = 0.1
    assert float(optimizer.learning_rate) == 0.0


# Saving


def test_saved_state_resumes_to_the_bit(tmp_path):
    model = trained(mixed())
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert models.same(values_of(model), values_of(again))
    for each in (model, again):
        trained(None, model=each)
    assert models.same(cases.weights(model), cases.weights(again))
    assert models.same(values_of(model), values_of(again))
    assert again.optimizer.get_config() == model.optimizer.get_config()
    assert len(model.get_state_tree()["optimizer_variables"]) == 5  # names are unique


def values_of(model):
    return cases.values(model.optimizer.variables)


def test_saved_before_training_and_by_callbacks(tmp_path):
    fresh, model = compiled(mixed()), compiled(mixed())
    model.save(tmp_path / "model.keras")
    with pytest.warns(UserWarning, match="Skipping variable loading"):  # as in Keras
        loaded = keras.models.load_model(tmp_path / "model.keras")
    kept = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.weights.h5", "loss")
    kept.save_weights_only = True
    backup = keras.callbacks.BackupAndRestore(tmp_path / "b", delete_checkpoint=False)
    trained(None, model=loaded, callbacks=[kept, backup])
    trained(None, model=fresh, callbacks=[backup])  # goes on where that one ended
    assert models.same(values_of(loaded), values_of(fresh))
    assert models.same(cases.weights(loaded), cases.weights(fresh))


def test_mixed_precision_trains_and_resumes(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    model = trained(mixed(), n=24)
    assert isinstance(model.optimizer, optimizers.LossScaleOptimizer)
    inner = model.optimizer.inner_optimizer
    assert 0 < int(model.optimizer.iterations) == int(inner.iterations) <= 6
    model.optimizer.learning_rate = 0.005
    assert rates(inner) == pytest.approx([0.005, 0.05, 0.0005])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert models.same(values_of(model), values_of(again))
    for each in (model, again):
        trained(None, model=each, n=24)
    assert models.same(cases.weights(model), cases.weights(again))


# Refusals


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_an_unknown_module_is_refused_before_anything_changes(dtype):
    keras.config.set_dtype_policy(dtype)
    model = compiled(ModuleOptimizers("adam", {"secnd": "sgd"}))
    before, began = cases.weights(model), []
    callback = keras.callbacks.LambdaCallback(on_train_begin=began.append)
    message = r"'secnd', but the model's modules are \['first', 'second', 'out'\]. Did you"
    with pytest.raises(ValueError, match=message + " mean 'second'?"):
        trained(None, model=model, callbacks=[callback])
    assert not began and models.same(before, cases.weights(model))
    assert not getattr(model.optimizer, "inner_optimizer", model.optimizer).built


def test_a_stock_model_and_a_second_model_are_refused():
    stock = CASE.base()
    optimizer = ModuleOptimizers("adam")
    stock.compile(optimizer, **models.losses("dense"))
    with pytest.raises(RuntimeError, match="for a stock model use the default"):
        stock.train_on_batch(*CASE.data(8))
    trained(optimizer)
    with pytest.raises(RuntimeError, match="Make a new ModuleOptimizers"):
        optimizer.bind({})
    with pytest.raises(ValueError, match="unknown variable 'dense/first/kernel'"):
        trained(optimizer)


def test_optimizers_that_cannot_serve_are_refused():
    sgd, built = optimizers.SGD(), optimizers.SGD()
    built.build([keras.Variable([1.0])])
    scaled = optimizers.SGD(loss_scale_factor=2.0)
    for default, given, message in [
        ("sgdd", {}, "default='sgdd' is not an optimizer. Expected the name"),
        (None, {}, "default is None"),
        ("sgd", {"a": 3}, r"optimizers\['a'\]=3 is not an optimizer"),
        (sgd, {"a": sgd}, "'default' and 'a' have one and the same SGD"),
        ("sgd", {"a": optimizers.LossScaleOptimizer(sgd)}, "Wrap the whole"),
        ("sgd", {"a": ModuleOptimizers("sgd")}, "holds optimizers itself"),
        ("sgd", {"a": built}, "is built on other variables already"),
        ("sgd", {"a": scaled}, "of 'a' has loss_scale_factor=2.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            ModuleOptimizers(default, given)
    with pytest.raises(TypeError, match="must be a dict"):
        ModuleOptimizers("sgd", ["sgd"])
    with pytest.raises(ValueError, match=r"modules \['out'\]; found 'ou'.*'out'.*Copies"):
        ModuleOptimizers("sgd", {"out": "sgd"}).optimizer_of("ou")


# Elsewhere

ROOT = pathlib.Path(__file__).parents[2]


def run(*command, backend="tensorflow"):
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTEST_ADDOPTS": ""}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="this is the run")
def test_on_jax():
    chosen = (
        "(plain_one and graph) or callbacks_move or accumulation or averages or resumes"
    )
    plugins = ["-p", "no:cacheprovider", "-p", "no:xdist"]
    assert "6 passed" in run(
        "pytest", "-q", *plugins, "-k", chosen, __file__, backend="jax"
    )


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's own")
def test_on_two_devices_and_loaded_in_a_fresh_process(tmp_path):
    model = trained(mixed(), n=32)
    model.save(tmp_path / "model.keras")
    run("tests.optimizers.test_module_optimizers", str(tmp_path))
    trained(None, model=model, n=32)
    with np.load(tmp_path / "weights.npz") as loaded:
        assert models.same(cases.weights(model), list(loaded.values()))
    with np.load(tmp_path / "mirrored.npz") as mirrored:
        for ours, theirs in zip(cases.weights(model), mirrored.values(), strict=True):
            np.testing.assert_allclose(theirs, ours, rtol=2e-3, atol=2e-5)


def main(folder):
    """Trains on from a file, and from the start on two devices."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    halves = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, halves)
    model = keras.models.load_model(f"{folder}/model.keras")
    trained(None, model=model, n=32)
    np.savez(f"{folder}/weights.npz", *cases.weights(model))
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = trained(mixed(), n=32)
        trained(None, model=model, n=32)
    np.savez(f"{folder}/mirrored.npz", *cases.weights(model))


if __name__ == "__main__":
    main(sys.argv[1])

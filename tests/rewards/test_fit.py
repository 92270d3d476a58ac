"""Policies trained by `fit`, as users call it."""

import contextlib
import csv

import keras
import numpy as np
import pytest

import keras_e2e as e2e
from tests.rewards.worlds import (
    Scripted,
    compiled,
    network,
    small,
    vector,
    weights_of,
)


class Subclassed(keras.Model):
    """A policy without a graph."""

    def __init__(self):
        super().__init__()
        self.code = keras.layers.Dense(4, activation="tanh")
        self.policy, self.value = keras.layers.Dense(2), keras.layers.Dense(1)

    def call(self, observation):
        code = self.code(observation)
        return {"policy": self.policy(code), "value": self.value(code)}


def trained(model, epochs=2, **options):
    """The weights after a little training, from one seed."""
    keras.utils.set_random_seed(7)
    model.fit(small(model, **options), epochs=epochs, verbose=0)
    return weights_of(model)


def assert_close(found, expected, **options):
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, **options)


def fresh(make=network, **options):
    keras.utils.set_random_seed(3)
    return compiled(make(), **options)


@pytest.mark.parametrize("kind", ["dict", "list", "subclassed"])
def test_outputs_may_be_a_dict_a_list_or_those_of_a_subclass(kind):
    model = compiled(Subclassed() if kind == "subclassed" else network(kind))
    rollouts = small(model)
    rollouts[0]  # builds the model
    before = weights_of(model)
    history = model.fit(rollouts, epochs=2, verbose=0).history
    assert set(history) == {"loss", "policy_loss", "value_loss"}
    assert all(
        np.abs(a - b).max() > 0 for a, b in zip(before, weights_of(model), strict=True)
    )
    assert rollouts.env_steps == 2 * 16


def test_a_policy_may_be_the_only_output_whatever_its_name():
    observation = keras.Input((2,))
    outputs = keras.layers.Dense(2, name="actor")(observation)
    model = keras.Model(observation, outputs)
    for loss in (e2e.rewards.PolicyGradient(), {"actor": e2e.rewards.PolicyGradient()}):
        compiled(model, loss)
        assert "loss" in model.fit(small(model), verbose=0).history


def test_one_seed_is_one_result():
    assert_close(trained(fresh()), trained(fresh()), rtol=0, atol=0)


@pytest.mark.slow
def test_graphs_xla_and_several_steps_at_once_train_as_eager_steps_do():
    settings = {
        "run_eagerly": False,
        "jit_compile": True,
        "steps_per_execution": 2,
    }
    assert_close(trained(fresh(**settings)), trained(fresh()), atol=1e-5)


def test_an_end_to_end_modular_model_trains_as_the_stock_model_to_the_bit():
    def modular():
        return e2e.modularize(network(), ["code"])

    plain = trained(fresh(run_eagerly=False))
    ours = trained(fresh(modular, run_eagerly=False))
    kept = ours[: len(plain)]
    assert [a.shape for a in kept] == [a.shape for a in plain]
    assert_close(kept, plain, rtol=0, atol=0)


def halved(observations, infos):
    return observations[:, :1] / 2


@pytest.mark.parametrize("mode", ["local", "deep_supervision", "sequential"])
@pytest.mark.parametrize("labels", [None, {"code": halved}])
def test_modules_train_in_each_mode(mode, labels):
    objective = e2e.objectives.Reconstruction()
    if labels:
        objective = e2e.objectives.IntermediateTarget("mse", head="linear", units=1)
    model = compiled(e2e.modularize(network(), {"code": objective}))
    model.training_mode = mode
    before = {v.path: np.asarray(v) for v in model.trainable_variables}
    model.fit(small(model, vector(mode="next"), labels=labels), epochs=2, verbose=0)
    moved = {
        path
        for path, value in before.items()
        if np.abs(value - {v.path: np.asarray(v) for v in model.weights}[path]).max() > 0
    }
    trained_layers = {path.split("/")[0] for path in moved}
    assert "code" in trained_layers
    assert ("policy" in trained_layers) == (mode != "sequential")


def test_mixed_precision_takes_observations_of_any_size():
    class Far(Scripted):
        def seen(self):
            return super().seen() * 1e6  # more than float16 holds

    keras.config.set_dtype_policy("mixed_float16")
    model = compiled(network(normalize=True), run_eagerly=False)
    history = model.fit(small(model, vector(Far)), epochs=3, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    scale = model.get_layer("scale")
    assert scale.mean.dtype == "float32" and scale.compute_dtype == "float16"
    assert float(scale.mean[0]) > 1e5


def test_normalization_knows_all_observations_that_were_trained_on(tmp_path):
    model = compiled(network(normalize=True))
    rollouts, seen = small(model), []
    for _ in range(3):
        for x, y in rollouts:
            seen.append(x)
            model.train_on_batch(x, y)
    every = np.concatenate(seen)
    scale = model.get_layer("scale")
    np.testing.assert_allclose(scale.mean, every.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(scale.variance, every.var(axis=0), rtol=1e-5)
    assert float(scale.count) == len(every)
    model.save(tmp_path / "policy.keras")
    again = keras.models.load_model(tmp_path / "policy.keras")
    assert_close(weights_of(again), weights_of(model), rtol=0, atol=0)
    model.save_weights(tmp_path / "policy.weights.h5")
    other = network(normalize=True)
    other.load_weights(tmp_path / "policy.weights.h5")
    assert float(other.get_layer("scale").count) == len(every)


class Inside(keras.layers.Layer):
    """A layer with a normalization in it."""

    def __init__(self):
        super().__init__()
        self.scale = e2e.rewards.ObservationNormalization()

    def call(self, observation):
        return self.scale(observation)


def test_normalization_inside_of_a_layer_learns_too():
    observation, inside = keras.Input((2,)), Inside()
    model = keras.Model(observation, keras.layers.Dense(2)(inside(observation)))
    compiled(model, e2e.rewards.PPO())
    model.fit(small(model), epochs=2, verbose=0)
    assert float(inside.scale.count) == 32


def test_evaluate_and_validation_change_nothing():
    model = compiled(network(normalize=True))
    rollouts = small(model)
    model.fit(rollouts, validation_data=small(model, seed=1), epochs=2, verbose=0)
    assert float(model.get_layer("scale").count) == 32
    before = weights_of(model)
    for _ in range(2):
        found = model.evaluate(rollouts, verbose=0, return_dict=True)
    assert set(found) == {"loss", "policy_loss", "value_loss"}
    assert_close(weights_of(model), before, rtol=0, atol=0)
    assert rollouts.env_steps == 4 * 16


def test_callbacks_see_the_returns_of_episodes(tmp_path):
    model = compiled(network())
    rollouts = small(model)
    best = tmp_path / "best.keras"
    options = {"monitor": "episode_return", "mode": "max"}
    history = model.fit(
        rollouts,
        epochs=4,
        verbose=0,
        callbacks=[
            e2e.callbacks.EpisodeReturns(rollouts),
            keras.callbacks.TensorBoard(tmp_path / "logs"),
            keras.callbacks.ModelCheckpoint(best, save_best_only=True, **options),
            keras.callbacks.CSVLogger(tmp_path / "log.csv"),
            # No return is that much better than the one before.
            keras.callbacks.EarlyStopping(min_delta=1e6, patience=2, **options),
        ],
    ).history
    assert history["env_steps"] == [16, 32, 48]
    assert len(history["episode_return"]) == len(history["episode_length"]) == 3
    with open(tmp_path / "log.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["episode_return"]) for row in rows] == history["episode_return"]
    assert keras.models.load_model(best).output_names == model.output_names
    events = b"".join(p.read_bytes() for p in (tmp_path / "logs").rglob("*tfevents*"))
    assert b"epoch_episode_return" in events and b"epoch_env_steps" in events


def test_returns_of_other_data_are_refused():
    with pytest.raises(TypeError, match=r"EpisodeReturns: rollouts.*Found: list"):
        e2e.callbacks.EpisodeReturns([1, 2])


def test_a_second_fit_goes_on():
    model = compiled(network())
    rollouts = small(model)
    for _ in range(2):
        model.fit(rollouts, epochs=1, verbose=0)
    assert rollouts.env_steps == 32
    assert int(model.optimizer.iterations) == 4
    # Episodes go over the end of `fit`: 16 steps are more than four whole ones.
    assert rollouts.episodes > 2 * 4


class StopAt(keras.callbacks.Callback):
    """Ends the training, or breaks it off, behind a batch."""

    def __init__(self, batch, error=None):
        super().__init__()
        self.batch, self.error = batch, error

    def on_train_batch_end(self, batch, logs=None):
        if batch == self.batch:
            if self.error:
                raise self.error
            self.model.stop_training = True


@pytest.mark.parametrize("error", [None, KeyboardInterrupt()])
def test_after_an_interruption_another_fit_goes_on(error):
    model = compiled(network(normalize=True))
    rollouts = small(model, passes=2)
    with contextlib.suppress(KeyboardInterrupt):
        model.fit(rollouts, verbose=0, callbacks=[StopAt(1, error)])
    assert int(model.optimizer.iterations) == 2
    model.fit(rollouts, epochs=2, verbose=0)
    assert int(model.optimizer.iterations) == 2 + 2 * rollouts.num_batches
    assert rollouts.env_steps == 3 * 16


def test_steps_per_epoch_are_refused():
    model = compiled(network())
    rollouts = small(model, steps=64, batch_size=8)
    with pytest.raises(ValueError, match=r"of the 16 batches.*Leave steps_per_epoch out"):
        model.fit(rollouts, epochs=2, steps_per_epoch=3, verbose=0)


def test_workers_would_take_batches_before_the_policy_acted():
    with pytest.raises(TypeError, match="workers"):
        small(network(), workers=2)


def test_weights_of_examples_reach_local_objectives():
    """What does not count for the policy does not count for its perception."""
    model = compiled(
        e2e.modularize(network(), {"code": e2e.objectives.Reconstruction()}),
        optimizer="sgd",
    )
    model.training_mode = "local"
    (x, y, weight), *_ = list(small(model, vector(mode="next"), steps=32, batch_size=32))
    assert (weight == 0).any()
    before = weights_of(model)
    model.train_on_batch(x, y, weight)
    after = weights_of(model)
    for weight_, value in zip(model.weights, before, strict=True):
        weight_.assign(value)
    changed = np.where(weight[:, None] == 0, 9.0, x).astype("float32")
    model.train_on_batch(changed, y, weight)
    assert_close(weights_of(model), after, atol=1e-6)


def test_synthetic_gradients_of_a_policy_go_without_its_targets():
    for conditional in (True, False):
        objective = e2e.objectives.SyntheticGradient(conditional=conditional)
        model = compiled(e2e.modularize(network(), {"code": objective}))
        model.training_mode = "local"
        if conditional:
            with pytest.raises(ValueError, match=r"'policy'.*conditional=False"):
                model.fit(small(model), verbose=0)
        else:
            assert np.isfinite(model.fit(small(model), verbose=0).history["loss"]).all()

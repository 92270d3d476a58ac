"""A policy trained by reward: what holds on every backend."""

import numpy as np

import keras_e2e as e2e
from tests.rewards.worlds import compiled, network, remembering, small, vector


def test_a_policy_trains_by_reward():
    metrics = {"policy": [e2e.rewards.ApproximateKL()]}
    model = compiled(
        e2e.modularize(network(normalize=True), ["code"]),
        run_eagerly=False,
        weighted_metrics=metrics,
    )
    rollouts = small(model, vector(mode="next"))
    for epoch, mode in enumerate(("end_to_end", "local"), start=1):
        model.training_mode = mode
        before = np.asarray(model.get_layer("code").kernel)
        model.fit(rollouts, verbose=0)
        assert np.abs(np.asarray(model.get_layer("code").kernel) - before).max() > 0
        # No epoch is begun that is not trained on.
        assert float(model.get_layer("scale").count) == epoch * 16
    before = float(model.get_layer("scale").count)
    found = model.evaluate(rollouts, verbose=0, return_dict=True)
    assert abs(found["policy_kl"]) < 1e-6
    assert float(model.get_layer("scale").count) == before


def test_a_policy_with_a_memory_trains_by_reward():
    model, states = remembering()
    compiled(model, run_eagerly=False)
    rollouts = small(model, states=states, sequence_length=4)
    history = model.fit(rollouts, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert rollouts.env_steps == 32

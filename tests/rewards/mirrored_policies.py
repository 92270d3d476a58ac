"""Policies on two devices and on one; run by `tests.trainers.tensorflow.mirrored_steps`."""

import keras
import numpy as np

from tests.rewards.worlds import compiled, network, small, vector, weights_of


def trained():
    """The weights after two epochs, and the steps in the environments."""
    keras.utils.set_random_seed(0)
    model = compiled(network(normalize=True), run_eagerly=False)
    rollouts = small(model, vector(mode="next"))
    model.fit(rollouts, epochs=2, verbose=0, shuffle=False)
    return weights_of(model), rollouts.env_steps


def check_policies(strategy):
    """What two devices train in another way than one."""
    one, steps = trained()
    with strategy.scope():
        two, other_steps = trained()
    print("policies", flush=True)
    close = all(np.allclose(a, b, atol=1e-5) for a, b in zip(one, two, strict=True))
    same = close and steps == other_steps
    return [] if same else [f"policies: {steps}, {other_steps}, weights alike: {close}"]

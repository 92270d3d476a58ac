"""A policy that learns to balance a pole, by `model.fit`.

CartPole-v1 gives a reward of 1 for each step that the pole stands, 500 at most. A network
of two layers acts in eight copies of it; `Rollouts` is the data of `fit`, one rollout for
each epoch, and PPO the loss. Takes under a minute. Needs the extra `rewards`.

What to see: `episode_return` rises from about 20 (chance) epoch by epoch, and the policy
then keeps the pole up for all or most of the 500 steps.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

import keras_e2e as e2e


def build():
    """A policy and a value, each a network of its own, as is usual for control."""
    observation = keras.Input((4,))
    outputs = {}
    for name, size in {"policy": 2, "value": 1}.items():
        x = keras.layers.Dense(64, activation="tanh")(observation)
        x = keras.layers.Dense(64, activation="tanh")(x)
        outputs[name] = keras.layers.Dense(size, name=name)(x)
    return keras.Model(observation, outputs)


def main():
    """Trains the policy, then plays."""
    keras.utils.set_random_seed(0)
    model = build()
    model.compile(
        keras.optimizers.Adam(1e-3, global_clipnorm=0.5),
        loss={"policy": e2e.rewards.PPO(), "value": "mse"},
        loss_weights={"policy": 1.0, "value": 0.5},
        metrics={"policy": [e2e.rewards.PolicyEntropy()]},
    )
    rollouts = e2e.rewards.Rollouts("CartPole-v1", model, seed=0)
    returns = e2e.callbacks.EpisodeReturns(rollouts)
    model.fit(rollouts, epochs=30, callbacks=[returns], verbose=2)
    print(e2e.rewards.evaluate_policy(model, "CartPole-v1", episodes=16, seed=1))


if __name__ == "__main__":
    main()

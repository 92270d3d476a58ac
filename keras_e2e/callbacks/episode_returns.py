"""The returns of episodes in the logs of `fit`."""

from typing import Any

import keras

from keras_e2e.rewards.rollouts import Rollouts


class EpisodeReturns(keras.callbacks.Callback):
    """Adds what became of the episodes to the logs of each epoch.

    `episode_return` and `episode_length`, the means of the latest 100 episodes (NaN before
    one has ended), and `env_steps`, the actions carried out so far in all environments.
    Callbacks that stand behind it have them: `keras.callbacks.TensorBoard` writes them,
    `EarlyStopping` and `ModelCheckpoint` can monitor them (`mode="max"`), and `fit` returns
    them in its history.

    Args:
        rollouts: The `Rollouts` that the model is trained on.

    Raises:
        TypeError: If `rollouts` is something else.
        ValueError: When `fit` begins: if it trains another model than the one that acts.

    Example:

    >>> import keras, keras_e2e as e2e
    >>> observation = keras.Input((4,))
    >>> model = keras.Model(observation, {"policy": keras.layers.Dense(2)(observation)})
    >>> model.compile("adam", loss={"policy": e2e.rewards.PolicyGradient()})
    >>> rollouts = e2e.rewards.Rollouts("CartPole-v1", model, steps=64, passes=1, seed=0)
    >>> returns = e2e.callbacks.EpisodeReturns(rollouts)
    >>> history = model.fit(rollouts, epochs=2, verbose=0, callbacks=[returns])
    >>> history.history["env_steps"]
    [512, 1024]
    """

    def __init__(self, rollouts: Rollouts):
        super().__init__()
        if not isinstance(rollouts, Rollouts):
            raise TypeError(
                "EpisodeReturns: rollouts must be the keras_e2e.rewards.Rollouts that the "
                f"model is trained on. Found: {type(rollouts).__name__}."
            )
        self.rollouts = rollouts

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self.model is not self.rollouts.model:
            raise ValueError(
                f"EpisodeReturns: in the rollouts the model {self.rollouts.model.name!r} "
                f"acts, but fit trains another one, {self.model.name!r}: its weights would "
                "be trained on what it did not do. Expected one model: make the Rollouts "
                "of the model that is trained, of what modularize returned for instance."
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None:
            logs["episode_return"] = self.rollouts.episode_return
            logs["episode_length"] = self.rollouts.episode_length
            logs["env_steps"] = self.rollouts.env_steps

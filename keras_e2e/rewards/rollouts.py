"""Data of a policy that acts: a new rollout for each epoch of `fit`."""

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_e2e.rewards.checks import check_batch_size, check_loss, check_sequence_length
from keras_e2e.rewards.epochs import Epochs
from keras_e2e.rewards.layers import show_observations
from keras_e2e.rewards.minibatches import Rows, examples, sequences, single_steps
from keras_e2e.rewards.policy import Policy
from keras_e2e.rewards.recording import Labels, Recording, empty_recording, record
from keras_e2e.rewards.spaces import Actions
from keras_e2e.rewards.vector_loop import VectorLoop, make_environments
from keras_e2e.utils import compat
from keras_e2e.utils.validation import check_integer, check_number, check_seed


class Rollouts(Epochs, keras.utils.PyDataset):
    """Lets a policy act at the beginning of each epoch and yields what it lived through.

    `model.fit(Rollouts(envs, model), epochs=100)` trains the model by reward: in each epoch
    the present policy takes `steps` steps in each environment, advantages are estimated
    (`generalized_advantages`), and the steps are gone through `passes` times in batches,
    each time in another order. The model returns a dict with the policy under `"policy"`
    (logits of a discrete action space; of real numbers what `GaussianPolicy` makes) and,
    if there is one, the value of the state under `"value"`; without one, returns are what
    was expected plus nothing (`gae_lambda` is then best 1). It is compiled with
    `loss={"policy": PPO(), "value": "mse"}` or another of these losses.

    A batch is `(observations, {"policy": targets, "value": returns, **labels})`, with
    sample weights if some of its steps do not count: where an environment only began anew
    (Gymnasium's `NEXT_STEP` mode) or a sequence was filled up; metrics take these if they
    are compiled as `weighted_metrics`. `evaluate` lets the policy act, too, and changes
    nothing of the model. By hand, `for x, y in rollouts` is an epoch. Outside of an epoch
    batches are zeros, of which Keras learns the shapes. Do not give `steps_per_epoch`: an
    epoch is a rollout.

    Args:
        envs: A `gymnasium.vector.VectorEnv` that begins new episodes by itself, or the id
            of an environment, of which copies are made. Action spaces may be `Discrete` or
            `Box`, observations `Box`, `Discrete`, `MultiDiscrete`, `MultiBinary` or a
            `Dict` of them, which goes to the model's inputs by name.
        model: The Keras model that acts and is trained.
        num_envs: Integer, how many copies of an id. Defaults to `None`: 8.
        steps: Integer, how many steps in each environment make a rollout. Defaults to 128.
        passes: Integer, how often a rollout is gone through. Defaults to 10, as in PPO's
            paper for control (Schulman et al. 2017). `PolicyGradient` takes 1.
        batch_size: Integer, the steps of a batch; divides `steps` times the number of
            environments. Defaults to 64, as in that paper.
        discount: Float from 0 to 1, what a reward is worth a step later. Defaults to 0.99.
        gae_lambda: Float from 0 to 1, as in `generalized_advantages`. Defaults to 0.95.
        normalize_advantages: Boolean, whether advantages get mean 0 and standard deviation
            1 in each batch. Defaults to `True`.
        labels: Dict from the name of a module boundary, or of another output of the model,
            to a function `function(observations, infos)` that returns the labels
            `(num_envs, ...)` of observations. Defaults to `None`.
        states: Dict from the name of an input of the model to the name of the output that
            it is given in the next step of the episode, for policies with a memory; zeros
            where an episode begins. Observations and outputs then have an axis for steps
            behind the first. Defaults to `None`.
        sequence_length: Integer, over how many steps a memory is trained; divides
            `batch_size`. Defaults to `None`: 16 for a model with `states`.
        seed: Integer, seed of environments, actions and orders. Defaults to `None`.

    Attributes:
        env_steps: Integer, the actions carried out so far, in all environments.
        episodes: Integer, the episodes that ended.
        episode_return, episode_length: Floats, the mean sum of rewards and number of steps
            of the latest 100 episodes; NaN before one has ended.

    Raises:
        ImportError: If Gymnasium is not installed.
        TypeError: If `envs` is neither of the two.
        ValueError: If an argument is not as described, or the spaces are not supported.
            When an epoch begins, before anything is trained: if the model's outputs or its
            loss do not fit the spaces, or a reward, observation or output is not finite.
            When one ends: if `steps_per_epoch` left batches out.
        RuntimeError: When an epoch begins: if the environments fail.

    Example: a policy for CartPole, a little of it.

    >>> import keras, keras_e2e as e2e
    >>> observation = keras.Input((4,))
    >>> hidden = keras.layers.Dense(32, activation="tanh")(observation)
    >>> model = keras.Model(observation, {
    ...     "policy": keras.layers.Dense(2)(hidden),
    ...     "value": keras.layers.Dense(1)(hidden),
    ... })
    >>> model.compile("adam", loss={"policy": e2e.rewards.PPO(), "value": "mse"})
    >>> rollouts = e2e.rewards.Rollouts("CartPole-v1", model, steps=32, passes=2, seed=0)
    >>> history = model.fit(rollouts, epochs=2, verbose=0)
    >>> rollouts.env_steps
    512
    """

    def __init__(
        self,
        envs: Any,
        model: keras.Model,
        *,
        num_envs: int | None = None,
        steps: int = 128,
        passes: int = 10,
        batch_size: int = 64,
        discount: float = 0.99,
        gae_lambda: float = 0.95,
        normalize_advantages: bool = True,
        labels: Labels | None = None,
        states: Mapping[str, str] | None = None,
        sequence_length: int | None = None,
        seed: int | None = None,
    ):
        super().__init__()
        self.steps = check_integer("Rollouts: steps", steps, 1)
        self.passes = check_integer("Rollouts: passes", passes, 1)
        self.batch_size = check_integer("Rollouts: batch_size", batch_size, 1)
        self.discount = check_number("Rollouts: discount", discount, least=0, most=1)
        self.gae_lambda = check_number("Rollouts: gae_lambda", gae_lambda, least=0, most=1)
        self.normalize_advantages = normalize_advantages
        self.seed = check_seed("Rollouts: seed", seed)
        self.model, self.labels = model, dict(labels or {})
        self.envs = make_environments(envs, num_envs, "Rollouts")
        actions = Actions(self.envs.single_action_space)
        self._loop = VectorLoop(self.envs)
        self._policy = Policy(model, actions, states)
        check_batch_size(self.steps, self.envs.num_envs, self.batch_size)
        self.sequence_length = check_sequence_length(
            sequence_length, self.batch_size, bool(self._policy.states)
        )
        # Otherwise some rows have no weight, if not in each batch.
        self._always_real = self.sequence_length is None and self._loop.same_step
        self._recording: Recording | None = None
        self._batches: list[Rows] = []
        self._rng: np.random.Generator | None = None
        # The optimizer's steps and the weights when the present rollout was made, and
        # which of its batches were taken.
        self._began_at, self._began_with = 0, [0]
        self._taken: set[int] = set()
        self._acts = self._in_use = self._builds = False
        self._seeded_at = 0

    # What became of the episodes

    @property
    def env_steps(self) -> int:
        return self._loop.num_steps

    @property
    def episodes(self) -> int:
        return self._loop.num_episodes

    @property
    def episode_return(self) -> float:
        return float(np.mean(self._loop.returns)) if self._loop.returns else float("nan")

    @property
    def episode_length(self) -> float:
        return float(np.mean(self._loop.lengths)) if self._loop.lengths else float("nan")

    # A dataset of Keras's
    @property
    def num_batches(self) -> int:
        return self.passes * self.steps * self.envs.num_envs // self.batch_size

    def on_epoch_begin(self) -> None:
        """Lets the policy act: the batches from now on are of a new rollout."""
        check_loss(
            self.model,
            self._policy.actions.distribution.name,
            self.envs.single_action_space,
        )
        rng = self._begin()
        # Before Keras trains on JAX or under a strategy it begins an epoch, to build what
        # is not built yet from a batch, and begins it once more. Batches that it fetches
        # ahead may be all there are.
        looked_at = self._builds or len(self._taken) < self.num_batches
        if self._recording is None or not looked_at or self._moved():
            self._record(rng)
        loss = compat.compiled_loss(self.model)
        self._builds = loss is not None and not loss.built
        self._taken, self._acts = set(), True

    def _record(self, rng: np.random.Generator) -> None:
        began_at = self._steps_taken()
        recording = record(
            self._policy,
            self._loop,
            self.steps,
            rng,
            self.labels,
            self.discount,
            self.gae_lambda,
        )
        batches: list[Rows] = []
        for _ in range(self.passes):
            if self.sequence_length is None:
                batches += single_steps(recording, self.batch_size, rng)
            else:
                batches += sequences(recording, self.batch_size, self.sequence_length, rng)
        self._recording, self._batches, self._began_at = recording, batches, began_at
        self._began_with = self._policy.fingerprint()

    def on_epoch_end(self) -> None:
        """Shows what was trained on to the layers that normalize observations.

        Raises:
            ValueError: If only some of the batches were trained on.
        """
        if not self._acts or self._recording is None:
            return
        self._acts, self._in_use = False, True
        # On JAX the variables are the step's during the epoch.
        getattr(self.model, "jax_state_sync", lambda: None)()
        if not self._trained():
            return
        # After an epoch that was interrupted the next `fit` ends it.
        history = getattr(self.model, "history", None)
        steps = (getattr(history, "params", None) or {}).get("steps")
        if len(self._taken) < self.num_batches and steps != self.num_batches:
            raise ValueError(
                f"Only {len(self._taken)} of the {self.num_batches} batches of a rollout "
                "were taken, and Keras would train on the rest of them, which are of an "
                "older policy then, in the next epoch. Leave steps_per_epoch out; for "
                "shorter epochs give Rollouts fewer steps or passes."
            )
        self._show(self._recording)

    def _show(self, recording: Recording) -> None:
        flat = keras.tree.map_structure(
            lambda a: a.reshape(-1, *a.shape[2:]), recording.observations
        )
        show_observations(self.model, flat, self._policy.single_step)

    def __iter__(self) -> Iterator[tuple]:
        """An epoch by hand: lets the policy act and yields the batches."""
        # Whoever trains by hand may do without the optimizer, and break off.
        self._recording = None
        self.on_epoch_begin()
        recording = self._recording
        try:
            for index in range(self.num_batches):
                yield self[index]
        finally:
            # A loop that was left open may end within a later epoch.
            if recording is not None and self._recording is recording:
                self._acts, self._in_use = False, True
                if self._moved():
                    self._show(recording)

    def __getitem__(self, index: int) -> tuple:
        if self._recording is None or not self._acts:
            return self._example()
        rows = self._batches[index]
        self._taken.add(index)
        return self._batch(self._recording, rows, self.normalize_advantages)

    def _batch(self, recording: Recording, rows: Rows, normalize: bool) -> tuple:
        x, y = examples(recording, rows, self._policy, normalize)
        return (x, y) if self._always_real else (x, y, rows.weight)

    def _begin(self) -> np.random.Generator:
        """Begins episodes, if that is not done yet or another loop did since."""
        done = self._steps_taken()
        restored = not self._in_use and done != self._seeded_at
        if self._rng is None or restored:
            # A run that was resumed is to draw other numbers than at its beginning.
            entropy = None if self.seed is None else [self.seed, done]
            self._rng, self._seeded_at = np.random.default_rng(entropy), done
        if restored or not self._loop.is_current:
            self._loop.reset(int(self._rng.integers(2**31)))
            self._policy.begin(self.envs.num_envs)
        return self._rng

    def _steps_taken(self) -> int:
        """How many training steps the model's optimizer has taken."""
        optimizer = getattr(self.model, "optimizer", None)
        return 0 if optimizer is None else int(np.asarray(compat.batches_taken(optimizer)))

    def _trained(self) -> bool:
        """Whether the model was trained since it acted."""
        return self._steps_taken() != self._began_at

    def _moved(self) -> bool:
        """Whether the policy is another than when it acted, whoever changed its weights."""
        return self._trained() or self._policy.fingerprint() != self._began_with

    def _example(self) -> tuple:
        """A batch of zeros, of the right shapes, where there is no rollout."""
        self._begin()
        self._policy.decide(self._loop.observations, None, remember=False)
        shape: tuple[int, ...] = (self.batch_size,)
        if self.sequence_length is not None:
            shape = (self.batch_size // self.sequence_length, self.sequence_length)
        place = np.zeros(shape, "int64")
        rows = Rows(place, place, np.ones(shape, "float32"))
        recording = empty_recording(self._policy, self._loop, self.labels)
        return self._batch(recording, rows, normalize=False)

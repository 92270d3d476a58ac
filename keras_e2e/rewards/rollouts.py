"""Data of a policy that acts: a new rollout for each epoch of `fit`."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_e2e.rewards.layers import show_observations
from keras_e2e.rewards.losses import PolicyLoss
from keras_e2e.rewards.minibatches import Rows, examples, sequences, single_steps
from keras_e2e.rewards.policy import Policy
from keras_e2e.rewards.recording import Labels, Recording, labels_of, record
from keras_e2e.rewards.spaces import Actions
from keras_e2e.rewards.vector_loop import VectorLoop, make_environments
from keras_e2e.utils.validation import check_integer, check_number, check_seed


class Rollouts(keras.utils.PyDataset):
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
    (Gymnasium's `NEXT_STEP` mode) or a sequence was filled up. Until the first epoch begins
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
        labels: Dict from the name of a module boundary to a function
            `function(observations, infos)` that returns the labels `(num_envs, ...)` of
            observations, for objectives that take labels. Defaults to `None`.
        states: Dict from the name of an input of the model to the name of the output that
            it is given in the next step of the episode, for policies with a memory; zeros
            where an episode begins. Observations and outputs then have an axis for steps
            behind the first. Defaults to `None`.
        sequence_length: Integer, over how many steps a memory is trained; divides
            `batch_size`. Defaults to `None`: 16 for a model with `states`.
        seed: Integer, seed of environments, actions and orders. Defaults to `None`.
        kwargs: Arguments of `keras.utils.PyDataset`.

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
            loss do not fit the spaces, or a reward or output is not finite.
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
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
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
        self.sequence_length = self._check_sizes(sequence_length)
        # Otherwise some rows have no weight, if not in each batch.
        self._always_real = self.sequence_length is None and self._loop.same_step
        self._recording: Recording | None = None
        self._batches: list[Rows] = []
        self._rng: np.random.Generator | None = None

    def _check_sizes(self, sequence_length: int | None) -> int | None:
        """Checks what has to divide what, and returns the length of sequences."""
        total = self.steps * self.envs.num_envs
        if total % self.batch_size:
            raise ValueError(
                f"Rollouts: steps={self.steps} in each of {self.envs.num_envs} "
                f"environments are {total} steps, which batch_size={self.batch_size} does "
                "not divide. "
                f"Expected a divisor, such as {_divisor_near(total, self.batch_size)}."
            )
        if not self._policy.states:
            if sequence_length is not None:
                raise ValueError(
                    f"Rollouts: sequence_length={sequence_length} is for models with a "
                    "memory. Name its inputs and outputs in states, or leave it out."
                )
            return None
        length = 16 if sequence_length is None else sequence_length
        length = check_integer("Rollouts: sequence_length", length, 1)
        if self.batch_size % length:
            raise ValueError(
                f"Rollouts: sequence_length={length} does not divide "
                f"batch_size={self.batch_size}. Expected a divisor, such as "
                f"{_divisor_near(self.batch_size, length)}."
            )
        return length

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
        rng = self._begin()
        if self._recording is not None:
            self._adapt(self._recording.observations)
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
        self._recording, self._batches = recording, batches

    def _begin(self) -> np.random.Generator:
        """Checks the model and begins the first episodes, if that is not done yet."""
        self._check_loss()
        if self._rng is None:
            # A run that was resumed is to draw other numbers than at its beginning.
            optimizer = getattr(self.model, "optimizer", None)
            done = 0 if optimizer is None else int(optimizer.iterations)
            entropy = None if self.seed is None else [self.seed, done]
            self._rng = np.random.default_rng(entropy)
            self._reset(int(self._rng.integers(2**31)))
        return self._rng

    def _reset(self, seed: int | None) -> None:
        self._loop.reset(seed)
        self._policy.begin(self.envs.num_envs)

    def _check_loss(self) -> None:
        loss = getattr(self.model, "loss", None)
        for one in keras.tree.flatten(loss):
            wanted = self._policy.actions.distribution.name
            if isinstance(one, PolicyLoss) and one.distribution.name != wanted:
                raise ValueError(
                    f"The model is compiled with {type(one).__name__}(distribution="
                    f"{one.distribution.name!r}), but the action space is "
                    f"{self.envs.single_action_space}. Compile it with "
                    f"{type(one).__name__}(distribution={wanted!r})."
                )

    def _adapt(self, observations: Any) -> None:
        """Shows the observations to the layers that normalize them."""
        flat = keras.tree.map_structure(lambda a: a.reshape(-1, *a.shape[2:]), observations)
        show_observations(self.model, flat, self._policy.single_step)

    def __getitem__(self, index: int) -> tuple:
        if self._recording is None:
            return self._zeros()
        rows = self._batches[index]
        x, y = examples(self._recording, rows, self._policy, self.normalize_advantages)
        if self._always_real:
            return x, y
        return x, y, rows.weight

    def _zeros(self) -> tuple:
        """A batch of the right shapes, before the first rollout."""
        self._begin()
        loop, policy = self._loop, self._policy
        policy.decide(loop.observations, None, remember=False)
        shape: tuple[int, ...] = (self.batch_size,)
        if self.sequence_length is not None:
            shape = (self.batch_size // self.sequence_length, self.sequence_length)
        found = {
            "observations": loop.observations,
            "states": policy.carried,
            "labels": labels_of(self.labels, loop.observations, loop.infos),
            "actions": np.zeros((1, policy.actions.entries), "float32"),
        }
        zeros = keras.tree.map_structure(
            lambda a: np.zeros((1, 1, *a.shape[1:]), a.dtype), found
        )
        flat, mask = np.zeros((1, 1)), np.ones((1, 1), bool)
        recording = Recording(
            **zeros, log_probs=flat, advantages=flat, returns=flat, begins=mask, real=mask
        )
        place = np.zeros(shape, "int64")
        rows = Rows(place, place, np.ones(shape, "float32"))
        x, y = examples(recording, rows, policy, normalize=False)
        if self._always_real:
            return x, y
        return x, y, rows.weight


def _divisor_near(total: int, size: int) -> int:
    """The divisor of a number that is nearest to another one."""
    divisors = (n for n in range(1, total + 1) if total % n == 0)
    return min(divisors, key=lambda n: abs(n - size))

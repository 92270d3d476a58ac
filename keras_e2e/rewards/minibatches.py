"""Which steps of a rollout make a batch: single ones, or stretches of an episode."""

from typing import Any, NamedTuple

import keras
import numpy as np

from keras_e2e.rewards.policy import Policy
from keras_e2e.rewards.recording import Recording


class Rows(NamedTuple):
    """Places in a recording, one row for each example.

    Attributes:
        step, env: Integer arrays `(rows,)`, or `(rows, sequence_length)` of sequences.
        weight: Array of the same shape: 0 where nothing is to be learned.
    """

    step: np.ndarray
    env: np.ndarray
    weight: np.ndarray

    def take(self, array: Any) -> Any:
        """Returns the examples of an array `(steps, num_envs, ...)`, or of a dict."""
        return keras.tree.map_structure(lambda a: a[self.step, self.env], array)

    def starts(self, array: Any) -> Any:
        """Returns what an array holds where each sequence begins."""
        return keras.tree.map_structure(lambda a: a[self.step[:, 0], self.env[:, 0]], array)


def single_steps(
    recording: Recording, batch_size: int, rng: np.random.Generator
) -> list[Rows]:
    """Returns all steps in an order that is drawn, `batch_size` at a time.

    Args:
        recording: The recording.
        batch_size: Integer, divides the number of its steps.
        rng: The generator.
    """
    num_steps, num_envs = recording.real.shape
    order = rng.permutation(num_steps * num_envs)
    groups = order.reshape(-1, batch_size)
    return [
        _weighted(group // num_envs, group % num_envs, recording.real) for group in groups
    ]


def sequences(
    recording: Recording, batch_size: int, length: int, rng: np.random.Generator
) -> list[Rows]:
    """Returns stretches of episodes in an order that is drawn, in batches of one size.

    Each begins where an episode does or another stretch ends, and is filled up at its end
    with steps that have no weight. There are more of them where episodes are short; the
    number of batches stays the same.

    Args:
        recording: The recording.
        batch_size: Integer, the steps of a batch.
        length: Integer, the most steps of a stretch; divides `batch_size`.
        rng: The generator.
    """
    num_steps, num_envs = recording.real.shape
    pieces = [
        (begin, end, env)
        for env in range(num_envs)
        for begin, end in _stretches(recording.begins[:, env], length)
    ]
    begins, ends, envs = (np.array(column) for column in zip(*pieces, strict=True))
    offsets = np.arange(length)
    inside = begins[:, None] + offsets < ends[:, None]
    steps = np.where(inside, begins[:, None] + offsets, begins[:, None])
    num_batches = num_steps * num_envs // batch_size
    least = batch_size // length
    groups = np.array_split(rng.permutation(len(pieces)), num_batches)
    # A multiple, so that the shapes, each of which XLA compiles anew, are few.
    size = -(-max(map(len, groups)) // least) * least
    batches = []
    for group in groups:
        filled = np.concatenate([group, np.zeros(size - len(group), "int64")])
        alive = inside[filled] & (np.arange(size) < len(group))[:, None]
        env = np.broadcast_to(envs[filled][:, None], (size, length))
        batches.append(_weighted(steps[filled], env, recording.real, alive))
    return batches


def _stretches(begins: np.ndarray, length: int) -> list[tuple[int, int]]:
    """Where stretches of one environment begin and end."""
    cuts = [0]
    for step in range(1, len(begins)):
        if begins[step] or step - cuts[-1] == length:
            cuts.append(step)
    return list(zip(cuts, [*cuts[1:], len(begins)], strict=True))


def _weighted(
    step: np.ndarray, env: np.ndarray, real: np.ndarray, alive: np.ndarray | bool = True
) -> Rows:
    """Weights that make Keras's mean over all one over those that count."""
    counts = (real[step, env] & alive).astype("float32")
    return Rows(step, env, counts * (counts.size / max(counts.sum(), 1.0)))


def examples(
    recording: Recording, rows: Rows, policy: Policy, normalize: bool
) -> tuple[Any, Any]:
    """Returns what the model is given of some rows, and what it is trained on.

    Args:
        recording: The recording.
        rows: The rows.
        policy: The policy, which knows what the model takes and returns.
        normalize: Boolean, whether advantages get mean 0 and standard deviation 1.
    """
    advantages = rows.take(recording.advantages)
    if normalize:
        advantages = _normalized(advantages, rows.weight > 0)
    targets = np.concatenate(
        [
            rows.take(recording.actions),
            advantages[..., None],
            rows.take(recording.log_probs)[..., None],
        ],
        axis=-1,
    ).astype("float32")
    returns = rows.take(recording.returns)[..., None].astype("float32")
    states = {name: rows.starts(array) for name, array in recording.states.items()}
    x = policy.inputs(rows.take(recording.observations), states)
    return x, policy.targets(targets, returns, rows.take(recording.labels))


def _normalized(advantages: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Advantages with mean 0 and standard deviation 1 over those that count."""
    some = advantages[counts]
    if len(some) < 2:
        return advantages
    # As stable-baselines3 does, for advantages that are all the same.
    return (advantages - some.mean()) / (some.std(ddof=1) + 1e-8)

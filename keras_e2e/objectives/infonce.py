"""Predicting later positions of an activation from earlier ones: Greedy InfoMax."""

from typing import Any

import keras
from keras import ops

from keras_e2e.objectives.base import LocalObjective
from keras_e2e.objectives.class_labels import present_positions
from keras_e2e.objectives.global_batch import GlobalBatch
from keras_e2e.objectives.registry import register
from keras_e2e.objectives.specs import Batch, ModelSpec
from keras_e2e.utils.validation import check_integer, check_seed


@register("infonce")
@keras.saving.register_keras_serializable("keras_e2e")
class InfoNCE(LocalObjective):
    """Predicts an activation's later positions from earlier ones.

    Greedy InfoMax (Loewe et al. 2019, "Putting An End to End-to-End"), the InfoNCE loss of
    contrastive predictive coding (van den Oord et al. 2018): for `k` from 1 to
    `num_steps`, a matrix `W_k` predicts from each position the one `k` further along the
    first axis of positions (time, or the rows of an image), and the loss is the
    cross-entropy of finding it, by the scalar product, among `num_negatives` positions
    drawn at random from the batch, under a distribution strategy from the whole one. All
    predictions of a `k` share the draws, which are new in each step.

    Of sequences that are filled up at their end, positions of sample weight zero are
    neither predicted nor drawn, where the weights are `(batch, positions)`: those of
    `Rollouts`, for a policy with a memory.

    For InfoNCE over two augmented views see `ViewContrast`.

    Args:
        num_steps: Integer, how many positions ahead the farthest prediction is; fewer
            where the axis is shorter. Defaults to 5, as in the paper.
        num_negatives: Integer, how many wrong positions the right one is found among.
            Defaults to 16, as in the paper.
        seed: Integer seed of the draws. Defaults to `None`: a seed that is drawn.
        **kwargs: `weight` and `reach`, as in `LocalObjective`.

    Raises:
        ValueError: If `num_steps` or `num_negatives` is not an integer of at least 1. When
            the model is made: if the activation has no positions, or a single one. In
            training: if their number is not known there either.

    Example:

    >>> import keras_e2e as e2e
    >>> e2e.objectives.InfoNCE(num_steps=3).num_negatives
    16
    """

    def __init__(
        self,
        *,
        num_steps: int = 5,
        num_negatives: int = 16,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.num_steps = check_integer("InfoNCE: num_steps", num_steps, 1)
        self.num_negatives = check_integer("InfoNCE: num_negatives", num_negatives, 1)
        self.seed = check_seed("InfoNCE: seed", seed)
        self.generator = keras.random.SeedGenerator(self.seed)
        self.predictions: list = []

    def build_head(self, activation: keras.KerasTensor, model: ModelSpec) -> None:
        shape = tuple(activation.shape)
        if len(shape) < 3 or (shape[1] is not None and shape[1] < 2):
            raise ValueError(
                "InfoNCE predicts later positions from earlier ones: it needs an "
                "activation (batch, positions, ..., channels) with at least 2 positions. "
                f"Found shape {shape}. Use ViewContrast(augment) or Reconstruction()."
            )
        farthest = self.num_steps
        if shape[1] is not None:
            farthest = min(farthest, shape[1] - 1)
        for k in range(1, farthest + 1):
            layer = keras.layers.Dense(
                shape[-1], use_bias=False, dtype=self.dtype_policy, name=f"step_{k}"
            )
            layer.build(shape)
            self.predictions.append(layer)

    def loss(self, activation: Any, batch: Batch) -> Any:
        length = activation.shape[1]
        if length is None:
            raise ValueError(
                "InfoNCE: the length of the sequences is unknown in the training step. "
                "Give batches of one length, such as those of Rollouts, or a length in "
                "keras.Input."
            )
        total = ops.zeros((ops.shape(activation)[0],), "float32")
        every, there = GlobalBatch(activation), present_positions(batch, activation)
        predictions = self.predictions[: length - 1]
        for k, predict in enumerate(predictions, start=1):
            later = ops.cast(activation[:, k:], "float32")
            predicted = ops.cast(predict(activation[:, : length - k]), "float32")
            wrong = self._negatives(later, there[:, k:], every)
            right = ops.sum(predicted * later, axis=-1, keepdims=True)
            scores = ops.concatenate(
                [right, ops.matmul(predicted, ops.transpose(wrong))], axis=-1
            )
            missed = ops.logsumexp(scores, axis=-1) - right[..., 0]
            both = there[:, k:] * there[:, : length - k]
            rest = tuple(range(1, len(missed.shape)))
            pairs = ops.maximum(ops.sum(both, axis=rest), 1.0)
            total = total + ops.sum(missed * both, axis=rest) / pairs
        return total / max(len(predictions), 1)

    def _negatives(self, later: Any, there: Any, every: GlobalBatch) -> Any:
        """Draws positions of the whole batch, of those that are there.

        Args:
            later: Tensor `(batch, positions, ..., channels)`.
            there: Tensor `(batch, positions, ...)`, 1 for those that are there.
            every: The batch of all replicas.
        """
        pool = ops.reshape(later, (-1, later.shape[-1]))
        # Uniform numbers, not integers up to a bound that is a tensor: Keras has those
        # on every backend.
        draws = keras.random.uniform((self.num_negatives,), seed=self.generator)
        # How many are there up to each.
        counts = ops.cumsum(ops.reshape(ops.cast(every.all(there), "int32"), (-1,)))
        size = ops.maximum(counts[-1], 1)
        chosen = ops.cast(ops.floor(draws * ops.cast(size, "float32")), "int32")
        chosen = ops.minimum(chosen, size - 1)
        place = ops.searchsorted(counts, chosen, side="right")
        place = ops.minimum(ops.cast(place, "int32"), ops.shape(counts)[0] - 1)
        each = ops.shape(pool)[0] // ops.maximum(ops.shape(later)[0], 1)
        return every.take(pool, place, each)

    def get_config(self):
        config = super().get_config()
        config.update(
            num_steps=self.num_steps, num_negatives=self.num_negatives, seed=self.seed
        )
        return config

"""Predicting what stands further on in an activation: Greedy InfoMax."""

from typing import Any

import keras
from keras import ops

from keras_e2e.objectives.base import Batch, LocalObjective, ModelSpec
from keras_e2e.objectives.class_labels import present
from keras_e2e.objectives.registry import register


@register("infonce")
@keras.saving.register_keras_serializable("keras_e2e")
class InfoNCE(LocalObjective):
    """Predicts an activation's later positions from earlier ones.

    Greedy InfoMax (Loewe et al. 2019, "Putting An End to End-to-End"), the InfoNCE loss of
    contrastive predictive coding (van den Oord et al. 2018): for `k` from 1 to `num_steps`, a
    matrix `W_k` makes of each position a prediction of the one `k` further along the first
    axis of positions (time, or the rows of an image), and the loss is the cross-entropy of
    finding it, by the scalar product, among `num_negatives` positions drawn at random from the
    batch. The draws are shared by all predictions of a `k` and anew in each step.

    For InfoNCE over two augmented views see `ViewContrast`.

    Args:
        num_steps: the farthest prediction; less where the axis is shorter. Default: 5, as in
            the paper.
        num_negatives: how many positions to tell the right one from. Default: 16, as in the
            paper.
        seed: of the draws.
        **kwargs: `weight` and `reach`, as in `LocalObjective`.

    Raises:
        ValueError: an activation without positions, with one only, or with an unknown
            number of them; `num_steps` or `num_negatives` below 1.

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
        for name, value in (("num_steps", num_steps), ("num_negatives", num_negatives)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"InfoNCE({name}={value!r}): expected an integer above 0.")
        self.num_steps, self.num_negatives = num_steps, num_negatives
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)
        self.predictions: list = []

    def build_head(self, activation: keras.KerasTensor, model: ModelSpec) -> None:
        shape = tuple(activation.shape)
        if len(shape) < 3 or shape[1] is None or shape[1] < 2:
            raise ValueError(
                "InfoNCE predicts later positions from earlier ones: it needs an "
                "activation (batch, positions, ..., channels) with a known number of "
                f"positions, at least 2. Found shape {shape}. Use ViewContrast(augment) or "
                "Reconstruction()."
            )
        for k in range(1, min(self.num_steps, shape[1] - 1) + 1):
            layer = keras.layers.Dense(
                shape[-1], use_bias=False, dtype=self.dtype_policy, name=f"step_{k}"
            )
            layer.build(shape)
            self.predictions.append(layer)

    def loss(self, activation: Any, batch: Batch) -> Any:
        total = 0.0
        length = activation.shape[1]
        # Examples of weight zero are nobody's negatives: how many count up to each.
        there = ops.cumsum(ops.cast(present(batch, activation), "int32"))
        for k, predict in enumerate(self.predictions, start=1):
            later = ops.cast(activation[:, k:], "float32")
            told = ops.cast(predict(activation[:, : length - k]), "float32")
            pool = ops.reshape(later, (-1, later.shape[-1]))
            # Uniform numbers, not integers up to a bound that is a tensor: Keras has
            # those on every backend.
            draws = keras.random.uniform((self.num_negatives,), seed=self.generator)
            each = ops.shape(pool)[0] // ops.shape(later)[0]
            size = ops.maximum(there[-1], 1) * each
            chosen = ops.cast(ops.floor(draws * ops.cast(size, "float32")), "int32")
            chosen = ops.minimum(chosen, size - 1)
            before = ops.cast(there[None, :] <= (chosen // each)[:, None], "int32")
            example = ops.minimum(ops.sum(before, axis=1), ops.shape(later)[0] - 1)
            wrong = ops.take(pool, example * each + chosen % each, axis=0)
            right = ops.sum(told * later, axis=-1, keepdims=True)
            scores = ops.concatenate(
                [right, ops.matmul(told, ops.transpose(wrong))], axis=-1
            )
            missed = ops.logsumexp(scores, axis=-1) - right[..., 0]
            total = total + ops.mean(missed, axis=tuple(range(1, len(missed.shape))))
        return total / len(self.predictions)

    def get_config(self):
        config = super().get_config()
        config.update(
            num_steps=self.num_steps, num_negatives=self.num_negatives, seed=self.seed
        )
        return config

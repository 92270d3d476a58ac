"""Objectives on how similar the examples of a batch are to each other."""

from typing import Any

import keras
from keras import ops

from keras_e2e.objectives import heads
from keras_e2e.objectives.base import LocalObjective
from keras_e2e.objectives.class_labels import (
    check_num_classes,
    labeled_output,
    one_hot,
    present,
    unit,
)
from keras_e2e.objectives.global_batch import GlobalBatch
from keras_e2e.objectives.registry import register
from keras_e2e.objectives.specs import Batch, ModelSpec
from keras_e2e.utils.validation import check_integer, check_number

_CONV = {3: keras.layers.Conv1D, 4: keras.layers.Conv2D, 5: keras.layers.Conv3D}


@register("sim")
@keras.saving.register_keras_serializable("keras_e2e")
class SimilarityMatching(LocalObjective):
    """Makes examples of one class similar and others dissimilar: `sim`.

    Noekland & Eidnes 2019, "Training Neural Networks with Local Error Signals": the mean
    squared error between two matrices of cosine similarities over the batch, those of the
    row-centered `g(h)` and those of the row-centered one-hot labels. `h` is the
    activation, and `g` is trained with the module: a Dense layer without bias for flat
    activations, a convolution of width 3 where there are positions, as wide as the
    activation. Of a map of more than 3 channels the standard deviation over the positions
    is compared, channel by channel (as in the authors' code); of a narrower one all its
    values. Set the boundary before a dropout.

    A constant activation has no direction: its similarities are 0. Under a distribution
    strategy the matrices are those of the whole batch.

    Args:
        output_name: String, name of the model output whose targets are the labels.
            Defaults to `None`: the only output.
        num_classes: Integer, the number of classes. Defaults to `None`: the size of that
            output.
        **kwargs: `weight` and `reach`, as in `LocalObjective`.

    Raises:
        ValueError: If `num_classes` is not an integer of at least 2. When the model is
            made: if the activation has a single value for each example, if the output does
            not score classes, or if one of several outputs must be named.

    Example:

    >>> import keras_e2e as e2e
    >>> e2e.ModuleBoundary("sim").objective.requires_targets
    True
    """

    requires_targets = True
    projection: keras.layers.Layer

    def __init__(
        self,
        *,
        output_name: str | None = None,
        num_classes: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.output_name = output_name
        self.num_classes = check_num_classes(self, num_classes)

    def build_head(self, activation: keras.KerasTensor, model: ModelSpec) -> None:
        self.labeled, self.scored = labeled_output(
            self, model, self.output_name, self.num_classes
        )
        shape = tuple(activation.shape)
        width, rank = shape[-1], len(shape)
        if rank == 2 and width == 1:
            raise ValueError(
                f"SimilarityMatching compares directions, and an activation of shape "
                f"{shape} has a single value for each example. Set the boundary on a wider "
                "layer, or use Prediction()."
            )
        if rank != 2 and rank not in _CONV:
            raise ValueError(
                f"SimilarityMatching takes flat activations or 1 to 3 axes of positions. "
                f"Found shape {shape}. Flatten it before the boundary."
            )
        # Channels as in the authors' code, where a narrow map is compared value by value.
        self.by_channel = rank > 2 and width > 3 and shape[1] != 1
        if rank > 2 and not self.by_channel and None in shape[1:]:
            raise ValueError(
                f"SimilarityMatching compares all values of a map of {width} channels, so "
                f"their number must be known. Found shape {shape}. Give the model a fixed "
                "input size, or set the boundary on a layer of more than 3 channels."
            )
        options = {"use_bias": False, "dtype": self.dtype_policy, "name": "projection"}
        if rank == 2:
            self.projection = keras.layers.Dense(width, **options)
        else:
            self.projection = _CONV[rank](width, 3, padding="same", **options)
        self.projection.build(shape)

    def loss(self, activation: Any, batch: Batch) -> Any:
        features = ops.cast(self.projection(activation), "float32")
        if self.by_channel:
            features = _spread(features)
        every = GlobalBatch(activation)
        rows = ops.reshape(features, (ops.shape(features)[0], -1))
        ours = _similarity(rows, every)
        theirs = _similarity(one_hot(self, batch, self.labeled, self.scored), every)
        counts = every.all(present(batch, activation))
        squares = ops.square(ours - ops.stop_gradient(theirs)) * counts[None, :]
        return ops.sum(squares, axis=1) / ops.maximum(ops.sum(counts), 1.0)

    def get_config(self):
        return {
            **super().get_config(),
            "output_name": self.output_name,
            "num_classes": self.num_classes,
        }


@register("supcon")
@keras.saving.register_keras_serializable("keras_e2e")
class SupervisedContrastive(LocalObjective):
    """Pulls examples of one class together and pushes all others apart.

    Khosla et al. 2020, "Supervised Contrastive Learning", the loss that InfoPro uses:
    for each example `i`, with `z` the head's output scaled to length 1, `P` the others of
    its class, `A` all others and `t` the temperature,
    `-1/|P| sum_p log(exp(z_i z_p / t) / sum_a exp(z_i z_a / t))`. An example without
    another of its class in the batch has loss 0.

    Args:
        head: The projector from the activation to `projection_dim` values: a string or a
            Keras layer, as in `heads.make_head`. Defaults to `"mlp"`.
        projection_dim: Integer, size of `z`. Defaults to 128, as in both papers.
        temperature: Number above 0. Defaults to 0.07, as in both papers.
        output_name: String, name of the model output whose targets are the labels.
            Defaults to `None`: the only output.
        num_classes: Integer, the number of classes. Defaults to `None`: the size of that
            output.
        **kwargs: `weight` and `reach`, as in `LocalObjective`.

    Raises:
        ValueError: If an argument is out of range. When the model is made: if the output
            does not score classes, or if one of several outputs must be named.

    Example:

    >>> import keras_e2e as e2e
    >>> e2e.objectives.SupervisedContrastive(temperature=0.1).projection_dim
    128
    """

    requires_targets = True
    network: keras.layers.Layer

    def __init__(
        self,
        head: Any = "mlp",
        *,
        projection_dim: int = 128,
        temperature: float = 0.07,
        output_name: str | None = None,
        num_classes: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        who = type(self).__name__
        self.head = heads.validate_head(head)
        self.projection_dim = check_integer(f"{who}: projection_dim", projection_dim, 1)
        self.temperature = check_number(f"{who}: temperature", temperature, above=0)
        self.output_name = output_name
        self.num_classes = check_num_classes(self, num_classes)

    def build_head(self, activation: keras.KerasTensor, model: ModelSpec) -> None:
        self.labeled, self.scored = labeled_output(
            self, model, self.output_name, self.num_classes
        )
        self.network = projector(
            self.head,
            activation,
            self.projection_dim,
            self.dtype_policy,
            model.following_blocks,
        )

    def loss(self, activation: Any, batch: Batch) -> Any:
        z = unit(ops.cast(self.network(activation, training=batch.training), "float32"))
        labels = one_hot(self, batch, self.labeled, self.scored)
        every = GlobalBatch(activation)
        counts = every.all(present(batch, activation))
        others = counts[None, :] * (1.0 - every.itself())
        positives = ops.matmul(labels, ops.transpose(every.all(labels))) * others
        scores = ops.matmul(z, ops.transpose(every.all(z))) / self.temperature
        return contrast(scores, positives, others)

    def get_config(self):
        config = super().get_config()
        config.update(
            head=heads.serialize(self.head),
            projection_dim=self.projection_dim,
            temperature=self.temperature,
            output_name=self.output_name,
            num_classes=self.num_classes,
        )
        return config

    @classmethod
    def from_config(cls, config):
        return super().from_config(
            {**config, "head": heads.deserialize(config.get("head"))}
        )


def projector(
    head: Any,
    activation: keras.KerasTensor,
    projection_dim: int,
    dtype: Any,
    following_blocks: tuple,
) -> keras.layers.Layer:
    """Returns a head from an activation to what is compared, as `heads.make_head` makes it.

    A linear one does not start from zero, though: where all projections are equal, no
    gradient differs between them, and neither it nor the module would ever change.
    """
    network = heads.make_head(
        head, activation, (None, projection_dim), dtype, following_blocks
    )
    if head is None or head == "linear":
        kernel = network.layers[-1].kernel
        kernel.assign(keras.initializers.GlorotUniform()(kernel.shape, kernel.dtype))
    return network


def contrast(scores: Any, positives: Any, others: Any) -> Any:
    """Returns minus the mean log-softmax of each row's positives among its others.

    Args:
        scores: Tensor of shape `(rows, columns)`.
        positives: Tensor of the same shape: weights of the positives, 0 for the rest.
        others: Tensor of the same shape: 1 for what the softmax runs over, 0 for the rest.

    Returns:
        A tensor of shape `(rows,)`; 0 for a row without positives.
    """
    scores = ops.where(others > 0, scores, ops.full_like(scores, -1e9))
    log_share = scores - ops.logsumexp(scores, axis=1, keepdims=True)
    log_share = ops.where(positives > 0, log_share, ops.zeros_like(log_share))
    found = ops.sum(positives, axis=1)
    return -ops.sum(positives * log_share, axis=1) / ops.maximum(found, 1.0)


def _spread(maps: Any) -> Any:
    """Returns each channel's standard deviation over positions, `(batch, channels)`."""
    axes = tuple(range(1, len(maps.shape) - 1))
    centered = maps - ops.mean(maps, axis=axes, keepdims=True)
    squares = ops.sum(ops.square(centered), axis=axes)
    positions = ops.cast(ops.prod(ops.stack([ops.shape(maps)[a] for a in axes])), "float32")
    # As PyTorch does, over one less. A constant channel has spread 0 and gradient 0.
    variance = squares / ops.maximum(positions - 1.0, 1.0)
    some = variance > 0
    root = ops.sqrt(ops.where(some, variance, ops.ones_like(variance)))
    return ops.where(some, root, ops.zeros_like(root))


def _similarity(rows: Any, every: GlobalBatch) -> Any:
    """Returns cosine similarities of row-centered rows to those of all replicas."""
    rows = unit(rows - ops.mean(rows, axis=1, keepdims=True))
    return ops.clip(ops.matmul(rows, ops.transpose(every.all(rows))), -1.0, 1.0)

"""Objectives that compare two views of each example, without labels."""

from typing import Any

import keras
from keras import ops

from keras_e2e.objectives import heads
from keras_e2e.objectives.augmentation import augmented_view, refuse_noise_on
from keras_e2e.objectives.base import LocalObjective
from keras_e2e.objectives.class_labels import present, unit
from keras_e2e.objectives.global_batch import GlobalBatch
from keras_e2e.objectives.registry import register
from keras_e2e.objectives.similarity import contrast, projector
from keras_e2e.objectives.specs import Batch, ModelSpec
from keras_e2e.utils.validation import check_integer, check_number


class TwoViews(LocalObjective):
    """The base of objectives on two views: the batch as it is, and an augmented one.

    The model is run once more on the augmented inputs, one pass for all boundaries with
    the same augmentation.

    Args:
        augment: A Keras layer or model that changes the model's inputs at random in
            training and keeps their shape, such as
            `keras.Sequential([RandomCrop(...), RandomFlip(...)])`. What the views have in
            common is what is learned, so choose with the data in mind. Under a
            distribution strategy each device gives it the whole batch. Defaults to `None`:
            `keras.layers.GaussianNoise(0.1)`, for a model of one input of floats.
        head: The projector from the activation to `projection_dim` values: a string or a
            Keras layer, as in `heads.make_head`. Defaults to `"mlp"`.
        projection_dim: Integer, size of what is compared. Defaults to 128.
        **kwargs: `weight` and `reach`, as in `LocalObjective`.

    Raises:
        TypeError: If `augment` is not a Keras layer.
        ValueError: If `projection_dim` is not an integer of at least 1. When the model is
            made: if `augment` is noise and the model's inputs are not one of floats.
    """

    network: keras.layers.Layer

    def __init__(
        self,
        augment: Any = None,
        *,
        head: Any = "mlp",
        projection_dim: int = 128,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        who = type(self).__name__
        if augment is None:
            # A fixed name: boundaries that leave it to the default share the pass.
            augment = keras.layers.GaussianNoise(0.1, name="augment")
        if not isinstance(augment, keras.layers.Layer):
            raise TypeError(
                f"{who}: augment={augment!r}: expected a Keras layer that changes the "
                "model's inputs at random, such as keras.layers.RandomFlip('horizontal') "
                "or keras.layers.GaussianNoise(0.1)."
            )
        self.augment = augment
        self.head = heads.validate_head(head)
        self.projection_dim = check_integer(f"{who}: projection_dim", projection_dim, 1)

    def extra_inputs(self):
        return augmented_view(self.augment)

    def build_head(self, activation: keras.KerasTensor, model: ModelSpec) -> None:
        refuse_noise_on(model.inputs, self.augment, type(self).__name__)
        self.network = projector(
            self.head,
            activation,
            self.projection_dim,
            self.dtype_policy,
            model.following_blocks,
        )

    def projections(self, activation: Any, batch: Batch) -> tuple[Any, Any]:
        """Returns the projections of both views, float32 `(batch, projection_dim)`."""
        (view,) = batch.extra_activations.values()
        first = self.network(activation, training=batch.training)
        second = self.network(view, training=batch.training)
        return ops.cast(first, "float32"), ops.cast(second, "float32")

    def get_config(self):
        config = super().get_config()
        config.update(
            augment=keras.saving.serialize_keras_object(self.augment),
            head=heads.serialize(self.head),
            projection_dim=self.projection_dim,
        )
        return config

    @classmethod
    def from_config(cls, config):
        config = {**config, "head": heads.deserialize(config.get("head"))}
        if isinstance(config.get("augment"), dict):
            config["augment"] = keras.saving.deserialize_keras_object(config["augment"])
        return super().from_config(config)


@register("barlow_twins")
@keras.saving.register_keras_serializable("keras_e2e")
class BarlowTwins(TwoViews):
    """Makes two views agree feature by feature, and the features independent.

    Zbontar et al. 2021, "Barlow Twins"; trained block by block by Siddiqui et al. 2023,
    "Blockwise Self-Supervised Learning at Scale". With both projections standardized over
    the batch and `C` their cross-correlation:
    `sum_i (1 - C_ii)^2 + off_diagonal * sum_(i != j) C_ij^2`. A statistic of the batch:
    under a distribution strategy, of the whole one.

    Args:
        augment: A Keras layer that makes the second view of the model's inputs. Defaults
            to `None`: `keras.layers.GaussianNoise(0.1)`. See `TwoViews`.
        off_diagonal: Number, 0 or larger, the factor of the second sum. Defaults to
            0.0051, as in the paper.
        **kwargs: `head` (defaults to `"mlp"`) and `projection_dim` (defaults to 128; 8192
            in the paper), as in `TwoViews`; `weight` and `reach`, as in `LocalObjective`.

    Raises:
        TypeError: If `augment` is not a Keras layer.
        ValueError: If a number is out of range.

    Example:

    >>> import keras, keras_e2e as e2e
    >>> noise = keras.layers.GaussianNoise(0.1)
    >>> e2e.objectives.BarlowTwins(noise, projection_dim=64).requires_targets
    False
    """

    def __init__(self, augment: Any = None, *, off_diagonal: float = 0.0051, **kwargs: Any):
        super().__init__(augment, **kwargs)
        self.off_diagonal = check_number("BarlowTwins: off_diagonal", off_diagonal, least=0)

    def loss(self, activation: Any, batch: Batch) -> Any:
        own, every = present(batch, activation), GlobalBatch(activation)
        counts = every.all(own)
        first, second = (
            _standardized(every.all(z), counts) for z in self.projections(activation, batch)
        )
        total = ops.maximum(ops.sum(counts), 1.0)
        products = ops.matmul(ops.transpose(first * counts[:, None]), second) / total
        same = ops.eye(self.projection_dim, dtype="float32")
        value = ops.sum(same * ops.square(1.0 - products)) + self.off_diagonal * ops.sum(
            (1.0 - same) * ops.square(products)
        )
        return ops.ones_like(own) * value

    def get_config(self):
        return {**super().get_config(), "off_diagonal": self.off_diagonal}


@register("vicreg")
@keras.saving.register_keras_serializable("keras_e2e")
class VICReg(TwoViews):
    """Makes two views close, every feature vary, and the features uncorrelated.

    Bardes et al. 2022, "VICReg". Of the projections of both views: `invariance` times
    their mean squared distance, `variance` times the mean of
    `max(0, 1 - sqrt(var + 1e-4))` over features and views, and `covariance` times the
    squared covariances off the diagonal, summed over the views and divided by
    `projection_dim`. A statistic of the batch: under a distribution strategy, of the whole
    one.

    Args:
        augment: A Keras layer that makes the second view of the model's inputs. Defaults
            to `None`: `keras.layers.GaussianNoise(0.1)`. See `TwoViews`.
        invariance: Number, 0 or larger, a factor. Defaults to 25.0, as in the paper.
        variance: Number, 0 or larger, a factor. Defaults to 25.0, as in the paper.
        covariance: Number, 0 or larger, a factor. Defaults to 1.0, as in the paper.
        **kwargs: `head` (defaults to `"mlp"`) and `projection_dim` (defaults to 128; 8192
            in the paper), as in `TwoViews`; `weight` and `reach`, as in `LocalObjective`.

    Raises:
        TypeError: If `augment` is not a Keras layer.
        ValueError: If a number is out of range.

    Example:

    >>> import keras, keras_e2e as e2e
    >>> e2e.objectives.VICReg(keras.layers.GaussianNoise(0.1)).variance
    25.0
    """

    def __init__(
        self,
        augment: Any = None,
        *,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        **kwargs: Any,
    ):
        super().__init__(augment, **kwargs)
        self.invariance = check_number("VICReg: invariance", invariance, least=0)
        self.variance = check_number("VICReg: variance", variance, least=0)
        self.covariance = check_number("VICReg: covariance", covariance, least=0)

    def loss(self, activation: Any, batch: Batch) -> Any:
        own, every = present(batch, activation), GlobalBatch(activation)
        counts = every.all(own)
        views = self.projections(activation, batch)
        apart = ops.mean(ops.square(views[0] - views[1]), axis=1)
        spread, related = 0.0, 0.0
        for z in map(every.all, views):
            total = ops.sum(counts)
            weights = counts[:, None]
            centered = (
                z - ops.sum(z * weights, axis=0) / ops.maximum(total, 1.0)
            ) * weights
            products = ops.matmul(ops.transpose(centered), centered)
            products = products / ops.maximum(total - 1.0, 1.0)
            deviation = ops.sqrt(ops.diagonal(products) + 1e-4)
            spread = spread + ops.mean(ops.relu(1.0 - deviation)) / 2
            off = products * (1.0 - ops.eye(self.projection_dim, dtype="float32"))
            related = related + ops.sum(ops.square(off)) / self.projection_dim
        return self.invariance * apart + (
            self.variance * spread + self.covariance * related
        ) * ops.ones_like(own)

    def get_config(self):
        config = super().get_config()
        config.update(
            invariance=self.invariance, variance=self.variance, covariance=self.covariance
        )
        return config


@register("view_contrast")
@keras.saving.register_keras_serializable("keras_e2e")
class ViewContrast(TwoViews):
    """Finds the other view of an example among all other examples: InfoNCE over views.

    Chen et al. 2020, "SimCLR" (NT-Xent): with the projections of both views scaled to
    length 1, the cross-entropy of finding an example's other view among all other
    projections of the batch, at a temperature. For a batch of one example the loss is 0.
    Under a distribution strategy the batch is the whole one.

    Args:
        augment: A Keras layer that makes the second view of the model's inputs. Defaults
            to `None`: `keras.layers.GaussianNoise(0.1)`. See `TwoViews`.
        temperature: Number above 0. Defaults to 0.1, as in the paper for ImageNet.
        **kwargs: `head` (defaults to `"mlp"`) and `projection_dim` (defaults to 128, as in
            the paper), as in `TwoViews`; `weight` and `reach`, as in `LocalObjective`.

    Raises:
        TypeError: If `augment` is not a Keras layer.
        ValueError: If a number is out of range.

    Example:

    >>> import keras, keras_e2e as e2e
    >>> e2e.objectives.ViewContrast(keras.layers.GaussianNoise(0.1)).temperature
    0.1
    """

    def __init__(self, augment: Any = None, *, temperature: float = 0.1, **kwargs: Any):
        super().__init__(augment, **kwargs)
        self.temperature = check_number("ViewContrast: temperature", temperature, above=0)

    def loss(self, activation: Any, batch: Batch) -> Any:
        every = GlobalBatch(activation)
        counts, itself = every.all(present(batch, activation)), every.itself()
        views = [unit(z) for z in self.projections(activation, batch)]
        both = ops.concatenate(views, axis=0)
        columns = ops.concatenate([every.all(z) for z in views], axis=0)
        nothing = ops.zeros_like(itself)
        positives = _blocks([[nothing, itself], [itself, nothing]])
        here = ops.concatenate([counts, counts], axis=0)[None, :]
        others = here * (1.0 - _blocks([[itself, nothing], [nothing, itself]]))
        scores = ops.matmul(both, ops.transpose(columns)) / self.temperature
        values = contrast(scores, positives * others, others)
        return ops.mean(ops.reshape(values, (2, -1)), axis=0)

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature}


def _blocks(rows: list) -> Any:
    """A matrix made of rows of matrices."""
    return ops.concatenate([ops.concatenate(row, axis=1) for row in rows], axis=0)


def _standardized(z: Any, counts: Any) -> Any:
    """Scales to mean 0 and variance 1 over the examples that count; a constant is 0."""
    weights, total = counts[:, None], ops.maximum(ops.sum(counts), 1.0)
    centered = z - ops.sum(z * weights, axis=0) / total
    variance = ops.sum(ops.square(centered) * weights, axis=0) / total
    return centered / ops.sqrt(variance + 1e-5)

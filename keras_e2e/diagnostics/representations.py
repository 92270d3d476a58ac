"""Quantities of what a module's activation holds."""

from typing import Any

from keras import ops

from keras_e2e.diagnostics.entries import unpadded
from keras_e2e.diagnostics.quantity import EXPENSIVE, ModuleView, Quantity
from keras_e2e.utils.validation import check_integer, is_number

# The most classes that a probe predicts: as many as ImageNet has.
MAX_CLASSES = 1000


class DormantFraction(Quantity):
    """Share of units that are hardly ever active (Sokar et al. 2023, arXiv 2302.12902).

    A unit is a channel of the last axis. It is dormant when its mean absolute
    activation, divided by the mean of that over the units, is at most `threshold`.

    Args:
        threshold: Float, 0 or larger. Defaults to 0.025, as in the paper's
            reinforcement-learning experiments.
        schedule: Integer or `None`: when it is measured (see `Quantity`). Defaults to
            `None`, whenever the callback measures.

    Raises:
        ValueError: If an argument is invalid.

    Example:

    >>> import keras_e2e as e2e
    >>> e2e.diagnostics.DormantFraction(threshold=0.1).healthy
    (0.0, 0.5)
    """

    name = "dormant_fraction"
    formula = "share of units with E abs(h_i) / mean_k E abs(h_k) <= 0.025"
    interpretation = "low, not rising"
    source = "Sokar et al. 2023 (arXiv 2302.12902)"
    unit = "fraction"
    healthy = (0.0, 0.5)

    def __init__(self, threshold: float = 0.025, **kwargs: Any):
        super().__init__(**kwargs)
        if not (is_number(threshold) and threshold >= 0):
            raise ValueError(
                f"DormantFraction: threshold={threshold!r}: expected a number, 0 or larger."
            )
        self.threshold = threshold

    def compute(self, module: ModuleView, state: list) -> tuple[Any, list]:
        activation = module.activation
        if activation is None or len(activation.shape) < 2:
            return None, state
        axes = tuple(range(len(activation.shape) - 1))
        # The number of examples cancels in the ratio: sums will do.
        seen = unpadded(ops.abs(activation), module.mask)
        use = module.total(ops.sum(seen, axis=axes))
        # Without a quotient, so that with every unit at zero all are dormant.
        active = use > self.threshold * ops.mean(use)
        return ops.mean(ops.cast(ops.logical_not(active), "float32")), state


class ProbeAccuracy(Quantity):
    """Accuracy of a linear probe that predicts the classes from a module's activation.

    The probe is ridge regression onto the classes in closed form (Alain & Bengio 2016,
    arXiv 1610.01644, train theirs by gradient), from sums over the measurements before
    this one, so its accuracy is that on examples it was not fitted on. Positions are
    averaged; where there are more units than `units`, evenly spaced ones are used. NaN at
    the first measurement, and for targets that are not classes.

    Args:
        units: Integer: how many units of the activation to look at, at most. Defaults to
            128.
        ridge: Float above 0: the penalty, relative to the mean square of the features.
            Defaults to 0.01.
        decay: Float above 0, at most 1: decay of the sums from one measurement to the
            next, for features change. Defaults to 0.9.
        schedule: Integer or `None`: when it is measured (see `Quantity`). Defaults to
            every 200 steps.

    Raises:
        ValueError: If an argument is invalid.

    Example:

    >>> import keras_e2e as e2e
    >>> e2e.diagnostics.ProbeAccuracy(units=64, schedule=100).schedule
    100
    """

    name = "probe_accuracy"
    formula = "accuracy of ridge regression on the pooled activation"
    interpretation = "should rise with depth"
    source = "Alain & Bengio 2016 (arXiv 1610.01644)"
    unit = "fraction"
    schedule = EXPENSIVE
    requires_targets = True

    def __init__(
        self, units: int = 128, ridge: float = 0.01, decay: float = 0.9, **kwargs: Any
    ):
        super().__init__(**kwargs)
        check_integer("ProbeAccuracy: units", units, 1)
        if not (is_number(ridge) and ridge > 0):
            raise ValueError(
                f"ProbeAccuracy: ridge={ridge!r}: expected a number above 0, such as 0.01."
            )
        if not (is_number(decay) and 0.0 < decay <= 1.0):
            raise ValueError(
                f"ProbeAccuracy: decay={decay!r}: expected a number above 0 and at most 1, "
                "such as 0.9."
            )
        self.units, self.ridge, self.decay = int(units), ridge, decay

    def init_state(self, shapes: list[tuple]) -> list[tuple]:
        # The shapes of the activation and of the classes are not known here: the sums
        # have room for the most there can be.
        return [(), (self.units + 1, self.units + 1), (self.units + 1, MAX_CLASSES)]

    def compute(self, module: ModuleView, state: list) -> tuple[Any, list]:
        classes = module.classes
        features = pooled(module.activation, self.units, module.mask)
        if features is None or classes is None or classes.shape[1] > MAX_CLASSES:
            return None, state
        seen, gram, cross = state
        count = classes.shape[1]
        width = features.shape[1] + 1
        h = ops.concatenate([features, ops.ones_like(features[:, :1])], axis=1)
        known = gram[:width, :width]
        scale = ops.trace(known) / width
        penalty = self.ridge * ops.maximum(scale, 1e-12) * ops.eye(width)
        weights = ops.solve(known + penalty, cross[:width, :count])
        guess = ops.argmax(ops.matmul(h, weights), axis=1)
        right = ops.cast(ops.equal(guess, ops.argmax(classes, axis=1)), "float32")
        accuracy = module.total(ops.sum(right)) / module.num_examples
        gram = self.decay * gram + _filled_up(_products(module, h, h), gram.shape)
        cross = self.decay * cross + _filled_up(_products(module, h, classes), cross.shape)
        value = ops.where(seen > 0, accuracy, float("nan"))
        return value, [ops.ones_like(seen), gram, cross]


class EffectiveRank(Quantity):
    """How many directions the activations of a batch fill.

    `exp` of the entropy of the normalized singular values of the matrix of examples and
    units (Roy & Vetterli 2007, "The effective rank"). Positions are averaged; where there
    are more units than `units`, evenly spaced ones are used.

    Args:
        units: Integer: how many units of the activation to look at, at most. Defaults to
            128.
        schedule: Integer or `None`: when it is measured (see `Quantity`). Defaults to
            every 200 steps.

    Raises:
        ValueError: If an argument is invalid.

    Example:

    >>> import keras_e2e as e2e
    >>> e2e.diagnostics.EffectiveRank(units=64).unit
    'directions'
    """

    name = "effective_rank"
    formula = "exp(entropy of the normalized singular values of H)"
    interpretation = "must not collapse"
    source = "Roy & Vetterli 2007"
    unit = "directions"
    schedule = EXPENSIVE

    def __init__(self, units: int = 128, **kwargs: Any):
        super().__init__(**kwargs)
        check_integer("EffectiveRank: units", units, 1)
        self.units = int(units)

    def compute(self, module: ModuleView, state: list) -> tuple[Any, list]:
        features = pooled(module.activation, self.units, module.mask)
        if features is None:
            return None, state
        # Sums over the replicas need the smaller product with the units on both sides.
        gram = _products(module, features, features)
        squares = ops.maximum(ops.linalg.eigh(gram)[0], 0.0)
        # Below the precision of the product there is rounding error only.
        squares = ops.where(squares > 1e-6 * ops.max(squares), squares, 0.0)
        values = ops.sqrt(squares)
        share = values / ops.maximum(ops.sum(values), 1e-37)
        entropy = -ops.sum(
            ops.where(share > 0, share * ops.log(ops.maximum(share, 1e-37)), 0)
        )
        return ops.where(ops.max(squares) > 0, ops.exp(entropy), 0.0), state


def pooled(activation: Any, units: int, mask: Any = None) -> Any:
    """An activation as `(batch, at most this many units)`; None where it has no units.

    Positions are averaged, padding left out.
    """
    if activation is None or len(activation.shape) < 2 or activation.shape[-1] is None:
        return None
    axes = tuple(range(1, len(activation.shape) - 1))
    if axes and mask is not None:
        kept = ops.sum(unpadded(ops.ones_like(activation), mask), axis=axes)
        total = ops.sum(unpadded(activation, mask), axis=axes)
        activation = total / ops.maximum(kept, 1.0)
    elif axes:
        activation = ops.mean(activation, axis=axes)
    stride = -(-activation.shape[-1] // units)
    return activation[:, ::stride]


def _products(module: ModuleView, left: Any, right: Any) -> Any:
    """The products of two `(batch, units)`, summed over all examples of the step."""
    return module.total(ops.matmul(ops.transpose(left), right))


def _filled_up(matrix: Any, shape: tuple) -> Any:
    """The matrix with zeros behind its rows and columns, up to a shape."""
    return ops.pad(
        matrix, [(0, whole - part) for whole, part in zip(shape, matrix.shape, strict=True)]
    )

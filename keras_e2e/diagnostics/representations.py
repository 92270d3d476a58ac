"""Quantities read from what a module's activation holds."""

from typing import Any

from keras import ops

from keras_e2e.diagnostics.quantity import EXPENSIVE, ModuleView, Quantity, unpadded


class ProbeAccuracy(Quantity):
    """How well a linear probe reads the classes off a module's activation.

    Ridge regression onto the classes in closed form (Alain & Bengio 2016, arXiv
    1610.01644, train theirs by gradient), from sums over the readings before this one,
    so it is measured on examples that the probe has not seen. Positions are averaged; of
    more units than `units`, evenly spaced ones are used. NaN at the first reading.

    Args:
        units: units of the activation to look at, at most.
        ridge: the penalty, relative to the mean square of the features.
        decay: of the sums, per reading: features change.
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
        if isinstance(units, bool) or not isinstance(units, int) or units < 1:
            raise ValueError(f"ProbeAccuracy(units={units!r}): expected an int, 1 or more.")
        if not ridge > 0 or not 0.0 < decay <= 1.0:
            raise ValueError(
                f"ProbeAccuracy(ridge={ridge!r}, decay={decay!r}): expected a ridge above "
                "0 and 0 < decay <= 1."
            )
        self.units, self.ridge, self.decay = units, ridge, decay

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
        accuracy = module.total(ops.sum(right)) / module.examples
        new = module.total(ops.matmul(ops.transpose(h), h))
        new_cross = module.total(ops.matmul(ops.transpose(h), classes))
        pads = self.units + 1 - width
        gram = self.decay * gram + ops.pad(new, ((0, pads), (0, pads)))
        cross = self.decay * cross + ops.pad(
            new_cross, ((0, pads), (0, MAX_CLASSES - count))
        )
        value = ops.where(seen > 0, accuracy, float("nan"))
        return value, [ops.ones_like(seen), gram, cross]


# Classes that a probe tells apart at most: ImageNet's.
MAX_CLASSES = 1000


class EffectiveRank(Quantity):
    """How many directions the activations of a batch fill.

    `exp` of the entropy of the normalised singular values of the matrix of examples and
    units (Roy & Vetterli 2007, "The effective rank"). Positions are averaged; of more
    units than `units`, evenly spaced ones are used.

    Args:
        units: units of the activation to look at, at most.
    """

    name = "effective_rank"
    formula = "exp(entropy of the normalised singular values of H)"
    interpretation = "must not collapse"
    source = "Roy & Vetterli 2007"
    unit = "directions"
    schedule = EXPENSIVE

    def __init__(self, units: int = 128, **kwargs: Any):
        super().__init__(**kwargs)
        if isinstance(units, bool) or not isinstance(units, int) or units < 1:
            raise ValueError(f"EffectiveRank(units={units!r}): expected an int, 1 or more.")
        self.units = units

    def compute(self, module: ModuleView, state: list) -> tuple[Any, list]:
        features = pooled(module.activation, self.units, module.mask)
        if features is None:
            return None, state
        # Sums over the replicas need the smaller product with the units on both sides.
        gram = module.total(ops.matmul(ops.transpose(features), features))
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
    """An activation as `(batch, at most so many units)`; None where it has no units.

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

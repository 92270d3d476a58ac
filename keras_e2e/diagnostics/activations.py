"""Quantities read from a module's activation."""

from typing import Any

from keras import ops

from keras_e2e.diagnostics.quantity import ModuleView, Quantity, unpadded


class DormantFraction(Quantity):
    """Share of units that hardly ever act (Sokar et al. 2023, arXiv 2302.12902).

    A unit is a channel of the last axis. It is dormant when its mean absolute
    activation, divided by the mean of that over the units, is at most `threshold`.

    Args:
        threshold: 0.025, as in the paper's reinforcement-learning experiments.
    """

    name = "dormant_fraction"
    formula = "share of units with E abs(h_i) / mean_k E abs(h_k) <= 0.025"
    interpretation = "low, not rising"
    source = "Sokar et al. 2023 (arXiv 2302.12902)"
    unit = "fraction"
    healthy = (0.0, 0.5)

    def __init__(self, threshold: float = 0.025, **kwargs: Any):
        super().__init__(**kwargs)
        self.threshold = threshold

    def compute(self, module: ModuleView, state: list) -> tuple[Any, list]:
        activation = module.activation
        if activation is None or len(activation.shape) < 2:
            return None, state
        axes = tuple(range(len(activation.shape) - 1))
        # The number of examples cancels in the ratio: sums will do.
        seen = unpadded(ops.abs(activation), module.mask)
        use = module.total(ops.sum(seen, axis=axes))
        score = use / ops.mean(use)
        dormant = ops.cast(score <= self.threshold, "float32")
        # With every unit at zero the score is 0/0: all are dormant.
        return ops.where(ops.max(use) > 0, ops.mean(dormant), 1.0), state

"""Quantities read from a module's gradients and updates."""

import math
from typing import Any

from keras import ops

from keras_e2e.diagnostics.quantity import ModuleView, Quantity, sum_of_squares


class GradRMS(Quantity):
    """Root mean square of a module's gradient: `norm(g) / sqrt(P)`."""

    name = "grad_rms"
    formula = "norm(g) / sqrt(P)"
    reading = "flat within about 10x across modules"

    def compute(self, module: ModuleView, state: list) -> tuple[Any, list]:
        square = sum_of_squares(module.gradients)
        if square is None:
            return None, state
        count = sum(math.prod(g.shape) for g in module.gradients if g is not None)
        return ops.sqrt(square / count), state


class UpdateRatio(Quantity):
    """Size of the step relative to the weights: `norm(dtheta) / norm(theta)`.

    The update is the one the optimizer made, not learning rate times gradient.
    """

    name = "update_ratio"
    formula = "norm(dtheta) / norm(theta)"
    reading = "about 1e-3; frozen or thrashing modules stand out"
    healthy = (1e-4, 1e-2)

    def compute(self, module: ModuleView, state: list) -> tuple[Any, list]:
        update = sum_of_squares(module.updates)
        if update is None:
            return None, state
        return ops.sqrt(update / sum_of_squares(module.variables)), state


class GradientSNR(Quantity):
    """Signal to noise of a module's gradient: `norm(E g)^2 / trace(Var g)`.

    Mean and variance over batches, from exponential moving averages over the
    instrumented steps: m of g (one copy of the module's gradient) and s of norm(g)^2.
    With c the sum of the squared averaging weights, E norm(m)^2 = norm(E g)^2 +
    c trace(Var g), so (norm(m)^2 - c s) / (s - norm(m)^2) estimates the ratio without
    the floor that pure noise would leave; it is clipped at 0. The first reading after
    a switch of modes is NaN: one batch has no variance.

    A low value with a low loss is convergence; a low value with the loss at its
    starting value is starvation (see `verdicts`). The quantity is that of
    Shalev-Shwartz, Shamir & Shammah (2017), "Failures of Gradient-Based Deep Learning".

    Args:
        decay: decay of the averages per instrumented step. 0.9 averages over about 10.
    """

    name = "gradient_snr"
    formula = "norm(E g)^2 / trace(Var g)"
    reading = "0 with the loss at its starting value: the module gets no usable signal"
    healthy = (0.01, 10.0)

    def __init__(self, decay: float = 0.9):
        if not 0.0 < decay < 1.0:
            raise ValueError(f"GradientSNR(decay={decay}): expected 0 < decay < 1.")
        self.decay = decay

    def init_state(self, shapes: list[tuple]) -> list[tuple]:
        # decay^t counted up from 0 as 1 - decay^t, the average of norm(g)^2, of g.
        return [(), (), *shapes]

    def compute(self, module: ModuleView, state: list) -> tuple[Any, list]:
        square = sum_of_squares(module.gradients)
        if square is None:
            return None, state
        decay = self.decay
        seen, mean_square, *means = state
        power = (1.0 - seen) * decay  # decay^t
        mean_square = decay * mean_square + (1.0 - decay) * square
        means = [
            m if g is None else decay * m + (1.0 - decay) * g
            for m, g in zip(means, module.gradients, strict=True)
        ]
        total = 1.0 - power
        signal = sum_of_squares(means) / ops.square(total)
        spread = mean_square / total
        c = (1.0 - decay) * (1.0 + power) / ((1.0 + decay) * total)
        snr = ops.maximum(signal - c * spread, 0.0) / (spread - signal)
        # After one batch c is 1 and both differences are rounding errors.
        value = ops.where(power < 0.999 * decay, snr, float("nan"))
        return value, [total, mean_square, *means]

"""Quantities that compare gradients: of half batches, of the local loss, of the task."""

import math
from typing import Any

from keras import ops

from keras_e2e.diagnostics.entries import dot, sum_of_squares
from keras_e2e.diagnostics.quantity import EXPENSIVE, ModuleView, Quantity
from keras_e2e.utils.validation import is_number

# A gradient whose root mean square is below this is rounding error: no direction.
FLOOR = 1e-12


class Reliability(Quantity):
    """Agreement of the end-to-end gradients on two halves of the batch: their cosine.

    It bounds `local_alignment` from above: a gradient that does not agree with itself
    agrees with nothing. For pure noise over `P` parameters it is 0, give or take
    `1 / sqrt(P)`.

    Args:
        schedule: Integer or `None`: when it is measured (see `Quantity`). Defaults to
            every 200 steps.

    Example:

    >>> import keras_e2e as e2e
    >>> quantity = e2e.diagnostics.Reliability(schedule=50)
    >>> quantity.name, quantity.schedule
    ('reliability', 50)
    """

    name = "reliability"
    formula = "cos(g_1, g_2) of the task's gradients on two halves of the batch"
    interpretation = "the ceiling of local_alignment; 0 +- 1/sqrt(P) is noise"
    source = "split-half reliability, Spearman 1910"
    healthy = (0.05, 1.0)
    schedule = EXPENSIVE
    extra_passes = ("halves",)

    def compute(self, module: ModuleView, state: list) -> tuple[Any, list]:
        if module.halves is None:
            return None, state
        return cosine(*module.halves), state


class LocalAlignment(Quantity):
    """Cosine of a module's local gradient and of its end-to-end gradient.

    Above 0 a step along the local gradient lowers the task loss, too; below 0 the two
    are in conflict. NaN where either gradient is rounding error. Look at each module: an
    average would hide one in conflict.

    Args:
        schedule: Integer or `None`: when it is measured (see `Quantity`). Defaults to
            every 200 steps.

    Example:

    >>> import keras_e2e as e2e
    >>> e2e.diagnostics.LocalAlignment().formula
    'cos(g_local, g_end_to_end)'
    """

    name = "local_alignment"
    formula = "cos(g_local, g_end_to_end)"
    interpretation = "above 0 the objective helps the task, below 0 they are in conflict"
    source = "Yu et al. 2020 (arXiv 2001.06782), between tasks there"
    healthy = (0.0, 1.0)
    schedule = EXPENSIVE
    extra_passes = ("halves", "local")

    def compute(self, module: ModuleView, state: list) -> tuple[Any, list]:
        if module.halves is None or module.local_gradients is None:
            return None, state
        return cosine(module.local_gradients, _both(module.halves)), state


class NoiseScale(Quantity):
    """The batch size at which signal and noise of the task's gradient are equal.

    The simple noise scale `trace(Var g) / norm(E g)^2`, per example, from the gradients
    on a batch and on its halves (McCandlish et al. 2018, arXiv 1812.06162, appendix A.1).
    Numerator and denominator are averaged over the measurements separately. Infinite
    where the estimate of the signal is not positive; NaN where the gradient of a half is
    not finite, which the averages leave out.

    Args:
        decay: Float between 0 and 1: decay of the averages from one measurement to the
            next. Defaults to 0.9.
        schedule: Integer or `None`: when it is measured (see `Quantity`). Defaults to
            every 200 steps.

    Raises:
        ValueError: If an argument is invalid.

    Example:

    >>> import keras_e2e as e2e
    >>> e2e.diagnostics.NoiseScale(decay=0.5).unit
    'examples'
    """

    name = "noise_scale"
    formula = "trace(Var g) / norm(E g)^2 for single examples"
    interpretation = "far above the batch size: the gradient is mostly noise"
    source = "McCandlish et al. 2018 (arXiv 1812.06162)"
    unit = "examples"
    schedule = EXPENSIVE
    extra_passes = ("halves",)

    def __init__(self, decay: float = 0.9, **kwargs: Any):
        super().__init__(**kwargs)
        if not (is_number(decay) and 0.0 < decay < 1.0):
            raise ValueError(
                f"NoiseScale: decay={decay!r}: expected a number above 0 and below 1, such "
                "as 0.9."
            )
        self.decay = decay

    def init_state(self, shapes: list[tuple]) -> list[tuple]:
        return [(), ()]

    def compute(self, module: ModuleView, state: list) -> tuple[Any, list]:
        if module.halves is None:
            return None, state
        large = sum_of_squares(_both(module.halves))
        if large is None:
            return None, state
        small = sum(sum_of_squares(half) for half in module.halves) / 2.0
        many = module.num_examples
        signal = self.decay * state[0] + (2.0 * large - small)
        noise = self.decay * state[1] + (small - large) * many
        value = ops.where(signal > 0, noise / ops.maximum(signal, 1e-37), float("inf"))
        # In mixed precision a half may overflow where the batch did not.
        finite = ops.logical_and(ops.isfinite(large), ops.isfinite(small))
        kept = [
            ops.where(finite, new, old)
            for new, old in zip((signal, noise), state, strict=True)
        ]
        return ops.where(finite, value, float("nan")), kept


def cosine(left: list, right: list) -> Any:
    """The cosine of two gradients; NaN where one is at the floor, None without any."""
    product = dot(left, right)
    if product is None:
        return None
    pairs = [(a, b) for a, b in zip(left, right, strict=True) if None not in (a, b)]
    count = sum(math.prod(a.shape) for a, _ in pairs)
    squares = [sum_of_squares([pair[i] for pair in pairs]) for i in range(2)]
    lengths = [ops.sqrt(square) for square in squares]
    least = ops.minimum(*lengths) / math.sqrt(count)
    # One after the other: the product of two small numbers may be zero.
    value = product / ops.maximum(lengths[0], 1e-37) / ops.maximum(lengths[1], 1e-37)
    return ops.where(least > FLOOR, value, float("nan"))


def _both(halves: tuple[list, list]) -> list:
    """The gradient on the whole batch."""
    return [None if None in (a, b) else (a + b) / 2.0 for a, b in zip(*halves, strict=True)]

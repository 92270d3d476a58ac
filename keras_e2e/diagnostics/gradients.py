"""Quantities of a module's gradients and updates."""

import math
from typing import Any

import numpy as np
from keras import ops

from keras_e2e.diagnostics.joint import JointQuantity, Rows, shapes_of, sums_of_squares
from keras_e2e.utils.validation import check_integer, is_number

# A gradient SNR below this was noise in the runs on the parity of k digits
# (BUILD_NOTES.md): where figures draw a line. No verdict rests on it.
SNR_FLOOR = 0.02


class GradRMS(JointQuantity):
    """Root mean square of a module's gradient: `norm(g) / sqrt(P)` over `P` parameters.

    Args:
        schedule: Integer or `None`: when it is measured (see `Quantity`). Defaults to
            `None`, whenever the callback measures.

    Example:

    >>> import keras_e2e as e2e
    >>> e2e.diagnostics.GradRMS().formula
    'norm(g) / sqrt(P)'
    """

    name = "grad_rms"
    formula = "norm(g) / sqrt(P)"
    interpretation = "flat within about 10x across modules"
    source = "Schneider et al. 2021, Cockpit (arXiv 2102.06604)"

    def compute_all(self, modules, state):
        there = [[g for g in m.gradients if g is not None] for m in modules]
        applies = [*map(bool, there)]
        if not any(applies):
            return None, applies, state
        counts = [sum(math.prod(g.shape) for g in own) for own in there]
        squares = sums_of_squares(there)
        return [ops.sqrt(squares / np.array(counts, "float32"))], applies, state


class UpdateRatio(JointQuantity):
    """Size of the step relative to the weights: `norm(dtheta) / norm(theta)`.

    The update is the one the optimizer made, not learning rate times gradient.

    Args:
        schedule: Integer or `None`: when it is measured (see `Quantity`). Defaults to
            `None`, whenever the callback measures.

    Example:

    >>> import keras_e2e as e2e
    >>> e2e.diagnostics.UpdateRatio().healthy
    (0.0001, 0.01)
    """

    name = "update_ratio"
    formula = "norm(dtheta) / norm(theta)"
    interpretation = "about 1e-3; frozen or thrashing modules stand out"
    source = "Karpathy 2015, CS231n course notes"
    healthy = (1e-4, 1e-2)

    def compute_all(self, modules, state):
        there = [[u for u in m.updates if u is not None] for m in modules]
        applies = [*map(bool, there)]
        if not any(applies):
            return None, applies, state
        squares = sums_of_squares(there)
        ratios = ops.sqrt(squares / sums_of_squares([m.variables for m in modules]))
        # Of weights of zero that stay where they are it is no 0 / 0.
        found = ops.where(ops.equal(squares, 0.0), 0.0, ratios)
        return [found], applies, state


class GradientSNR(JointQuantity):
    """Signal-to-noise ratio of a module's gradient: `norm(E g)^2 / trace(Var g)`.

    Mean and variance are over batches, estimated from exponential moving averages over
    the measurements: `m` of the gradient `g`, and `s` of `norm(g)^2`. With `c` the sum of
    the squared averaging weights, `E norm(m)^2 = norm(E g)^2 + c trace(Var g)`, so
    `(norm(m)^2 - c s) / (s - norm(m)^2)` estimates the ratio without the floor that pure
    noise would leave, whatever the optimizer. Both differences are clipped at 0: pure
    noise gives 0, and identical batches, which have no noise, give infinity. The first
    measurement after a switch of modes is NaN: one batch has no variance. A gradient that
    is not finite gives NaN and is left out of the averages.

    `gradient_snr_error` comes along: its standard error. The numerator is a weighted mean
    of the products of each gradient with the average of those before it, which are
    unbiased and uncorrelated, so it follows from how they scatter, from the third
    measurement on. What the denominator adds is small where the ratio is.

    Evenly spaced entries of a large variable stand for all of them: both moments are sums
    over entries, and the share that is left out cancels in the ratio. So neither the
    memory for `m` nor the time grows with the model.

    A value of 0 alone is no fault: where batches are small it is the rule in healthy
    training too, for the noise of each step is turned back by later ones, and no verdict
    rests on it (see `judge`). The quantity is that of Shalev-Shwartz, Shamir & Shammah
    (2017), "Failures of Gradient-Based Deep Learning".

    Args:
        decay: Float between 0 and 1: decay of the averages from one measurement to the
            next. Defaults to 0.9, which averages over about 10.
        entries: Integer: how many entries of a variable to look at, at most. Defaults to
            65536.
        schedule: Integer or `None`: when it is measured (see `Quantity`). Defaults to
            `None`, whenever the callback measures.

    Raises:
        ValueError: If an argument is invalid.

    Example:

    >>> import keras_e2e as e2e
    >>> e2e.diagnostics.GradientSNR(decay=0.5).columns
    ('gradient_snr', 'gradient_snr_error')
    """

    name = "gradient_snr"
    formula = "norm(E g)^2 / trace(Var g)"
    interpretation = "above 0 batches agree on a direction; 0 alone is no fault"
    source = "Shalev-Shwartz et al. 2017 (arXiv 1703.07950)"
    healthy = (0.01, 10.0)
    extra_outputs = ("gradient_snr_error",)

    def __init__(self, decay: float = 0.9, entries: int = 65536, **kwargs: Any):
        super().__init__(**kwargs)
        if not (is_number(decay) and 0.0 < decay < 1.0):
            raise ValueError(
                f"GradientSNR: decay={decay!r}: expected a number above 0 and below 1, "
                "such as 0.9."
            )
        check_integer("GradientSNR: entries", entries, 1)
        self.decay, self.entries = decay, int(entries)

    def init_states(self, shapes):
        # Sums over the steps: six of numbers (see `_add`), and that of the gradients.
        return [(6, len(shapes)), Rows(shapes, self.entries).shape]

    def compute_all(self, modules, state):
        applies = [any(g is not None for g in m.gradients) for m in modules]
        if not any(applies):
            return None, applies, state
        moments, sums = state
        rows = Rows([shapes_of(m) for m in modules], self.entries)
        gradients = rows.join([m.gradients for m in modules])
        added = self.decay * sums + gradients
        square, product, signal = rows.sums(
            [ops.square(gradients), gradients * sums, ops.square(added)]
        )
        following = self._add(moments, square, product)
        finite = ops.isfinite(square)
        columns = [
            ops.where(finite, number, float("nan"))
            for number in self._numbers(following, signal)
        ]
        kept = [
            ops.where(finite, following, moments),
            ops.where(rows.spread(finite), added, sums),
        ]
        return columns, applies, kept

    def _add(self, moments: Any, square: Any, product: Any) -> Any:
        """The sums over the steps, with a step more; a vector each, by module.

        They are those of the weights, of their squares and of `norm(g)^2`, and those of the
        products of each gradient with the average of those before it, by their squared
        weights: of 1, of the product and of its square.

        Args:
            moments: The sums before the step.
            square: The squared norms of the step's gradients.
            product: Their inner products with the sums of the gradients before them.
        """
        decay, weight = self.decay, moments[0]
        # Weights of 1, decay, decay^2, ...: one pass over the gradient less than for
        # weights that add up to 1.
        decays = [decay, decay**2, decay, *[decay**4] * 3]
        # A pair of steps counts by the product of its weights: what the latest brings in
        # is (decay * weight)^2, times powers of product / weight.
        one, scale = ops.ones_like(square), decay**2
        new = [one, one, square]
        new += [ops.square(weight), weight * product, ops.square(product)]
        scales = np.array([1.0, 1.0, 1.0, scale, scale, scale], "float32")[:, None]
        return moments * np.array(decays, "float32")[:, None] + ops.stack(new) * scales

    def _numbers(self, moments: Any, squared_sums: Any) -> tuple[Any, Any]:
        """The ratios and their standard errors.

        With `w` the sum of the weights, `v` that of their squares, `q` that of `norm(g)^2`
        and `s` the squared norm of that of the gradients, `norm(m)^2` is `s / w^2`, and `c`
        is `v / w^2`.
        """
        weight, weight_square, squares, *scatter = ops.unstack(moments, 6)
        # Of equal gradients the difference is a rounding error, of either sign.
        noise = ops.maximum(squares * weight - squared_sums, 0.0)
        signal = squared_sums * weight - weight_square * squares
        # After one batch c is 1 and both differences are rounding errors.
        value = ops.where(
            weight > 1.0, ops.maximum(signal, 0.0) / (weight * noise), float("nan")
        )
        # noise / (w^2 - v) is the variance. Products of equal weight would say as much if
        # there were pairs^2 / scatter[0] of them.
        pairs = ops.square(weight) - weight_square
        around = ops.maximum(scatter[2] - ops.square(scatter[1]) / scatter[0], 0.0)
        left = ops.square(pairs) / 4.0 - scatter[0]
        error = ops.sqrt(around / left) * pairs / noise
        return value, ops.where(weight > 1.0 + self.decay, error, float("nan"))

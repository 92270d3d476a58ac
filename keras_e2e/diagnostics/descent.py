"""By how much a module's steps lower the loss on examples that they were not made from."""

from typing import Any

from keras import ops

from keras_e2e.diagnostics.joint import JointQuantity, Rows, shapes_of
from keras_e2e.utils.validation import check_integer, is_number


class Descent(JointQuantity):
    """Fall of the loss per step that a module's steps bring on a batch they have not seen.

    `-g . mean(dtheta)`: the gradient `g` on this batch, times a running average of the
    updates measured before. Batch and updates are independent, so noise does not add up:
    a gradient of noise gives 0 on average, of either sign, whatever the optimizer, and a
    usable signal more than 0. It is not clipped, so a mean of many is a test. The sum
    over all modules is about the fall of the loss per step.

    `descent_cosine` comes along: the cosine of `g` with that average, turned round: the
    same without the scales of gradients and steps. Both are NaN at the first measurement
    in a training mode.

    Evenly spaced entries of a large variable stand for all of them.

    Args:
        decay: Float from 0 to below 1: decay of the average from one measurement to the
            next. Defaults to 0.5: older steps led through other places.
        entries: Integer: how many entries of a variable to look at, at most. Defaults to
            65536.
        schedule: Integer or `None`: when it is measured (see `Quantity`). Defaults to
            `None`, whenever the callback measures.

    Raises:
        ValueError: If an argument is invalid.

    Example:

    >>> import keras_e2e as e2e
    >>> e2e.diagnostics.Descent().columns
    ('descent', 'descent_cosine')
    """

    name = "descent"
    formula = "-g . mean(dtheta before)"
    interpretation = (
        "above 0 the module's steps lower the loss on batches not seen yet; near or below "
        "0 is common in healthy training, too"
    )
    unit = "loss per step"
    source = "Lan et al. 2019, loss change allocation (arXiv 1909.01440), on a fresh batch"
    extra_outputs = ("descent_cosine",)

    def __init__(self, decay: float = 0.5, entries: int = 65536, **kwargs: Any):
        super().__init__(**kwargs)
        if not (is_number(decay) and 0.0 <= decay < 1.0):
            raise ValueError(
                f"Descent: decay={decay!r}: expected a number from 0 to below 1, such as "
                "0.5."
            )
        check_integer("Descent: entries", entries, 1)
        self.decay, self.entries = decay, int(entries)

    def init_states(self, shapes):
        return [(), Rows(shapes, self.entries).shape]

    def compute_all(self, modules, state):
        weight, sums = state
        steps = [_steps(m.gradients, m.updates) for m in modules]
        applies = [any(g is not None for g, _ in own) for own in steps]
        if not any(applies):
            return None, applies, state
        rows = Rows([shapes_of(m) for m in modules], self.entries)
        gradients, updates = (
            rows.join([[pair[i] for pair in own] for own in steps], weighted=True)
            for i in range(2)
        )
        product, *squares = rows.sums(
            [gradients * sums, ops.square(gradients), ops.square(sums)]
        )
        known = weight > 0.0
        values = ops.where(known, -product / ops.maximum(weight, 1.0), float("nan"))
        # One after the other: the product of two small numbers may be zero.
        cosines = -product / ops.sqrt(squares[0]) / ops.sqrt(squares[1])
        cosines = ops.where(known, cosines, float("nan"))
        following = [self.decay * weight + 1.0, self.decay * sums + updates]
        return [values, cosines], applies, following


def _steps(gradients: list, updates: list) -> list[tuple]:
    """Pairs of gradient and update, of None where either is missing."""
    pairs = zip(gradients, updates, strict=True)
    return [p if all(t is not None for t in p) else (None, None) for p in pairs]

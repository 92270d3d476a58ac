"""From the losses to the gradients: one backward pass, or one for each reach."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf


class Backward:
    """The losses of a step, ready to be differentiated.

    As a rule they are one sum and need one backward pass: what a loss must not reach,
    a stopped gradient keeps from it. Where a boundary is open for one loss and closed
    for another (`reach`), the sum is taken apart: a loss that would flow too far is
    differentiated on its own, with respect to the variables it may move only.

    Made inside the tape, which must then be persistent.

    Args:
        model: the modular model, after `compute_loss`.
        tape: the tape of the step.
        loss: the sum of all.
    """

    def __init__(self, model: Any, tape: tf.GradientTape, loss: Any):
        self.tape = tape
        state = model._modular
        flow = state.flow()
        scale = model.optimizer.scale_loss
        if not flow.separate:
            self.parts: list[tuple] = [(scale(loss), None, None)]
            return
        modules = {module.name: module for module in state.modules}
        terms = dict(model._take_forward().terms)
        self.parts = []
        for name in flow.separate:
            window = flow.windows[name]
            movable = _variables([modules[inside] for inside in window])
            self.parts.append((scale(terms.pop(name)), movable, window))
        last = state.modules[-1].name
        if last not in terms:
            # Penalties of weights came with the task loss. The modules that this one
            # does not reach have theirs on their own.
            for name in (n for n in modules if n not in flow.windows[last]):
                layers = [*modules[name].layers, modules[name].objective]
                penalties = [p for layer in layers if layer for p in layer.losses]
                if penalties:
                    own = _variables([modules[name]])
                    part = (scale(tf.add_n(penalties)), own, frozenset([name]))
                    self.parts.append(part)
        if terms:
            self.parts.append((scale(tf.add_n(list(terms.values()))), None, None))

    def gradients(
        self,
        variables: Sequence,
        taps: Sequence = (),
        places: Sequence[frozenset[str]] = (),
    ) -> list:
        """The gradients of the variables, then of the taps; None where there is none.

        Args:
            variables: the variables to move.
            taps: further tensors on the tape.
            places: for each tap the modules that a loss must reach to speak through it.
        """
        sources = [*variables, *taps]
        total: list = [None] * len(sources)
        for loss, movable, window in self.parts:
            chosen = [
                i
                for i in range(len(sources))
                if movable is None
                or (i < len(variables) and id(sources[i]) in movable)
                or (i >= len(variables) and places[i - len(variables)] & window)
            ]
            found = self.tape.gradient(loss, [sources[i] for i in chosen])
            for i, gradient in zip(chosen, found, strict=True):
                if gradient is not None:
                    total[i] = gradient if total[i] is None else _sum(total[i], gradient)
        return total


def _sum(first: Any, second: Any) -> Any:
    # An embedding's gradient may be sparse.
    return tf.convert_to_tensor(first) + tf.convert_to_tensor(second)


def _variables(modules: list) -> set[int]:
    """`id`s of what the losses that reach these modules may move, heads included."""
    return {
        id(v)
        for module in modules
        for v in [*module.trainable_variables, *module.head_variables]
    }

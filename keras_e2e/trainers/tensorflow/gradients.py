"""From the losses to the gradients: one backward pass, or one for each reach."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from keras_e2e.modules.module import Module
from keras_e2e.modules.step_context import StepContext


class _Part(NamedTuple):
    """A loss that is differentiated on its own.

    Attributes:
        loss: The loss, scaled as the optimizer requires.
        variables: `id`s of the variables that it may change; None for all.
        window: The modules that it reaches; None for all.
    """

    loss: Any
    variables: set[int] | None = None
    window: frozenset[str] | None = None


class StepGradients:
    """The losses of a step, ready to be differentiated.

    As a rule they are one sum and need one backward pass: what a loss must not reach,
    a stopped gradient keeps from it. Where a boundary is open for one loss and closed
    for another (`reach`), the sum is taken apart: a loss that would flow too far is
    differentiated on its own, with respect to the variables it may change only.

    It is made inside the tape, which must then be persistent.

    Args:
        model: The modular model, after `compute_loss`.
        context: The `StepContext` of the step, with its losses.
        tape: The `tf.GradientTape` of the step.
        loss: Scalar, the sum of all losses.
        scale: Function that scales a loss. Defaults to `None`: as the optimizer requires.
    """

    def __init__(
        self,
        model: Any,
        context: StepContext,
        tape: tf.GradientTape,
        loss: Any,
        scale: Callable[[Any], Any] | None = None,
    ):
        self.tape = tape
        scale = scale or model.optimizer.scale_loss
        if model._modular.flow().separate:
            self.parts = _parts(model, dict(context.losses.terms), scale)
        else:
            self.parts = [_Part(scale(loss))]

    def of(
        self,
        variables: Sequence,
        taps: Sequence = (),
        places: Sequence[frozenset[str]] = (),
    ) -> list:
        """The gradients of the variables, then of the taps; None where there is none.

        Args:
            variables: List of the variables to change.
            taps: List of further tensors on the tape. Defaults to `()`.
            places: List with, for each tap, the modules that a loss must reach to flow
                through it. Defaults to `()`.
        """
        sources = [*variables, *taps]
        total: list = [None] * len(sources)
        for loss, movable, window in self.parts:
            chosen = [
                i
                for i in range(len(sources))
                if movable is None
                or (i < len(variables) and id(sources[i]) in movable)
                or (i >= len(variables) and places[i - len(variables)] & (window or set()))
            ]
            found = self.tape.gradient(loss, [sources[i] for i in chosen])
            for i, gradient in zip(chosen, found, strict=True):
                if gradient is not None:
                    total[i] = gradient if total[i] is None else _sum(total[i], gradient)
        return total

    def release(self) -> None:
        """Lets go of the tape, which holds every activation; no gradients afterwards."""
        del self.tape


def unscaled(gradient: Any, scale: Any) -> Any:
    """A gradient in float32, without the loss scale of mixed precision; None for None."""
    if gradient is None:
        return None
    return tf.cast(tf.convert_to_tensor(gradient), tf.float32) / scale


def _parts(model: Any, terms: dict[str, Any], scale: Callable[[Any], Any]) -> list[_Part]:
    """The loss taken apart where some losses must not flow as far as others."""
    state = model._modular
    flow = state.flow()
    modules = {module.name: module for module in state.modules}
    parts = []
    for name in flow.separate:
        window = flow.windows[name]
        movable = _variables([modules[inside] for inside in window])
        parts.append(_Part(scale(terms.pop(name)), movable, window))
    last = state.modules[-1].name
    if last not in terms:
        # Penalties of weights came with the task loss. The modules that this one
        # does not reach have theirs on their own.
        for name in (n for n in modules if n not in flow.windows[last]):
            layers = [*modules[name].layers, modules[name].objective]
            penalties = [p for layer in layers if layer for p in layer.losses]
            if penalties:
                own = _variables([modules[name]])
                parts.append(_Part(scale(tf.add_n(penalties)), own, frozenset([name])))
    if terms:
        parts.append(_Part(scale(tf.add_n(list(terms.values())))))
    return parts


def _sum(first: Any, second: Any) -> Any:
    # An embedding's gradient may be sparse.
    return tf.convert_to_tensor(first) + tf.convert_to_tensor(second)


def _variables(modules: list[Module]) -> set[int]:
    """`id`s of what the losses that reach these modules may change, heads included."""
    return {id(v) for module in modules for v in module.all_trainable_variables}


def over_replicas(tensor: Any) -> Any:
    """The sum of a tensor over the replicas; the tensor itself on one device."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return tensor
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensor)

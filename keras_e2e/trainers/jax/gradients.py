"""From the losses to the gradients, all of them from one forward pass."""

import contextlib
import functools
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
from keras import ops, tree

from keras_e2e.modules.forward_record import Crossing
from keras_e2e.modules.loss_parts import LossPart
from keras_e2e.modules.step_context import StepContext
from keras_e2e.trainers.local_losses import compiled_outputs
from keras_e2e.trainers.module_views import Signals
from keras_e2e.trainers.part_losses import part_loss, part_penalties, part_variables
from keras_e2e.trainers.sharing import refuse_inseparable_losses, shares_variables
from keras_e2e.utils import compat
from keras_e2e.utils.compat.jax_steps import no_cotangent, tapped


class StepGradients:
    """The gradients of one step.

    Losses that meet in a module are one sum and need one backward pass. Where a loss must
    not flow as far as it could, or modules share variables, there are several
    (`loss_parts`), each a backward pass of its own through what it reaches.

    Args:
        model: The modular model.
        context: The `StepContext` of the step, which is open.
        state: Tuple of the values of the variables: those that are trained, the others, the
            optimizer's and the metrics'.
        batch: Tuple of the inputs, targets and sample weights.
        share: Float, a factor of the scale of the loss. Defaults to 1.0.
        measures: Boolean, whether the gradients at the outputs of the model and on both
            sides of the boundaries are wanted too, and what crossed them. Defaults to
            `False`.

    Attributes:
        crossings: List of the `Crossing`s of the pass, if it `measures`.
        masks: List with the mask of the only tensor of each, or None.
        local: Dict with the local losses by boundary, without weights.
        task: Scalar, the task loss, or None.
        penalized: Boolean, whether there are penalties in it.
        output_masks: List with the mask of each of the model's outputs, or None.
    """

    def __init__(
        self,
        model: Any,
        context: StepContext,
        state: tuple,
        batch: tuple,
        share: float = 1.0,
        measures: bool = False,
    ):
        self._model, self._context, self._share = model, context, share
        _, *self._state = state
        self._batch = batch
        self._variables, self._measures = model.trainable_variables, measures
        self._sharing = shares_variables(model)
        self._parts = _parts(model)
        self._penalties: list[list] = []
        self._taps = _Taps()
        self._outputs: list[int | None] = []
        self._places: list[tuple[list, list]] = []
        self._crossed: list[Crossing] = []
        self.crossings: list[Crossing] = []
        self.masks: list = []
        self.local: dict[str, Any] = {}
        self.task: Any = None
        self.penalized = False
        self.output_masks: list = []
        if measures:
            context.tap = context.watch = self._taps
        if self._parts or self._sharing or measures:
            context.after_pass = self._after_pass

    def take(self, values: list) -> tuple[tuple, list]:
        """Runs the pass, and takes the gradients of its losses.

        Args:
            values: List of the values of the model's trainable variables.

        Returns:
            A tuple of the unscaled loss, the outputs and the next values of the variables
            that are not trained and of the metrics', and a list of gradients. None where
            none reaches a variable, if they are differentiated apart or it `measures`.
        """

        def losses_of(values: list, source: Any) -> tuple[list, tuple]:
            self._taps.begin(source)
            if self._measures:
                values = [self._taps(value) for value in values]
            loss, rest = self._run(values)
            losses = self._losses() if self._parts else [loss]
            return losses, (rest, self._held(rest) if self._measures else None)

        losses, pull, (rest, held) = jax.vjp(losses_of, values, jnp.zeros(()), has_aux=True)
        if held is not None:
            self._take_up(held)
        gradients: list = [None] * len(values)
        for place, loss in enumerate(losses):
            if loss is None:
                continue
            seeds = [_seed(other, other is loss) for other in losses]
            part = self._parts[place] if self._parts else None
            with self._taps.noting(self._open_to(part)) as reached:
                found, _ = pull(seeds)
            for index in self._own(part):
                if not self._measures or index in reached:
                    gradients[index] = _sum(gradients[index], found[index])
        return rest, gradients

    def signals(self, unscaled: Callable[[Any], Any]) -> Signals:
        """The gradients at outputs and boundaries, once they are taken.

        Args:
            unscaled: Function that takes the loss scale out of one; of None it makes None.
        """

        def at(tensors: Sequence) -> list:
            return [unscaled(self._taps.at(tensor)) for tensor in tensors]

        return Signals(
            at(self._outputs),
            [at(places) for places, _ in self._places],
            [at(places) for _, places in self._places],
        )

    def _run(self, values: list) -> tuple[Any, tuple]:
        """The pass: Keras's own function of the variables' values."""
        others, optimizer_values, metrics = self._state
        loss, rest = self._model.compute_loss_and_updates(
            *(values, others, metrics, *self._batch),
            training=True,
            optimizer_variables=optimizer_values,
        )
        return (loss if self._share == 1.0 else loss * self._share), rest

    def scale(self, loss: Any) -> Any:
        """A loss, scaled as the optimizer requires it."""
        optimizer, values = self._model.optimizer, self._state[1]
        with keras.StatelessScope([*zip(optimizer.variables, values, strict=True)]):
            return optimizer.scale_loss(loss) * self._share

    def _after_pass(self) -> None:
        if self._sharing and self._context.mode is None:  # not a pass for diagnostics
            refuse_inseparable_losses(self._model)
        self.penalized = bool(self._model.losses)
        self._penalties = [
            part_penalties(self._model, part, self._variables, self._context.testing)
            for part in self._parts
        ]

    def _losses(self) -> list:
        """The loss of each part, scaled; None for none."""
        found = []
        for part, penalties in zip(self._parts, self._penalties, strict=True):
            loss = part_loss(part, self._context.losses, functools.partial(list, penalties))
            found.append(None if loss is None else self.scale(loss))
        return found

    def _own(self, part: LossPart | None) -> list[int]:
        """The places of the variables that a part may change."""
        if part is None:
            return [*range(len(self._variables))]
        own = {id(v) for v in part_variables(self._model, part, self._variables)}
        return [place for place, v in enumerate(self._variables) if id(v) in own]

    # What is measured

    def _held(self, rest: Any) -> tuple:
        """What is to be seen of the pass. The places of its tensors are noted."""
        _, y_pred, *_ = rest
        record, losses = self._context.record, self._context.losses
        crossings = [] if record is None else record.crossings
        at = self._taps.place_of
        outputs = [] if y_pred is None else tree.flatten(y_pred)
        self._outputs = [*map(at, outputs)]
        self._places = [
            ([*map(at, crossing.inputs)], [*map(at, crossing.outputs)])
            for crossing in crossings
        ]
        self._crossed = [c._replace(predicted_gradient=None) for c in crossings]
        masks = [compat.mask_of(crossing.outputs[0]) for crossing in crossings]
        tensors = [(list(c.inputs), list(c.outputs)) for c in crossings]
        local = {} if losses is None else dict(losses.local)
        task = None if losses is None else losses.task
        return tensors, masks, local, task, [*map(compat.mask_of, outputs)]

    def _take_up(self, held: tuple) -> None:
        tensors, self.masks, self.local, self.task, self.output_masks = held
        self.crossings = [
            crossing._replace(inputs=tuple(inputs), outputs=tuple(outputs))
            for crossing, (inputs, outputs) in zip(self._crossed, tensors, strict=True)
        ]

    def _open_to(self, part: LossPart | None) -> set[int | None]:
        """The places at boundaries and outputs through which the losses of a part flow."""
        if not self._measures:
            return set()
        modules = self._model._modular.modules
        trained = {m.name for m in modules} if part is None else part.trains
        before = {name for m in modules if m.name in trained for name in m.inputs}
        found = {*self._outputs} if modules[-1].name in trained else set()
        for crossing, (entering, leaving) in zip(self.crossings, self._places, strict=True):
            found.update(entering if crossing.boundary.module in trained else ())
            found.update(leaving if crossing.boundary.module in before else ())
        return found


class _Taps:
    """Makes tensors of a pass whose gradients are noted, each with a place of its own."""

    def __init__(self) -> None:
        self._source: Any = None
        self._tensors: list = []
        self._found: dict[int, Any] = {}
        self._summed: dict[int, Any] = {}

    def begin(self, source: Any) -> None:
        """Begins a pass; `source` is a scalar by which it is differentiated."""
        self._source, self._tensors = source, []

    def __call__(self, tensor: Any) -> Any:
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            return tensor
        place = len(self._tensors)
        found = tapped(tensor, self._source, lambda g: self._found.update({place: g}))
        self._tensors.append(found)
        return found

    def place_of(self, tensor: Any) -> int | None:
        """The place of a tensor of the pass; None if it has none."""
        places = [i for i, known in enumerate(self._tensors) if known is tensor]
        return places[0] if places else None

    def at(self, place: int | None) -> Any:
        """The gradient at a place; None for none."""
        return None if place is None else self._summed.get(place)

    @contextlib.contextmanager
    def noting(self, places: Container[int | None]) -> Iterator[dict[int, Any]]:
        """In this context a backward pass is made, whose gradients at places count.

        Yields:
            A dict that then holds the gradients that there were, by place.
        """
        self._found = {}
        yield self._found
        for place, gradient in self._found.items():
            if place in places:
                self._summed[place] = _sum(self._summed.get(place), gradient)


def are_apart(model: Any) -> bool:
    """Whether a step in the mode in force cannot leave its gradients to Keras.

    Since its losses are differentiated one by one, or might not be told apart, or since
    gradients are left out.
    """
    state = model._modular
    if state.frozen_variables(compiled_outputs(model)):
        return True
    shared = shares_variables(model) and state.mode.name == "sequential"
    return shared or bool(_parts(model))


def _parts(model: Any) -> Sequence[LossPart]:
    """The losses that are differentiated one by one; none where one pass does."""
    flow = model._modular.flow()
    separate = flow.separate or shares_variables(model)
    return flow.parts if separate and len(flow.parts) > 1 else ()


def unscaled(gradient: Any, scale: Any) -> Any:
    """A gradient in float32, without the loss scale of mixed precision; None for None."""
    return None if gradient is None else ops.cast(gradient, "float32") / scale


def _seed(loss: Any, counts: bool) -> Any:
    """What a backward pass begins with at a loss."""
    if loss is None:
        return None
    return jnp.ones_like(loss) if counts else no_cotangent(loss)


def _sum(before: Any, gradient: Any) -> Any:
    return gradient if before is None else before + gradient

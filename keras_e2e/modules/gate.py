"""What the boundaries of a model do in one forward pass."""

from collections.abc import Callable, Container, Mapping
from typing import Any, NamedTuple

import keras
from keras import ops, tree

from keras_e2e.modules.forward_record import Crossing, ForwardRecord
from keras_e2e.utils import compat


class FeedbackRoute(NamedTuple):
    """How an objective with a `feedback_source` takes the gradient at some module's end.

    Attributes:
        objective: The objective, a `Signal`.
        weight: Number, the factor that the training mode gives to the objective.
        place: Integer, the index of this end among those that the objective takes
            feedback from.
    """

    objective: Any
    weight: float
    place: int

    def factor(self) -> Any:
        """Returns the factor in force: that of the mode times the objective's own."""
        return self.weight * self.objective.weight_now()


class Gate:
    """Records what crosses the boundaries, and stops or feeds back gradients there.

    Args:
        boundary_ids: `id`s of the boundaries that count. A boundary of another modular
            model that shares layers with this one is the identity here.
        stopping: Names of the boundaries that stop the gradient.
        routes: For the end of each module, by name, the feedback that is taken there
            (`gradient_flow.GradientFlow`).
        outputs: Tuple of `Output`, the model's outputs with their targets, for
            objectives that predict a gradient from them.
        tap: Function that makes a tensor of its own of each boundary's output, or None.
        hold: Function of the record, the boundary and a list of its outputs, which is
            called as soon as the boundary is crossed and returns what goes on; or None.
        watch: Function that makes a tensor of its own of what enters each boundary, and of
            each output of the model; or None.

    Attributes:
        record: The `ForwardRecord` that the pass fills.
    """

    def __init__(
        self,
        boundary_ids: Container[int],
        stopping: Container[str] = (),
        routes: Mapping[str, Mapping[str, FeedbackRoute]] | None = None,
        outputs: tuple = (),
        tap: Callable[[Any], Any] | None = None,
        hold: Callable[[ForwardRecord, Any, Any], Any] | None = None,
        watch: Callable[[Any], Any] | None = None,
    ):
        self.boundary_ids = boundary_ids
        self.stopping = stopping
        self.routes = routes or {}
        self.outputs = outputs
        self.tap, self.hold, self.watch = tap, hold, watch
        self.record = ForwardRecord()

    def cross(self, boundary: Any, inputs: Any) -> Any:
        """Records that a `ModuleBoundary` was crossed and returns what goes on.

        Args:
            boundary: The boundary.
            inputs: What it is given: a tensor, or a list of several.
        """
        if id(boundary) not in self.boundary_ids:
            return inputs
        flat = tree.flatten(inputs)
        masks = [compat.mask_of(tensor) for tensor in flat]
        flat = self.inject_feedback(boundary.module, flat)
        if self.watch is not None:
            flat = [self.watch(tensor) for tensor in flat]
        outputs, predicted = self._stopped(boundary, flat)
        if self.tap is not None:
            outputs = [self.tap(output) for output in outputs]
        crossing = Crossing(boundary, tuple(flat), tuple(outputs), predicted)
        self.record.crossings.append(crossing)
        if self.hold is not None:
            # Else Keras would note it on what the boundary returns, which is too late.
            _set_masks(outputs, masks)
            outputs = self.hold(self.record, boundary, outputs)
            self.record.crossings[-1] = crossing._replace(outputs=tuple(outputs))
            _set_masks(outputs, masks)
        return tree.pack_sequence_as(inputs, outputs)

    def _stopped(self, boundary: Any, tensors: list) -> tuple[list, Any]:
        """What a boundary lets through of tensors, and the gradient that it predicts."""
        name = boundary.module
        if name not in self.stopping:
            return tensors, None
        outputs, predicted = [ops.stop_gradient(tensor) for tensor in tensors], None
        route = self.routes.get(name, {}).get(name)
        if route is not None:
            place = boundary.seen[0] if boundary.seen else 0
            output = outputs[place]
            predicted = route.objective.predict_gradient(output, self.outputs)
            outputs[place] = _with_feedback(output, -predicted * route.factor())
        return [boundary.add_noise(output) for output in outputs], predicted

    def inject_feedback(self, end: str, tensors: list) -> list:
        """Connects a module's end to the objectives that take their feedback there.

        The tensors keep their values. Their gradient also flows, through the fixed map
        of such an objective, to the activation at that objective's boundary.

        Args:
            end: String, the module's name.
            tensors: List of the tensors that leave the module.

        Returns:
            A list of tensors of the same values.
        """
        routes = self.routes.get(end, {})
        for crossing in self.record.crossings:
            name = crossing.boundary.module
            if name == end or name not in routes:
                continue
            route = routes[name]
            projected = route.objective.project_feedback(crossing.activation, route.place)
            factor = route.factor()
            tensors = [
                _with_feedback(tensor, one * factor)
                for tensor, one in zip(tensors, projected, strict=True)
            ]
        return tensors

    def watch_outputs(self, outputs: Any) -> Any:
        """The model's outputs, each as a tensor of its own where they are watched."""
        if self.watch is None:
            return outputs
        flat = tree.flatten(outputs)
        found = [self.watch(tensor) for tensor in flat]
        _set_masks(found, [compat.mask_of(tensor) for tensor in flat])
        return tree.pack_sequence_as(outputs, found)

    def inject_output_feedback(self, end: str, outputs: Any) -> Any:
        """Does what `inject_feedback` does, at the model's outputs.

        Args:
            end: String, the last module's name.
            outputs: The model's outputs, in their structure.
        """
        if not self.routes.get(end):
            return outputs
        flat = tree.flatten(outputs)
        # A cross-entropy is taken from the values under a softmax, another loss is not.
        raw = [compat.logits_of(tensor) for tensor in flat]
        fed, fed_raw = self.inject_feedback(end, flat), self.inject_feedback(end, raw)
        found = []
        for before, tensor, under, logits in zip(flat, fed, raw, fed_raw, strict=True):
            if under is not before:
                # In Keras's own precision for losses, whose cast would lose the logits.
                dtype = keras.config.floatx()
                tensor, logits = ops.cast(tensor, dtype), ops.cast(logits, dtype)
                tensor = compat.with_logits(tensor, logits)
            compat.set_mask(tensor, compat.mask_of(before))
            found.append(tensor)
        return tree.pack_sequence_as(outputs, found)


def _set_masks(tensors: list, masks: list) -> None:
    for tensor, mask in zip(tensors, masks, strict=True):
        compat.set_mask(tensor, mask)


def _with_feedback(tensor: Any, feedback: Any) -> Any:
    """The tensor, to the bit; its gradient also flows into `feedback`."""
    feedback = ops.cast(feedback, tensor.dtype)
    return tensor + (feedback - ops.stop_gradient(feedback))

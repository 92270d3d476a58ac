"""What a training step of TensorFlow makes and reads, without running it."""

import contextlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_e2e.models.memory_program import Operation, Program, Segment
from keras_e2e.modules.boundary import ModuleBoundary
from keras_e2e.modules.gate import Gate
from keras_e2e.modules.step_context import step_context
from keras_e2e.modules.training_mode import TrainingMode
from keras_e2e.utils import compat

# What these return lies where their first input lies.
_VIEWS = {
    "ExpandDims",
    "Identity",
    "PreventGradient",
    "Reshape",
    "Snapshot",
    "Squeeze",
    "StopGradient",
}
# These ask for the shape of a tensor, not for the tensor.
_ASK_SHAPE = {"Rank", "Shape", "ShapeN", "Size", "ZerosLike"}
# What these return belongs to the state of the model, or to the graph.
_STATE = {"Const", "ReadVariableOp", "VarHandleOp"}
_LISTS = {"EmptyTensorList", "TensorListReserve"}
_LOOPS = {"StatelessWhile", "While"}


class _Marks(Gate):
    """Stops the gradient at each boundary, and notes how far the graph has come there.

    Args:
        boundary_ids: As for `Gate`.
        make_tape: Function that returns a tape.
        one_by_one: Boolean, whether each module has a tape of its own, rather than all of
            them one.
    """

    def __init__(self, boundary_ids: Any, make_tape: Callable, one_by_one: bool):
        super().__init__(boundary_ids)
        self.make_tape, self.one_by_one = make_tape, one_by_one
        self.tapes: list = []
        self.open = contextlib.ExitStack()
        # For each boundary what crossed it each time, under which tape.
        self.ends: dict[str, list[tuple[list, Any]]] = {}
        self.marks: dict[str, int] = {}

    def next_tape(self) -> None:
        """Opens a tape in place of the one that is open."""
        self.open.close()
        self.tapes.append(self.open.enter_context(self.make_tape()))

    def cross(self, boundary, inputs):
        if id(boundary) not in self.boundary_ids:
            return inputs
        flat = tree.flatten(inputs)
        floats = [tensor for tensor in flat if tensor.dtype.is_floating] or flat
        self.ends.setdefault(boundary.module, []).append((floats, self.tapes[-1]))
        self.marks[boundary.module] = operations_so_far()
        if self.one_by_one:
            self.next_tape()
        return tree.map_structure(keras.ops.stop_gradient, inputs)


def operations_so_far() -> int:
    """How many operations the graph has that is being made."""
    import tensorflow as tf

    return len(tf.compat.v1.get_default_graph().get_operations())


def trace(model: Any, inputs: Any, split: bool) -> tuple[Program, list[str]]:
    """The program of a step in which each module is trained where it ends.

    It is traced, not run. A module's loss is taken to need its end alone, and the task
    loss the outputs.

    Args:
        model: A modular model whose modules are known.
        inputs: Its inputs, as `tf.TensorSpec`s with known shapes.
        split: Boolean, whether the boundaries count. Without them all of it is one module.

    Returns:
        The program and the names of the boundaries, in the order in which they are crossed.
    """
    import tensorflow as tf

    # A tape that is asked once shows what loops keep; one that is asked for every module,
    # where they stand side by side, does not.
    one_by_one = not split or _is_chain(model)
    found: dict[str, Any] = {}

    def step(x):
        def make_tape() -> Any:
            return tf.GradientTape(persistent=not one_by_one)

        state = model._modular
        gate = _Marks(state.boundary_ids if split else (), make_tape, one_by_one)
        mode = TrainingMode("end_to_end")
        with gate.open, step_context(state, gate=gate, mode=mode):
            gate.next_tape()
            outputs = tree.flatten(model._plain_call(x, True, None))
            floats = [tf.cast(t, tf.float32) for t in outputs if t.dtype.is_floating]
            loss = tf.add_n([tf.reduce_sum(tf.square(t)) for t in floats])
        crossed = sorted(gate.marks, key=gate.marks.__getitem__)
        ends = [*(gate.ends[name] for name in crossed), [([loss], gate.tapes[-1])]]
        edges = [0, *(gate.marks[name] for name in crossed), operations_so_far()]
        variables = [v.value for v in model.trainable_variables]
        gradients = []
        for end in ends:
            taken = [tape.gradient(tensors, variables) for tensors, tape in end]
            gradients.append([g for each in taken for g in each if g is not None])
            edges.append(operations_so_far())
        ends = [[tensor for tensors, _ in end for tensor in tensors] for end in ends]
        found.update(crossed=crossed, ends=ends, edges=edges, gradients=gradients)

    traced = tf.function(step, autograph=False).get_concrete_function(inputs)
    crossed = found.pop("crossed")
    return _program(traced.graph.get_operations(), **found), crossed


def _is_chain(model: Any) -> bool:
    """Whether each module leads into the next alone, at one place."""
    names = [module.name for module in model.modules]
    leading = [module.inputs for module in model.modules]
    crossed = 0
    if compat.is_functional(model):
        calls = compat.graph_calls(model._modular.graph)
        crossed = sum(isinstance(call.operation, ModuleBoundary) for call in calls)
    return crossed < len(names) and leading == [(), *((name,) for name in names[:-1])]


def _program(operations: list, ends: list, edges: list[int], gradients: list) -> Program:
    """The operations of a graph, cut into segments."""
    tensors = [t for o in operations for t in o.outputs]
    state = {t.name for o in operations if o.type in _STATE for t in o.outputs}
    simple = [_operation(o, state) for o in operations]
    segments, count = [], len(ends)
    for place, end in enumerate(ends):
        forward = simple[edges[place] : edges[place + 1]]
        backward = simple[edges[count + place] : edges[count + place + 1]]
        found = {_source(_dense(g)) for g in gradients[place]}
        backward = _needed(backward, found)
        made = {name for o in backward for name in o.makes}
        handed = frozenset(_source(t) for t in end)
        segments.append(Segment(forward, backward, handed, frozenset(found & made)))
    unknown = frozenset(t.name for t in tensors if _is_of_unknown_size(t))
    return Program(segments, {t.name: _bytes(t) for t in tensors}, unknown)


def _needed(operations: list[Operation], results: set[str]) -> list[Operation]:
    """The operations that lead to some tensors; TensorFlow runs no other ones.

    A tape takes the gradient of all that it saw, also where weights are frozen.
    """
    wanted, found = set(results), []
    for operation in reversed(operations):
        if wanted.intersection(operation.makes):
            found.append(operation)
            wanted.update(operation.reads)
    return found[::-1]


def _operation(operation: Any, state: set[str]) -> Operation:
    reads, makes = {_source(t) for t in operation.inputs} - state, operation.outputs
    if operation.type in _ASK_SHAPE:
        reads = set()
    if operation.type in _STATE or operation.type == "Placeholder":  # the inputs are there
        makes = []
    return Operation(
        tuple(sorted(reads)), tuple(t.name for t in makes if not _is_handed_on(t))
    )


def _dense(gradient: Any) -> Any:
    """The tensor that holds a gradient; that of an embedding has some rows alone."""
    return gradient.values if hasattr(gradient, "values") else gradient


def _source(tensor: Any) -> str:
    """The name of the tensor whose memory this one has."""
    while _is_handed_on(tensor):
        place = 0 if tensor.op.type in _VIEWS else tensor.value_index
        tensor = tensor.op.inputs[place]
    return str(tensor.name)


def _is_handed_on(tensor: Any) -> bool:
    """Whether a tensor lies where an input of its operation lies."""
    if tensor.op.type in _LOOPS and _is_variant(tensor):
        return _filled_list(tensor) is None
    return tensor.op.type in _VIEWS


def _filled_list(tensor: Any) -> Any:
    """The operation that made the list that a loop fills and returns here, or None."""
    if tensor.op.type not in _LOOPS or not _is_variant(tensor):
        return None
    entered = tensor.op.inputs[tensor.value_index].op
    return entered if entered.type in _LISTS else None


def _is_variant(tensor: Any) -> bool:
    return str(tensor.dtype.name) == "variant"


def _is_of_unknown_size(tensor: Any) -> bool:
    return tensor.dtype.is_floating and tensor.shape.num_elements() is None


def _bytes(tensor: Any) -> int:
    """Bytes of a tensor of a graph; 0 where its size is not known before it is made."""
    import tensorflow as tf

    entered = _filled_list(tensor)
    if entered is not None:  # what a loop keeps of its steps for its backward pass
        return _list_bytes(entered)
    elements = tensor.shape.num_elements()
    if elements is None or tensor.dtype in (tf.resource, tf.variant, tf.string):
        return 0
    return int(elements * tensor.dtype.size)


def _list_bytes(made: Any) -> int:
    if "ReadVariableOp" in made.name:  # of a weight each step keeps the same tensor
        return 0
    shape, count = map(_static_value, made.inputs)
    if shape is None or count is None or np.min(shape, initial=0) < 0:
        return 0
    return int(made.get_attr("element_dtype").size * max(count, 0) * np.prod(shape))


def _static_value(tensor: Any) -> Any:
    """The value of a tensor that a graph makes of constants alone, or None."""
    import tensorflow as tf

    value = tf.get_static_value(tensor)
    if value is None and tensor.op.type == "Max":  # the steps of a loop of Keras's
        within = tf.get_static_value(tensor.op.inputs[0])
        value = None if within is None else np.max(within)
    return value

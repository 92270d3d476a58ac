"""Products with the Jacobian of each module, on each backend."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops, tree


class JacobianProducts:
    """A Jacobian for each example, as products with it from both sides.

    In inference mode examples do not mix, so one product over the batch is one for each
    example. Vectors are float32 of shape `(batch, size)`.

    Args:
        start: The tensor that enters a module.
        end: The tensor that leaves it.
        left: Function of a tensor like `end` that returns the product from the left, like
            `start`; None where the output does not depend on the input.
        right: Function of a tensor like `start` that returns that from the right likewise.
    """

    def __init__(self, start: Any, end: Any, left: Callable, right: Callable):
        self.start, self.end, self._left, self._right = start, end, left, right
        self.batch = start.shape[0]
        self.inputs = math.prod(start.shape[1:])
        self.outputs = math.prod(end.shape[1:])

    def left(self, vectors: Any) -> Any:
        """`J^T u` for each example."""
        return self._flat(self._left(_like(self.end, vectors)), self.inputs)

    def right(self, vectors: Any) -> Any:
        """`J v` for each example."""
        return self._flat(self._right(_like(self.start, vectors)), self.outputs)

    def _flat(self, found: Any, size: int) -> Any:
        if found is None:
            return ops.zeros((self.batch, size))
        return ops.cast(ops.reshape(found, (self.batch, size)), "float32")


def jacobian_products(model: Any, x: Any) -> dict[str, JacobianProducts | None]:
    """The products of each module; None unless a float enters and one leaves it.

    Args:
        model: The modular model.
        x: Inputs as NumPy arrays.
    """
    if keras.backend.backend() == "jax":
        return _on_jax(model, x)
    return _on_tensorflow(model, x)


def _on_tensorflow(model: Any, x: Any) -> dict[str, JacobianProducts | None]:
    import tensorflow as tf

    tape = tf.GradientTape(persistent=True, watch_accessed_variables=False)

    def watched(tensor):
        if tensor.dtype.is_floating:
            tensor = tf.identity(tensor)
            tape.watch(tensor)
        return tensor

    with tape:
        inputs = tree.map_structure(
            lambda a: None if a is None else watched(tf.convert_to_tensor(a)), x
        )
        record = model.forward_record(inputs, tap=watched)
    found: dict[str, JacobianProducts | None] = {}
    for module in model.modules:
        starts = [record.crossings[i].outputs[j] for i, j in _boundaries(module, record)]
        if module.model_inputs:
            starts += [t for t in tree.flatten(inputs) if t is not None]
        ends = _one_each(starts, _left(module, record))
        found[module.name] = None if ends is None else _from_tape(tape, *ends)
    return found


def _from_tape(tape: Any, start: Any, end: Any) -> JacobianProducts:
    import tensorflow as tf

    # A product from the left is linear in its vector: its derivative with respect to that
    # is the product from the right.
    vector = tf.zeros_like(end)
    outer = tf.GradientTape(persistent=True)
    with outer:
        outer.watch(vector)
        product = tape.gradient(end, start, output_gradients=vector)

    def right(shaped: Any) -> Any:
        if product is None:
            return None
        return outer.gradient(product, vector, output_gradients=shaped)

    return JacobianProducts(
        start, end, lambda u: tape.gradient(end, start, output_gradients=u), right
    )


def _on_jax(model: Any, x: Any) -> dict[str, JacobianProducts | None]:
    import jax

    inputs = tree.map_structure(
        lambda a: None if a is None else ops.convert_to_tensor(a), x
    )
    record = model.forward_record(inputs)
    flat = tree.flatten(inputs)
    found: dict[str, JacobianProducts | None] = {}
    for module in model.modules:
        places = _boundaries(module, record)
        starts = [record.crossings[i].outputs[j] for i, j in places]
        if module.model_inputs:
            starts += [t for t in flat if t is not None]
        ends = _one_each(starts, _left(module, record))
        if ends is None:
            found[module.name] = None
            continue
        number = _number(record, *places[0]) if places else None
        run = _through(model, module, inputs, number)
        end, pull = jax.vjp(run, ends[0])
        push = jax.linearize(run, ends[0])[1]
        found[module.name] = JacobianProducts(
            ends[0], end, lambda u, pull=pull: pull(u)[0], push
        )
    return found


def _through(model: Any, module: Any, inputs: Any, number: int | None) -> Callable:
    """What leaves a module, as a function of what enters it.

    Args:
        model: The modular model.
        module: The module.
        inputs: The model's inputs.
        number: Integer, which of all tensors that leave boundaries enters it; None for the
            only input of the model.
    """

    def run(start: Any) -> Any:
        count = itertools.count()
        given = inputs
        if number is None:
            given = tree.map_structure(lambda t: None if t is None else start, inputs)
        record = model.forward_record(
            given, tap=lambda t: start if next(count) == number else t
        )
        return _left(module, record)[0]

    return run


def _number(record: Any, crossing: int, place: int) -> int:
    """How many tensors leave boundaries before this one."""
    return sum(len(c.outputs) for c in record.crossings[:crossing]) + place


def _boundaries(module: Any, record: Any) -> list[tuple[int, int]]:
    """The places, of a crossing and of a tensor, of what enters a module by boundaries."""
    return [
        (i, j)
        for i, crossing in enumerate(record.crossings)
        if crossing.boundary.module in module.inputs
        for j in range(len(crossing.outputs))
    ]


def _left(module: Any, record: Any) -> list:
    """The tensors that leave a module."""
    if module.boundary is None:
        return tree.flatten(record.outputs)
    ending = [c for c in record.crossings if c.boundary is module.boundary]
    return [tensor for crossing in ending for tensor in crossing.inputs]


def _one_each(starts: list, left: list) -> tuple | None:
    """The tensor that enters and the one that leaves; None unless floats, one of each."""
    if len(starts) != 1 or len(left) != 1:
        return None
    start, end = starts[0], left[0]
    floats = all("float" in keras.backend.standardize_dtype(t.dtype) for t in (start, end))
    return (start, end) if floats and start.shape[0] == end.shape[0] else None


def _like(tensor: Any, vectors: Any) -> Any:
    return ops.cast(ops.reshape(vectors, tensor.shape), tensor.dtype)

"""One execution in which several batches are under way, each in a module of its own."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from absl import logging

from keras_e2e.modules.module import Module
from keras_e2e.modules.step_context import step_context
from keras_e2e.utils.compat.step_numbers import in_function_of, reads_as
from keras_e2e.utils.graphs import devices_of


class _StepNumber:
    """How often an optimizer has stepped, and some steps more.

    It reads the count wherever it is used, as the optimizer itself does. One tensor for all
    uses would be computed with once for all of them, and TensorFlow orders products by how
    often a factor is used: the last bit of a weight would be another.

    Args:
        count: The `tf.Variable`.
        more: Integer, what is added.
    """

    def __init__(self, count: tf.Variable, more: int):
        self.count, self.more = count, more
        self.dtype, self.shape = count.dtype, count.shape
        self.graph = tf.compat.v1.get_default_graph()

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> tf.Tensor:
        if in_function_of(self.graph):
            _refuse_function()
        return tf.convert_to_tensor(self.count, dtype) + self.more

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        _refuse_function()  # which takes it for an array if it is an argument

    def __bool__(self) -> bool:
        return bool(tf.convert_to_tensor(self))

    def assign(self, *args: Any, **kwargs: Any) -> None:
        raise ValueError(
            "ModuleParallel: the step sets the optimizer's iterations, which all steps "
            "under way share. Expected the optimizer alone to count. Set them in a "
            "callback, or fit without ModuleParallel."
        )

    assign_add = assign_sub = assign


def _of_tensor(name: str) -> Callable:
    def operate(self: _StepNumber, *others: Any) -> Any:
        return getattr(tf.convert_to_tensor(self), name)(*others)

    return operate


for _name in tf.Tensor.OVERLOADABLE_OPERATORS:
    setattr(_StepNumber, _name, _of_tensor(_name))


def _refuse_function() -> None:
    """Raises: of a function of all steps, the number would be that of the first."""
    raise ValueError(
        "ModuleParallel: a tf.function that the step calls reads the optimizer's "
        "iterations, and is traced once for all steps under way. Expected the step "
        "itself to read them. Take the tf.function off, or fit without ModuleParallel."
    )


def _refuse_traced(count: tf.Variable) -> None:
    """Raises where the graph under way calls a function, traced before, of the count."""
    read = tf.compat.v1.get_default_graph().capture(count.handle)
    if any(each.type.endswith("PartitionedCall") for each in read.consumers()):
        _refuse_function()


class _Places:
    """Puts the operations of each module on the device that its weights are on.

    Args:
        modules: List of the modules.
    """

    def __init__(self, modules: Sequence[Module]):
        self.following = {up: module for module in modules for up in module.inputs}
        before = [module.inputs for module in modules[1:]]
        is_chain = before == [(module.name,) for module in modules[:-1]]
        # Elsewhere it does not show at a boundary whose operations come next.
        self.devices = devices_of(modules) if is_chain else {}
        self.first = self.under_way = modules[0].name

    def leave(self, boundary: str) -> None:
        """Notes that what follows is of the module behind a boundary."""
        self.under_way = self.following[boundary].name

    def step(self) -> Any:
        """A context in which a step is traced."""
        self.under_way = self.first
        if not self.devices:
            return contextlib.nullcontext()
        graph = tf.compat.v1.get_default_graph()
        return graph.device(lambda _: self.devices.get(self.under_way, ""))


def pipelined(model: Any, batches: int, plain: Callable[[Any], Any]) -> Callable:
    """A train function whose executions train the modules at the same time.

    All steps of an execution are one graph without a loop. TensorFlow runs an operation as
    soon as what it depends on is there: what it computes with, and where it reads or writes
    a variable, the earlier operations on that variable. Where gradients are applied at
    boundaries, modules have no variable in common, so a module goes on to the next batch
    while the next one trains on what it has made. The number of the step alone, which all
    of them read, is a variable: here it is a number that each step is given, and that is
    read in its place by layers as well.

    Args:
        model: The modular model, compiled, with the optimizer built.
        batches: Integer, how many batches are under way at once.
        plain: Function that takes the steps of an execution one after another.
    """
    state, optimizer = model._modular, model.optimizer
    places = _Places(state.modules)
    left = places.leave if places.devices else None

    @tf.autograph.experimental.do_not_convert
    def take(optionals: list) -> Any:
        logs, traces = None, None
        count = optimizer.iterations.value
        for place, optional in enumerate(optionals):
            iteration = _StepNumber(count, place)
            # Names in it are to sort before "gradient_tape", as most names of a step do:
            # TensorFlow sums in the order of names.
            step, data = model.train_step, _data(optional)
            with (
                tf.name_scope(f"batch_{place}"),
                places.step(),
                reads_as(optimizer.iterations, iteration),
                step_context(state, iteration=iteration, left=left),
            ):
                logs = model.distribute_strategy.run(step, args=(data,))
            traces = traces or state.steps.traces.copy()
        _refuse_traced(count)
        state.steps.traces = traces  # one, whatever it holds
        optimizer.iterations.assign_add(len(optionals))
        return logs

    @tf.autograph.experimental.do_not_convert
    def fetch(iterator: Any) -> list:
        return [iterator.get_next_as_optional() for _ in range(batches)]

    take, fetch, traced = tf.function(take), tf.function(fetch), list[bool]()

    def execute(iterator: Any) -> Any:
        if not isinstance(iterator, tf.data.Iterator):  # a batch given by hand
            return plain(iterator)
        fetched = fetch(iterator)
        # The first trace of a step may make metrics, and is then made again by TensorFlow.
        if state.steps.traces and fetched[-1].has_value():
            if not traced:
                traced.append(True)
                _tell_of_trace(model, batches)
            return take(fetched)
        rest = [optional for optional in fetched if optional.has_value()]
        if not rest:
            raise StopIteration
        return [take([optional]) for optional in rest][-1]

    return execute


def _tell_of_trace(model: Any, batches: int) -> None:
    """Says what Keras does not: tracing prints nothing, and takes a while."""
    logging.warning(
        "%s: ModuleParallel traces %d batches as one graph, once for this mode. It takes "
        "about as long as tracing %d steps.",
        *(model.name, batches, batches),
    )


def _data(optional: Any) -> Any:
    """The batch that an optional holds; None for what is left out of it, as in Keras."""
    return tf.nest.map_structure(
        lambda value: None if isinstance(value, tf.experimental.Optional) else value,
        optional.get_value(),
    )

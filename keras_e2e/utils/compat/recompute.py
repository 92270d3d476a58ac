"""What recomputing a stretch of a graph takes of private names of Keras and TensorFlow.

All of it is for the TensorFlow backend.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import tree
from keras.src import backend

from keras_e2e.utils.compat import GraphCall, as_functional
from keras_e2e.utils.compat.calls import uncast
from keras_e2e.utils.compat.order import after

# Stateful operations of TensorFlow that may run twice. They only read, or run functions.
_HARMLESS = {
    *("Placeholder", "VarHandleOp", "VarIsInitializedOp", "VariableShape"),
    *("ReadVariableOp", "ResourceGather", "ResourceGatherNd"),
    *("Case", "If", "While", "PartitionedCall", "StatefulPartitionedCall"),
    *("Assert", "Print", "PrintV2"),
}


def run_calls(
    model: keras.Model, inputs: Any, mask: Any, run: Callable[[dict[int, Any]], None]
) -> Any:
    """Does what `Functional.call` does, but has the calls of the graph made by `run`.

    Stands for `_standardize_inputs` and `_outputs_struct`.

    Args:
        model: A Functional model.
        inputs: As in its call.
        mask: As in its call.
        run: Function of a dict from the `id` of symbolic tensors to values, which holds
            the inputs and must hold the outputs afterwards.
    """
    functional = as_functional(model)
    flat = functional._standardize_inputs(inputs)
    if mask is not None:
        for value, given in zip(flat, tree.flatten(mask), strict=False):
            if given is not None:
                backend.set_keras_mask(value, given)
    values = dict(zip(map(id, functional.inputs), tree.flatten(flat), strict=True))
    run(values)
    outputs = [values[id(tensor)] for tensor in functional.outputs]
    packed = tree.pack_sequence_as(functional._outputs_struct, outputs)
    single = isinstance(packed, list | tuple) and len(packed) == 1
    return packed[0] if single else packed


def make_call(call: GraphCall, values: dict[int, Any], context: dict[str, Any]) -> None:
    """Makes one call of a graph, as `Functional.call` does, and notes its outputs.

    Stands for `_call_context_args`: which of `training` and the like a layer takes.
    """
    args, kwargs = call.node.arguments.fill_in(values)
    taken = getattr(call.operation, "_call_context_args", ())
    kwargs.update({k: v for k, v in context.items() if k in taken and v is not None})
    outputs = tree.flatten(call.operation(*args, **kwargs))
    values.update(zip(map(id, call.outputs), outputs, strict=True))


def current_value(variable: keras.Variable) -> Any:
    """The value of a variable, as a tensor, in the precision in which it is kept.

    Inside of a layer's call a variable reads as its cast, and
    `variable.value` is a variable still, which would be read later.
    """
    with uncast():
        value = variable.value
    import tensorflow as tf

    return tf.convert_to_tensor(value)


def scope_of(variables: Sequence[keras.Variable], values: Sequence[Any]) -> Any:
    """A `StatelessScope` with these values, uncast, that collects penalties."""
    with uncast():
        return keras.StatelessScope(
            list(zip(variables, values, strict=True)), collect_losses=True
        )


def forget_losses(operation: Any, losses: Sequence[Any]) -> None:
    """Makes layers forget that they added penalties to a scope that is closed.

    They note the `id`s (`Layer._loss_ids`), which other tensors may come to have.
    """
    if isinstance(operation, keras.layers.Layer):
        for layer in operation._flatten_layers():
            layer._loss_ids.difference_update(map(id, losses))


def recomputed(function: Callable, args: Sequence[Any]) -> tuple[list, list]:
    """Calls a function whose intermediate values are computed anew for its gradients.

    It does what `keras.remat` does, and leaves it to that but for a TensorFlow graph. There
    `tf.recompute_grad` runs the function a second time outside of the name scope of the
    first, and sends the gradients through further operations. TensorFlow orders sums by the
    names of operations: gradients would differ in the last bits. Here the second run has
    the names that there would be without a first one.

    Args:
        function: Function of tensors that returns two lists: of tensors in floating point,
            and of others, that have no gradients.
        args: List of tensors.

    Returns:
        The two lists that the function returns.
    """
    import tensorflow as tf

    floats = [i for i, arg in enumerate(args) if arg.dtype.is_floating]
    others: list = []

    def of_floats(*given):
        every = list(args)
        for i, tensor in zip(floats, given, strict=True):
            every[i] = tensor
        tensors, rest = function(*every)
        if not others:
            others.append(rest)
        return tensors

    run = keras.remat if tf.executing_eagerly() else _recomputed_in_graph
    return run(of_floats)(*[args[i] for i in floats]), others[0]


def _recomputed_in_graph(function: Callable) -> Callable:
    import tensorflow as tf

    scope = tf.get_current_name_scope()

    @tf.custom_gradient
    def run(*args):
        with tf.name_scope("first"):
            outputs = function(*args)

        def gradient(*upstream, variables=()):
            with tf.name_scope("again"):
                # Not before gradients are there, or nothing would be gained.
                held = after(args, upstream)
            with tf.GradientTape() as tape:
                tape.watch(held)
                with tf.name_scope(f"{scope}/" if scope else ""):
                    outputs = function(*held)
            found = tape.gradient(outputs, [*held, *variables], upstream)
            ours, theirs = found[: len(held)], found[len(held) :]
            return (ours, theirs) if variables else ours

        return outputs, gradient

    return run


def traced(function: Callable, tensors: Sequence[keras.KerasTensor]) -> None:
    """Runs a function on stand-ins for tensors; no variable changes.

    Stands for Keras's `compute_output_spec`, whose public form is a layer's method.
    """
    backend.compute_output_spec(function, *tensors)


def stateful_operations(start: int) -> tuple[int, list[str]]:
    """The kinds of operations with a state or side effects in the graph under way.

    Those of TensorFlow's own (`tf.random.normal`, `tf.Variable.assign`, `tf.py_function`)
    do not show in Keras's variables. Their being stateful is public in no place
    (`op_def_registry`).

    Args:
        start: Integer, the number of operations that are known already.

    Returns:
        The number of operations now, and the sorted names of kinds.
    """
    import tensorflow as tf
    from tensorflow.python.framework import op_def_registry

    graph = tf.compat.v1.get_default_graph()
    operations = graph.get_operations()
    library: dict[str, Any] = {}
    found: set[str] = set()
    pending = [op.node_def for op in operations[start:]]
    while pending:
        node = pending.pop()
        kind = op_def_registry.get(node.op)
        if kind is not None and kind.is_stateful and node.op not in _HARMLESS:
            found.add(node.op)
        called = {f.name for a in node.attr.values() for f in [a.func, *a.list.func]} - {""}
        if called and not library:
            functions = graph.as_graph_def().library.function
            library = {f.signature.name: f.node_def for f in functions}
        for name in called:
            pending.extend(library.get(name, ()))
            library[name] = ()
    return len(operations), sorted(found)

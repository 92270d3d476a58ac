"""The only file that touches a private name of Keras or TensorFlow.

Each function says which private name it stands for and why no public one
serves. When Keras or TensorFlow changes, this is the file to mend.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
from keras.src import backend
from keras.src.models.functional import Functional
from keras.src.saving.keras_saveable import KerasSaveable
from keras.src.trainers.compile_utils import CompileLoss
from keras.src.utils.python_utils import default

# Marks a `get_config` that subclasses with simple arguments need not override
# (`python_utils.default`): Keras then reads those off the constructor call, as it does
# where nobody overrides its own.
default_config = default


class GraphCall(NamedTuple):
    """One call of a layer or operation in a Functional graph."""

    operation: Any
    inputs: list
    outputs: list
    node: Any = None

    def repeat(self, values: list) -> Any:
        """Calls the operation as in the graph, on other values (`Node.arguments`)."""
        given = {id(t): v for t, v in zip(self.inputs, values, strict=True)}
        args, kwargs = self.node.arguments.fill_in(given)
        return self.operation(*args, **kwargs)


def graph_calls(model: keras.Model) -> list[GraphCall]:
    """The calls of a Functional model's graph, inputs first.

    Stands for `Function._nodes_by_depth`: Keras has no public view of a graph
    at the level of calls (a layer may be called more than once).
    """
    functional = as_functional(model)
    nodes = functional._nodes_by_depth
    return [
        GraphCall(node.operation, list(node.input_tensors), list(node.outputs), node)
        for depth in sorted(nodes, reverse=True)
        for node in nodes[depth]
    ]


def calls_between(outputs: Any) -> list[GraphCall]:
    """The calls that lead to some symbolic tensors, in an order in which they can be made.

    For tensors of which no model can be made, since two operations have one name.
    """
    found: dict[int, GraphCall] = {}
    pending = [(producing_call(tensor), False) for tensor in keras.tree.flatten(outputs)]
    while pending:
        call, ready = pending.pop()
        if id(call.node) in found:
            continue
        if ready:
            found[id(call.node)] = call
        else:
            pending.append((call, True))
            pending += [(producing_call(tensor), False) for tensor in call.inputs]
    return list(found.values())


def is_functional(model: Any) -> bool:
    """Whether `model` holds a graph: a Functional or a built Sequential model.

    Stands for the class `Functional`, which Keras does not export.
    """
    if isinstance(model, keras.Sequential):
        return model._functional is not None
    return isinstance(model, Functional)


def as_functional(model: keras.Model) -> keras.Model:
    """The graph inside a Sequential model; a Functional model as it is."""
    return model._functional if isinstance(model, keras.Sequential) else model


def run_graph(model: keras.Model, inputs: Any, call: Callable) -> Any:
    """Runs a Functional graph, making each call by `call(layer, *args, **kwargs)`.

    Stands for `Function._run_through_graph`. `keras.models.clone_model` with a
    `call_function` is the public road to it, but builds a model of its own at
    the end, which severs the graph when a nested model is to be inlined.
    """
    functional = as_functional(model)
    return functional._run_through_graph(inputs, lambda operation: operation, call)


def producing_call(tensor: keras.KerasTensor) -> GraphCall:
    """The call that made a symbolic tensor (`KerasTensor._keras_history`)."""
    operation, node_index, _ = tensor._keras_history
    node = operation._inbound_nodes[node_index]
    return GraphCall(operation, list(node.input_tensors), list(node.outputs), node)


def sublayers(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """The direct sublayers of any layer (`Layer._layers`)."""
    return iter(layer._layers)


def all_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Every layer below `layer`, itself left out (`Layer._flatten_layers`)."""
    return layer._flatten_layers(include_self=False, recursive=True)


def own_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The weights that `layer` holds itself, not through a sublayer."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def loss_tracker(model: keras.Model) -> keras.metrics.Metric:
    """The metric behind the reported `loss` (`Trainer._loss_tracker`)."""
    return model._loss_tracker


def is_symbolic() -> bool:
    """Whether Keras runs code for the shapes only (`in_symbolic_scope`).

    `keras.SymbolicScope` is public; whether one is open cannot be asked.
    """
    return backend.in_symbolic_scope()


def with_state_put_back(model: keras.Model, run: Callable) -> Callable:
    """A compiled step of JAX's trainer that leaves the variables as they were if it fails.

    The trainer empties the variables before the first step and has nothing to put back if
    that one raises (`_jax_state`), in stock Keras too. Nor does it forget the penalties of
    a pass whose loss was not computed (`_losses_override`).

    Args:
        model: The model whose step it is.
        run: Function of the state and the iterator over the batches, as the trainer makes
            it.
    """

    def step(state, iterator):
        try:
            return run(state, iterator)
        except BaseException:
            model._losses_override.clear()
            # What a step was given to reuse its memory is gone once that step runs.
            if not any(value.is_deleted() for part in state for value in part):
                model._jax_state = dict(zip(_JAX_STATES[len(state)], state, strict=True))
                model._jax_state_synced = False
                model.jax_state_sync()
            raise

    return step


_VARIABLES = ("trainable_variables", "non_trainable_variables")
# What JAX's trainer gives the steps of `predict`, `evaluate` and `fit`.
_JAX_STATES = {
    2: _VARIABLES,
    3: (*_VARIABLES, "metrics_variables"),
    4: (*_VARIABLES, "optimizer_variables", "metrics_variables"),
}


def resolve_loss(loss: Any) -> Callable:
    """What `compile(loss=...)` makes of one loss: strings, functions, objects.

    Stands for `CompileLoss`, which also reads `"crossentropy"` off the shapes
    as Keras does. For one output it tracks no metric, so it leaves logs alone.
    """
    return CompileLoss(loss)


def loss_weights(model: keras.Model) -> Any:
    """The `loss_weights` given to `compile` (kept by the private `CompileLoss`)."""
    compiled = model._compile_loss
    return None if compiled is None else compiled._user_loss_weights


def compiled_loss(model: keras.Model) -> Any:
    """The loss that `compile` made, a function of targets and predictions; None if none.

    It keeps metrics of the losses of several outputs: call it in a `StatelessScope`.
    """
    return model._compile_loss


def compiled_metrics(model: keras.Model) -> tuple[Any, Any]:
    """The `metrics` and `weighted_metrics` given to `compile`.

    Stands for the private `CompileMetrics`. `get_compile_config` is public, but brings
    functions and classes back only where they are registered.
    """
    compiled = model._compile_metrics
    if compiled is None:
        return None, None
    return compiled._user_metrics, compiled._user_weighted_metrics


def build_metrics(model: keras.Model, y: Any, predictions: Any) -> None:
    """Builds the compiled metrics from symbolic predictions (`Trainer._symbolic_build`)."""
    for compiled in (model._compile_metrics, model._compile_loss):
        if compiled is not None and not compiled.built:
            compiled.build(y, predictions)


def logits_of(tensor: Any) -> Any:
    """The tensor from which Keras computes a cross-entropy on `tensor`.

    On TensorFlow Keras notes the raw values on what a softmax or sigmoid returns
    (`_keras_logits`) and takes the loss from there, so that no gradient reaches the
    probabilities. Any other tensor is returned as it is.
    """
    return getattr(tensor, "_keras_logits", tensor)


def mask_of(tensor: Any) -> Any:
    """The mask that Keras notes on a tensor (`_keras_mask`), or None."""
    return backend.get_keras_mask(tensor)


def set_mask(tensor: Any, mask: Any) -> None:
    """Notes a mask on a tensor, as layers do; a Keras loss leaves masked values out."""
    backend.set_keras_mask(tensor, mask)


def has_stock_call(model: keras.Model) -> bool:
    """Whether a Functional or Sequential model runs its graph and nothing else."""
    return type(model).call in (Functional.call, keras.Sequential.call)


def with_logits(tensor: Any, logits: Any) -> Any:
    """Notes on a probability the values under it (`_keras_logits`), as Keras does."""
    tensor._keras_logits = logits
    return tensor


def copy_weight_decay_exclusions(source: Any, target: Any) -> None:
    """Gives an optimizer the exclusions of another (`exclude_from_weight_decay`).

    Keras notes them in `_exclude_from_weight_decay` and
    `_exclude_from_weight_decay_pattern`, which are in no config.
    """
    for name in ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern"):
        if hasattr(source, name):
            setattr(target, name, getattr(source, name))


def batches_taken(optimizer: Any) -> Any:
    """The variable in which an optimizer counts the batches it has taken (`_iterations`).

    With gradient accumulation `optimizer.iterations` is a quotient of it, which does not
    say how far the next iteration is. A `LossScaleOptimizer` counts in the optimizer
    inside of it.
    """
    return getattr(optimizer, "inner_optimizer", optimizer)._iterations


class Saveable(KerasSaveable):
    """What Keras saves in a place of its own if it is an attribute of a model.

    Stands for `KerasSaveable`. Of the types that saving knows, a loss has no content.
    """

    def _obj_type(self) -> str:
        return "Loss"


def release_traces() -> None:
    """Releases traced functions that nothing refers to any more.

    Stands for TensorFlow's `gradient_registry`. Each `tf.custom_gradient` in a traced
    function registers a gradient that holds the function's graph, and nothing removes it.
    Keras has one in every training step, so that a process that traces steps grows for as
    long as it lives. Afterwards no gradient can be taken through a function that was traced
    before; a training step takes its gradients inside the function and runs on.
    """
    if "tensorflow" not in sys.modules:
        return
    from tensorflow.python.framework import ops

    registered = ops.gradient_registry._registry
    for name in [name for name in registered if name.startswith("CustomGradient")]:
        del registered[name]


def known_to_optimizer(optimizer: Any) -> set[int]:
    """`id`s of the variables that a built optimizer trains (`_trainable_variables`)."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return {id(v) for v in inner._trainable_variables}

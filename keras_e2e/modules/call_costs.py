"""What the calls of a graph cost: memory, parameters or time."""

import math
from collections.abc import Iterable
from typing import Any, Literal, get_args

import keras

from keras_e2e.modules.boundary import ModuleBoundary
from keras_e2e.modules.graph import LOOPS
from keras_e2e.modules.watched_calls import LayerCall, watched_calls
from keras_e2e.utils import compat
from keras_e2e.utils.compat.specs import bytes_of, output_spec
from keras_e2e.utils.graphs import count_parameters
from keras_e2e.utils.validation import did_you_mean

Balance = Literal["memory", "parameters", "time"]

# What these return is what they were given, at most under another shape.
_VIEWS = (
    keras.layers.InputLayer,
    keras.layers.Flatten,
    keras.layers.Identity,
    keras.layers.Reshape,
    ModuleBoundary,
)
_ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)


def check_balance(balance: Any) -> Balance:
    """Returns what to balance.

    Args:
        balance: `"memory"`, `"parameters"` or `"time"`.

    Raises:
        ValueError: If it is anything else.
    """
    known: tuple[Balance, ...] = get_args(Balance)
    if not isinstance(balance, str) or balance not in known:
        raise ValueError(
            f"balance={balance!r}: expected one of {', '.join(map(repr, known))}."
            f"{did_you_mean(balance, known)} It says what a number of boundaries balances."
        )
    return balance  # type: ignore[return-value]


def graph_costs(calls: Iterable[Any], balance: Balance) -> list[int]:
    """What each call of a graph costs.

    Args:
        calls: The `compat.GraphCall`s of a graph.
        balance: What to count, as in `cut_points.balanced`.
    """
    return costs([_with_inner(call) for call in calls], balance)


def costs(calls: Iterable[list[LayerCall]], balance: Balance) -> list[int]:
    """What each of some calls costs.

    Args:
        calls: For each a list: the call, then the calls of layers that it leads to.
        balance: What to count, as in `cut_points.balanced`.
    """
    if balance == "parameters":
        seen: set[int] = set()
        found = []
        for call, *_ in calls:
            weights = {id(v): v for v in getattr(call.layer, "weights", ())}
            found.append(count_parameters(weights[i] for i in weights if i not in seen))
            seen.update(weights)
        return found
    count = _bytes_made if balance == "memory" else _multiply_adds
    return [count(group) for group in calls]


def _with_inner(call: Any) -> list[LayerCall]:
    """A call of a graph, and what a layer of layers calls, found by a symbolic pass."""
    layer = call.operation
    outer = LayerCall(layer, None, call.inputs, call.outputs)
    if not isinstance(layer, keras.layers.Layer) or not list(compat.sublayers(layer)):
        return [outer]
    if isinstance(layer, LOOPS):
        return [outer]
    args, kwargs = call.node.arguments.args, call.node.arguments.kwargs
    try:
        with watched_calls([layer, *compat.all_layers(layer)]) as calls:
            output_spec(layer, *args, **kwargs)
    except Exception:  # code of the user's that takes no other pass: its outputs count
        return [outer]
    return calls or [outer]


def _leaves(group: list[LayerCall]) -> list[LayerCall]:
    """The calls of a group, without those that a loop makes at each step."""
    loops = [call.layer for call in group if isinstance(call.layer, LOOPS)]
    inside = {id(layer) for loop in loops for layer in compat.all_layers(loop)}
    return [call for call in group if id(call.layer) not in inside]


def _bytes_made(group: list[LayerCall]) -> int:
    """Bytes of the tensors that a call and what it leads to make, for one example.

    Backpropagation keeps about these: what a layer makes is kept by the layer that takes
    it, or by itself. Each counts once; so do the weights of an attention, and what the
    kernels of a loop make at each step.
    """
    total = 0.0
    seen: set[int] = set()
    for call in reversed(
        _leaves(group)
    ):  # an outer layer may return what an inner one made
        fresh = [t for t in call.outputs if id(t) not in seen]
        seen.update(id(t) for t in call.outputs)
        if not isinstance(call.layer, _VIEWS):
            total += sum(_elements(t) * bytes_of(t.dtype) for t in fresh)
        inner = 0
        if isinstance(call.layer, _ATTENTION):
            inner = _scores(call)
        elif isinstance(call.layer, LOOPS):
            columns = sum(kernel.shape[-1] for kernel in _kernels(call.layer))
            inner = columns * _positions(call)
        if inner:
            total += inner * bytes_of(call.layer.compute_dtype)
    return math.ceil(total)


def _multiply_adds(group: list[LayerCall]) -> int:
    """Multiplications with additions of a call, for one example.

    What has no kernel counts what it returns.
    """
    total = 0
    for call in _leaves(group):
        if isinstance(call.layer, _VIEWS):
            continue
        kernels = _kernels(call.layer)
        if isinstance(call.layer, _ATTENTION):  # queries by keys, weights by values
            total += 2 * _scores(call) * _head_size(call.layer)
        elif kernels:
            total += sum(math.prod(k.shape) for k in kernels) * _positions(call)
        elif call is group[0] or not list(compat.sublayers(call.layer)):
            total += sum(_elements(tensor) for tensor in call.outputs)
    return total


def _kernels(layer: Any) -> list:
    """The matrices that a layer multiplies by; of a loop those of what it repeats."""
    if isinstance(layer, keras.layers.Embedding) or not hasattr(layer, "weights"):
        return []
    own = layer.weights if isinstance(layer, LOOPS) else compat.own_variables(layer)
    return [v for v in own if len(v.shape) > 1 and "bias" not in v.name]


def _positions(call: LayerCall) -> int:
    """At how many places of one example a layer applies its kernels."""
    layer, (entered, *_), (made, *_) = call.layer, call.inputs, call.outputs
    if isinstance(layer, LOOPS):
        return _size(entered.shape[1:-1])
    if isinstance(layer, keras.layers.EinsumDense):
        given, kernel = layer.equation.split("->")[0].split(",")
        new = [
            n
            for n, axis in zip(layer.kernel.shape, kernel, strict=True)
            if axis not in given
        ]
        return _elements(made) // _size(new)
    shape = entered.shape if isinstance(layer, _TRANSPOSED) else made.shape
    first = getattr(layer, "data_format", None) == "channels_first"
    return _size(shape[2:] if first else shape[1:-1])


def _scores(call: LayerCall) -> int:
    """How many weights an attention has for one example: heads by queries by keys."""
    heads = getattr(call.layer, "num_query_heads", None) or call.layer.num_heads
    query, value, *_ = call.inputs
    return int(heads) * _size(query.shape[1:-1]) * _size(value.shape[1:-1])


def _head_size(layer: Any) -> int:
    return int(getattr(layer, "head_dim", None) or layer.key_dim)


def _elements(tensor: Any) -> int:
    return _size(tensor.shape[1:])


def _size(shape: Iterable[int | None]) -> int:
    """The product of some sizes; one that is not known counts as 1."""
    return math.prod(n or 1 for n in shape)

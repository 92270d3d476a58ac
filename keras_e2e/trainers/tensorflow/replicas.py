"""XLA under a distribution strategy: each replica compiles what it does by itself.

Keras has XLA compile the whole step, with all replicas in it. Under a strategy that
mirrors variables TensorFlow cannot: where replicas meet (gradients are summed, moving
statistics averaged) each of them leaves its function. So here a function of one replica is
compiled, and what it assigns to variables is assigned when it has returned.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from keras_e2e.utils.compat.assigned import Assignments


def compiles_replicas(model: Any) -> bool:
    """Whether XLA is to compile the steps of a model replica by replica."""
    if model.run_eagerly or not model.jit_compile:
        return False
    strategy = model.distribute_strategy
    # Those of a TPU are compiled in any case, with all that replicas tell each other.
    on_tpu = isinstance(strategy, tf.distribute.TPUStrategy)
    return strategy.num_replicas_in_sync > 1 and not on_tpu


@contextlib.contextmanager
def compiled_inside(model: Any) -> Iterator[None]:
    """In this context Keras makes steps that XLA does not compile as a whole."""
    inside = compiles_replicas(model)
    if inside:
        model.jit_compile = False
    try:
        yield
    finally:
        if inside:
            model.jit_compile = True


def compiled(model: Any, function: Callable[[], Any]) -> Any:
    """What a function of one replica returns, compiled by XLA.

    Args:
        model: The model that it runs.
        function: Function without arguments that returns tensors in a structure.
    """
    assigned: list = []

    def run():
        with Assignments() as scope:
            results = function()
        changes = scope.take(model)
        assigned[:] = [variable for variable, _ in changes]
        return results, [value for _, value in changes]

    results, values = tf.function(run, jit_compile=True, autograph=False)()
    for variable, value in zip(assigned, values, strict=True):
        variable.assign(value)
    return results


def refuse_compiled_replicas(model: Any, what: str) -> None:
    """Raises ValueError where steps are compiled replica by replica.

    Args:
        model: The model.
        what: String, what such steps cannot do.
    """
    if compiles_replicas(model):
        replicas = model.distribute_strategy.num_replicas_in_sync
        raise ValueError(
            f"{model.name}: {what}, and of a step on {replicas} replicas that XLA compiles "
            "(jit_compile=True) the gradients alone come out. Compile with "
            "jit_compile=False, or train on one device."
        )

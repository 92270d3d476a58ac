"""Private names of Keras and TensorFlow that the number of a step takes."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras


@contextlib.contextmanager
def reads_as(variable: keras.Variable, value: Any) -> Iterator[None]:
    """A context in which a variable of Keras has another value, whoever reads it.

    Stands for `Variable._value`. A `keras.StatelessScope` does this publicly, but keeps
    what is written to all other variables as well, and layers behave otherwise in it.
    """
    before = variable._value
    variable._value = value
    try:
        yield
    finally:
        variable._value = before


def in_function_of(graph: Any) -> bool:
    """Whether a function that may be called again is traced within a graph of TensorFlow.

    Stands for `FuncGraph`, whose subclasses are the graphs of conditions and loops: those
    are traced for each call.
    """
    import tensorflow as tf
    from tensorflow.python.framework.func_graph import FuncGraph

    current = tf.compat.v1.get_default_graph()
    while current is not None and current is not graph:
        if type(current) is FuncGraph:
            return True
        current = getattr(current, "outer_graph", None)
    return False

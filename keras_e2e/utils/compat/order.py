"""Tensors that wait for others, in a graph of TensorFlow and under XLA."""

from collections.abc import Sequence
from typing import Any


def after(tensors: Sequence[Any], made: Sequence[Any]) -> list:
    """The same tensors, but not before others are there.

    XLA knows no order but that of data: an optimization barrier is taken out before its
    CPU compiler schedules. It does not see that a truth value equals itself, which
    `keras.remat` relies on as well. Whether it compiles is public in no place
    (`GraphOrParentsInXlaContext`).

    Args:
        tensors: List of tensors.
        made: List of the others, in whose place the values of sparse ones are waited for.
    """
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util

    made = [getattr(tensor, "values", tensor) for tensor in made]
    if not control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        with tf.control_dependencies(made):
            return [tf.identity(tensor) for tensor in tensors]
    # Of the part that is there of an empty tensor, none, the largest is -inf.
    some = [tf.cast(tf.reduce_max(tf.reshape(t, [-1])[:1]), tf.float32) for t in made]
    true = tf.cast(tf.add_n(some), tf.bool)
    return [tf.where(true == true, t, tf.zeros_like(t)) for t in tensors]

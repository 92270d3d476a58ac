"""Private names of Keras and TensorFlow that putting a model back takes.

The rest of them stand in `compat`.
"""

import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras.src.backend.common import global_state
from keras.src.ops.node import Node

# One call of a layer in a graph, as layers keep it; it leads to all of the graph.
GraphNode = Node


def remember_globals() -> Callable[[], None]:
    """Notes what Keras and TensorFlow keep for the process; returns what puts it back.

    Stands for the `global_state` of Keras: the numbers behind automatic names, and the
    generator that draws where no seed was given. And for the generator of seeds of
    TensorFlow's eager context. None of them can be read publicly.
    """
    names = global_state.get_global_attribute("object_name_uids")
    counts = None if names is None else dict(names)
    generator = global_state.get_global_attribute("global_seed_generator")
    drawn = None if generator is None else _value(generator.state)
    seeds = _eager_seeds()
    state = None if seeds is None else seeds.getstate()

    def put_back() -> None:
        global_state.set_global_attribute("object_name_uids", names)
        if counts is not None:
            names.clear()
            names.update(counts)
        global_state.set_global_attribute("global_seed_generator", generator)
        if drawn is not None:
            generator.state.assign(drawn)
        if state is not None:
            seeds.setstate(state)

    return put_back


def _value(variable: Any) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(variable))


def _eager_seeds() -> Any:
    """TensorFlow's generator of seeds; None where there is none."""
    if "tensorflow" not in sys.modules:
        return None
    from tensorflow.python.eager import context

    return getattr(context.context(), "_rng", None)


def wrapped_container(item: Any) -> Any:
    """The dict or tuple in TensorFlow's proxy for it; None for anything else.

    Stands for `_DictWrapper` and `_TupleWrapper`, which TensorFlow puts around containers
    that are set as attributes. They are no dict and tuple, but say that they are.
    """
    if "tensorflow" not in sys.modules:
        return None
    from tensorflow.python.trackable import data_structures

    proxies = (data_structures._DictWrapper, data_structures._TupleWrapper)
    return item.__wrapped__ if issubclass(type(item), proxies) else None


def seed_states(model: keras.Model) -> list[keras.Variable]:
    """The states of the random generators of a model's layers, each once.

    Stands for `Layer._seed_generators`: `model.variables` has them, but says not which.
    """
    layers = model._flatten_layers()
    found = [generator.state for layer in layers for generator in layer._seed_generators]
    return list({id(state): state for state in found}.values())

"""Private names of Keras that a model's own class takes.

The rest of them stand in `compat`.
"""

import functools
from typing import Any

import keras
from keras.src.models.functional import Functional


def has_own_class(model: keras.Model) -> bool:
    """Whether a graph of layers is of a class that is not Keras's (`Functional`)."""
    return type(model) not in (keras.Model, Functional, keras.Sequential)


def new_like(model: keras.Model) -> Any:
    """An object of the class of a model, before any constructor has run.

    It has the arguments that Keras has noted of the model's constructor, from which it
    makes the config of a class without a `get_config` (`Operation._auto_config`).
    """
    made: Any = keras.Model.__new__(type(model))
    for name in ("_auto_config", "_auto_config_error_args"):
        if hasattr(model, name):
            setattr(made, name, getattr(model, name))
    return made


def init_graph(model: keras.Model, inputs: Any, outputs: Any, name: str) -> None:
    """Makes an object a graph of layers, past the constructor of its class.

    That one makes layers of its own. Stands for `Functional.__init__`: the public one, of
    `keras.Model`, turns the bases of a class into those of a graph, and cannot do so twice.
    """
    Functional.__init__(model, inputs, outputs, name=name)


@functools.cache
def keras_attributes() -> frozenset[str]:
    """The names of the attributes that Keras itself gives a graph of layers.

    Keras has no list of them, and nothing public tells those of a class from its own.
    """
    x = keras.Input((1,), name="x")
    model = keras.Model(x, x, name="model")
    model.compile(keras.optimizers.SGD(name="optimizer"))
    # Set by `fit`, and by the trainer of JAX.
    later = {"history", "_eval_epoch_iterator", "_jax_state", "_jax_state_synced"}
    return frozenset(vars(model)) | later

"""The downstream model: what follows a boundary, as a stock model."""

from typing import Any

import keras
from keras import tree

from keras_e2e.modules.boundary import ModuleBoundary
from keras_e2e.utils import compat
from keras_e2e.utils.graphs import input_like, stock_model, strategy_scope
from keras_e2e.utils.validation import did_you_mean


def downstream_model(model: Any, name: str) -> keras.Model:
    """The stock model from the output of a boundary to the model's outputs.

    See `ModularBase.downstream_model`.
    """
    if not compat.is_functional(model):
        raise ValueError(
            f"downstream_model: {model.name!r} wraps a subclassed model, or one that is "
            "cut inside of a layer: there is no graph of layers to cut. Build the model "
            "from layers (keras.Input ... keras.Model)."
        )
    names = [m.name for m in model._modular.modules if m.boundary is not None]
    if name not in names:
        raise ValueError(
            f"downstream_model: no boundary is named {name!r}."
            f"{did_you_mean(name, names)} The boundaries: {names}. Give one "
            "of them."
        )
    entering: list[list] = []

    def call(layer, *args, **kwargs):
        if not isinstance(layer, ModuleBoundary):
            return layer(*args, **kwargs)
        if layer.module != name:
            return args[0]
        flat = tree.flatten(args[0])
        several = len(flat) > 1
        entering.append(
            [input_like(t, f"{name}_{i}" if several else name) for i, t in enumerate(flat)]
        )
        return tree.pack_sequence_as(args[0], entering[-1])

    with strategy_scope(model):
        inputs = [input_like(tensor) for tensor in model.inputs]
        outputs = compat.run_graph(model._modular.graph, inputs, call)
        if len(entering) != 1:
            raise ValueError(
                f"downstream_model: boundary {name!r} is crossed {len(entering)} times. "
                "Apply the module once, to the stacked inputs."
            )
        outputs = tree.pack_sequence_as(model.output, tree.flatten(outputs))
        given = [*inputs, *entering[0]]
        return stock_model(given, outputs, model, f"{model.name}_downstream")

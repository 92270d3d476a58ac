"""The rest of a model: what lies behind a boundary, as a stock model."""

import contextlib
import difflib
from typing import Any

import keras
from keras import tree

from keras_e2e.modules.boundary import ModuleBoundary
from keras_e2e.utils import compat


def downstream_model(model: Any, name: str) -> keras.Model:
    """The stock model from what comes out of a boundary to the model's outputs.

    See `ModuleEvaluation.downstream_model`.
    """
    if not compat.is_functional(model):
        raise ValueError(
            f"downstream_model: {model.name!r} wraps a subclassed model, which shows no graph to "
            "cut. Build the model from layers (keras.Input ... keras.Model)."
        )
    names = [m.name for m in model._modular.modules if m.boundary is not None]
    if name not in names:
        near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.4)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"downstream_model: no boundary is named {name!r}.{meant} The boundaries: {names}."
        )
    entering: list = []

    def call(layer, *args, **kwargs):
        if not isinstance(layer, ModuleBoundary):
            return layer(*args, **kwargs)
        if layer.module != name:
            return args[0]
        shape, dtype = args[0].shape, args[0].dtype
        entering.append(keras.Input(batch_shape=shape, dtype=dtype, name=name))
        return entering[-1]

    scope = getattr(model, "distribute_strategy", None)
    with contextlib.nullcontext() if scope is None else scope.scope():
        inputs = [
            keras.Input(batch_shape=t.shape, dtype=t.dtype, name=t.name)
            for t in model.inputs
        ]
        outputs = compat.run_graph(model, inputs, call)
        if len(entering) != 1:
            raise ValueError(
                f"downstream_model: boundary {name!r} is crossed {len(entering)} times. Apply "
                "the module once, to the stacked inputs."
            )
        outputs = tree.pack_sequence_as(model.output, tree.flatten(outputs))
        return keras.Model([*inputs, *entering], outputs, name=f"{model.name}_rest")

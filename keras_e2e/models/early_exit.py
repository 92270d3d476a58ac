"""Early exit: a stock model that ends in the head of a module."""

from collections.abc import Callable, Iterable
from typing import Any

import keras
from keras import tree

from keras_e2e.modules.boundary import ModuleBoundary
from keras_e2e.modules.module import Module
from keras_e2e.objectives.base import Exit, LocalObjective, Output
from keras_e2e.objectives.heads.model_based import AugLocal
from keras_e2e.trainers.local_losses import build_outputs
from keras_e2e.utils import compat
from keras_e2e.utils.graphs import (
    input_like,
    inputs_like,
    layer_name,
    stock_model,
    strategy_scope,
)
from keras_e2e.utils.validation import did_you_mean


def exits_of(objective: LocalObjective, outputs: tuple[Output, ...]) -> dict[str, Exit]:
    """The heads of an objective that predict outputs of the model, by output.

    Where several heads of a mixture predict one output, the first of them.
    """
    found: dict[str, Exit] = {}
    for exit_ in objective.exits(outputs):
        if exit_.output is not None:
            found.setdefault(exit_.output, exit_)
    return found


def early_exit_model(model: Any, name: str) -> keras.Model:
    """The stock model from a modular model's inputs to the head of one module.

    See `ModularBase.early_exit_model`.
    """
    state = model._modular
    if not compat.is_functional(model):
        raise ValueError(
            f"early_exit_model: {model.name!r} wraps a subclassed model, or one that is "
            "cut inside of a layer: there is no graph of layers to cut. Build the model "
            "from layers (keras.Input ... keras.Model), or look at its heads with "
            "evaluate_modules."
        )
    module = _find(name, state.modules)
    places: list = []
    names: set[str] = set()

    def call(layer, *args, **kwargs):
        if not isinstance(layer, ModuleBoundary):
            names.update([] if places else [layer.name])
            return layer(*args, **kwargs)
        if layer is module.boundary:
            places.append(layer.seen_of(tree.flatten(args[0])))
        return args[0]

    exits = _exits(model, module)
    stacks = [_stock_layers(exit_, name) for exit_ in exits]
    with strategy_scope(model):
        inputs = inputs_like(model.input)
        compat.run_graph(state.graph, tree.flatten(inputs), call)
        if len(places) != 1:
            raise ValueError(
                f"early_exit_model: boundary {name!r} is crossed {len(places)} times, so "
                "its head makes as many predictions. Apply the module once, to the stacked "
                "inputs."
            )
        outputs = []
        for exit_, layers in zip(exits, stacks, strict=True):
            label = f"{name}_{exit_.output}_exit" if len(exits) > 1 else f"{name}_exit"
            label = layer_name(label)
            outputs.append(_apply_head(places[0], layers, exit_, label, names))
        whole: Any = outputs[0] if len(outputs) == 1 else outputs
        if len(exits) > 1 and isinstance(model.output, dict):
            whole = dict(zip([exit_.output for exit_ in exits], outputs, strict=True))
        return stock_model(inputs, whole, model, f"{model.name}_{name}")


def _find(name: str, modules: Iterable[Module]) -> Module:
    """The module of this name, which ends in a boundary with an objective."""
    modules = list(modules)
    names = [m.name for m in modules if m.boundary is not None]
    last = modules[-1].name
    if name == last:
        raise ValueError(
            f"early_exit_model: {name!r} is the last module, which ends in the model's own "
            "outputs. Use keras_e2e.strip(model)."
        )
    if name not in names:
        raise ValueError(
            f"early_exit_model: no boundary is named {name!r}."
            f"{did_you_mean(name, names)} The boundaries: {names}. Give one "
            "of them."
        )
    return modules[[m.name for m in modules].index(name)]


def _exits(model: Any, module: Module) -> list[Exit]:
    """The heads to end in: those for the model's outputs, else for labels."""
    objective, keys = module.objective, model._modular.keys()
    if objective is None:
        raise ValueError(
            f"early_exit_model: boundary {module.name!r} has no objective "
            "(objective=None), so there is no head to end in. Give it one such as "
            "Prediction()."
        )
    outputs = tuple(Output(key, None, None, None) for key in keys)
    if model.compiled:
        outputs = build_outputs(model, keys, None, None)
    found = exits_of(objective, outputs)
    exits = list(found.values()) or list(objective.exits(outputs))[:1]
    if not exits:
        raise ValueError(
            f"early_exit_model: the objective {type(objective).__name__} of boundary "
            f"{module.name!r} has no head that predicts the model's outputs or labels. "
            "Use Prediction(), or a mixture with it, there; or train a classifier on "
            "the activation."
        )
    return exits


def _stock_layers(exit_: Exit, boundary: str) -> list:
    """The layers of a head, one by one, none of them of a class of keras_e2e."""
    network = exit_.network
    if network is None:
        return []
    layers = [network]
    if isinstance(network, AugLocal):
        layers = [network.network]
    elif isinstance(network, keras.Sequential) and _of_keras_e2e(network):
        layers = list(network.layers)
    for layer in layers:
        own = [x for x in [layer, *compat.all_layers(layer)] if _of_keras_e2e(x)]
        if own:
            raise ValueError(
                f"early_exit_model: the head of boundary {boundary!r} needs the class "
                f"{type(own[0]).__name__} of keras_e2e, so no stock Keras model can end "
                "in it. Use another head, such as 'gap_linear' or AugLocal(), or look at "
                "it with evaluate_modules."
            )
    return layers


def _of_keras_e2e(layer: keras.layers.Layer) -> bool:
    return type(layer).__module__.split(".")[0] == "keras_e2e"


def _apply_head(
    activation: Any, layers: list, exit_: Exit, name: str, taken: set[str]
) -> Any:
    """What a head's layers make of an activation.

    They are applied one by one: a nested model would drop a Keras mask. Only where a
    name is taken already (heads have automatic names, and so have many layers of a
    model that was loaded) are they put into a nested model, where names are their own.
    """
    if not layers and exit_.ending is None:
        return activation
    nested = bool(taken & {layer.name for layer in layers})
    inputs = tensor = activation
    if nested:
        inputs = tensor = input_like(activation, f"{name}_input")
    for layer in layers:
        tensor = layer(tensor)
    if exit_.ending is not None:
        for step in getattr(exit_.ending, "steps", (exit_.ending,)):
            tensor = _applied(step, tensor, name)
    return keras.Model(inputs, tensor, name=name)(activation) if nested else tensor


def _applied(step: Callable, tensor: Any, name: str) -> Any:
    """A step of an ending; Keras's activation functions as layers, which keep masks."""
    known = getattr(step, "__name__", "")
    if getattr(keras.activations, known, None) is not step:
        return step(tensor)
    if step is keras.activations.linear:
        return tensor
    layer = keras.layers.Activation(step, dtype=tensor.dtype, name=f"{name}_{known}")
    return layer(tensor)

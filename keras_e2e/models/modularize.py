"""The pair: `modularize` puts boundaries into a model, `strip` takes them out."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras
from keras import tree

from keras_e2e.models.modular_model import ModularModel
from keras_e2e.models.modular_wrapper import ModularWrapper
from keras_e2e.modules.boundary import ModuleBoundary
from keras_e2e.modules.cut_points import balanced
from keras_e2e.modules.graph import LOOPS, Graph, in_loop
from keras_e2e.objectives import Identifier
from keras_e2e.objectives.base import LocalObjective
from keras_e2e.trainers.modular_trainer import ModularTrainer
from keras_e2e.utils import compat
from keras_e2e.utils.graphs import (
    inputs_like,
    share_dtype_policy,
    stock_model,
    strategy_scope,
    takes_training,
)

Boundaries = Iterable[str] | Mapping[str, Identifier] | int


def modularize(
    model: keras.Model,
    boundaries: Boundaries = (),
    *,
    objective: Identifier = "prediction",
    training_mode: Any = "end_to_end",
) -> ModularModel | ModularWrapper:
    """Splits an existing model into modules. Layers and weights are shared with it.

    The outputs are those of `model`, to the bit. A boundary goes by the name of the
    layer it follows. Nested Functional models that hold a boundary are taken into the
    outer graph, layer by layer; other nested models stay as they are.

    Args:
        model: a Functional or Sequential model, or a subclassed one (its layers are
            found by name among all its sublayers; boundaries that its `call` already
            applies need not be named). It need not be compiled; compile the result.
        boundaries: names of layers, in any order (`"nested/layer"` where a name alone
            is ambiguous); or a dict from name to objective (a `LocalObjective`, an alias
            such as `"predsim"`, None to only mark the place); or how many boundaries to set
            at balanced cut points of the graph.
        objective: the objective of boundaries that are listed or counted, each a copy of
            its own. None only marks the places. Defaults to `"prediction"`.
        training_mode: the mode to start in.

    Returns:
        A `ModularModel`, or a `ModularWrapper` for a subclassed model.

    Raises:
        TypeError: `model` is no Keras model.
        ValueError: the boundaries cannot be honoured; names the layers and the way out.

    Example:

    >>> import keras, keras_e2e as e2e
    >>> base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="code"),
    ...                          keras.layers.Dense(1, name="score")])
    >>> model = e2e.modularize(base, ["code"])
    >>> [module.name for module in model.modules]
    ['code', 'score']
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"modularize needs a keras.Model. Found: {type(model).__name__}.")
    if isinstance(model, ModularWrapper):
        raise ValueError(
            f"{model.name!r} is modular already. Take its boundaries out first: "
            "modularize(strip(model), boundaries)."
        )
    _refuse_custom_training(model)
    if isinstance(boundaries, Mapping) and objective != "prediction":
        raise ValueError(
            f"modularize: the dict of boundaries names objectives already; "
            f"objective={objective!r} is for boundaries in a list or counted."
        )
    with strategy_scope(model):
        if isinstance(model, keras.Sequential) and not compat.is_functional(model):
            raise ValueError(
                f"The Sequential model {model.name!r} is not built, so its graph is "
                "not known. Start it with keras.Input(shape), or call "
                "model.build(input_shape)."
            )
        if not compat.is_functional(model):
            return ModularWrapper(
                model, _named(boundaries, model, objective), training_mode=training_mode
            )
        if isinstance(boundaries, int) and not isinstance(boundaries, bool):
            inputs, outputs = _rewire(model, {}, keep=True, flatten=True)
            flat = keras.Model(inputs, outputs, name=model.name)
            graph = Graph(flat)
            chosen = {layer.name: layer for layer in balanced(graph, boundaries)}
            objectives = {name: _copy(objective) for name in chosen}
        else:
            objectives = _named(boundaries, model, objective)
            chosen = {name: _find(model, name) for name in objectives}
        inserted: dict[int, ModuleBoundary] = {}
        marked = {x.module for _, x in _paths(model) if isinstance(x, ModuleBoundary)}
        for name, layer in chosen.items():
            if id(layer) in inserted:
                raise ValueError(f"Layer {layer.name!r} is named twice: by {name!r} too.")
            _refuse_bad_place(layer)
            if layer.name in marked:
                raise ValueError(f"Layer {layer.name!r} is followed by a boundary already.")
            inserted[id(layer)] = ModuleBoundary(
                objectives[name], name=f"{layer.name}_boundary", module=layer.name
            )
        inputs, outputs = _rewire(model, inserted, keep=True)
        made = ModularModel(inputs, outputs, name=model.name, training_mode=training_mode)
        share_dtype_policy(model, made)
        return made


def strip(model: keras.Model) -> keras.Model:
    """Takes the boundaries out of a modular model.

    Args:
        model: what `modularize` returned, or a `ModularModel`.

    Returns:
        A stock Keras model, not compiled, over the same layers and weights and with
        the same outputs. Nothing of keras_e2e is needed to load what it saves. For a
        wrapped subclassed model it is the subclassed model itself.

    Raises:
        TypeError: `model` is not modular.

    Example:

    >>> import keras, keras_e2e as e2e
    >>> base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="code"),
    ...                          keras.layers.Dense(1)])
    >>> plain = e2e.strip(e2e.modularize(base, ["code"]))
    >>> any(isinstance(layer, e2e.ModuleBoundary) for layer in plain.layers)
    False
    """
    if isinstance(model, ModularWrapper):
        return model.unwrap()
    if not isinstance(model, ModularTrainer):
        raise TypeError(
            f"strip needs a modular model; {getattr(model, 'name', model)!r} is a "
            f"{type(model).__name__} without boundaries, and can be used as it is."
        )
    with strategy_scope(model):
        inputs, outputs = _rewire(model, {}, keep=False)
        return stock_model(inputs, outputs, model, model.name)


def _rewire(
    model: keras.Model,
    inserted: dict[int, ModuleBoundary],
    *,
    keep: bool,
    flatten: bool = False,
) -> tuple:
    """Repeats a graph on new inputs.

    Args:
        model: a Functional model or built Sequential.
        inserted: new boundaries by the `id` of the layer that they follow.
        keep: whether the boundaries that are there stay.
        flatten: whether every nested graph is taken into the outer one, not only
            those that hold a boundary.

    Returns:
        The new inputs and outputs, structured as the model's.
    """
    functional = compat.as_functional(model)

    def call(layer, *args, **kwargs):
        if isinstance(layer, ModuleBoundary) and not keep:
            return args[0]
        if compat.is_functional(layer) and (flatten or _holds(layer, inserted)):
            outputs = inline(layer, *args, **kwargs)
        else:
            outputs = layer(*args, **kwargs)
        boundary = inserted.get(id(layer))
        if boundary is None:
            return outputs
        flat = tree.flatten(outputs)
        if len(flat) != 1:
            raise ValueError(
                f"Layer {layer.name!r} puts out {len(flat)} tensors; a boundary takes "
                "one. Set it on a layer that follows."
            )
        return tree.pack_sequence_as(outputs, [boundary(flat[0])])

    def inline(nested, inputs, training=None, mask=None):
        def call_inner(layer, *args, **kwargs):
            # A nested model called with training=False keeps its layers so.
            if training is not None and takes_training(layer):
                kwargs["training"] = training
            return call(layer, *args, **kwargs)

        outputs = compat.run_graph(nested, tree.flatten(inputs), call_inner)
        flat = tree.flatten(outputs)
        return flat[0] if isinstance(outputs, list) and len(flat) == 1 else outputs

    inputs = inputs_like(functional.input)
    return inputs, compat.run_graph(functional, tree.flatten(inputs), call)


def _holds(layer: Any, inserted: dict[int, ModuleBoundary]) -> bool:
    """Whether a nested graph holds a boundary, or a place for one."""
    inner = [x for _, x in _paths(layer)]
    return any(id(x) in inserted or isinstance(x, ModuleBoundary) for x in inner)


def _copy(objective: Any) -> Any:
    """An objective as it was, without what was built of it."""
    if isinstance(objective, LocalObjective):
        return type(objective).from_config(objective.get_config())
    return objective


def _named(boundaries: Boundaries, model: keras.Model, objective: Any) -> dict[str, Any]:
    """Boundaries as a dict from name to objective."""
    if isinstance(boundaries, Mapping):
        return dict(boundaries)
    if isinstance(boundaries, (str, bool)):
        raise ValueError(
            f"boundaries={boundaries!r}: expected a list of layer names, a dict from "
            "layer name to objective, or a number of cut points."
        )
    if isinstance(boundaries, int):
        raise ValueError(
            f"boundaries={boundaries}: the subclassed model {model.name!r} has no graph "
            "to choose cut points in. Name its layers."
        )
    if not isinstance(boundaries, Iterable):
        raise ValueError(
            f"boundaries={boundaries!r}: expected a list of layer names, a dict from "
            "layer name to objective, or a number of cut points."
        )
    names = list(boundaries)
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"boundaries: expected layer names. Found: {name!r}.")
        if names.count(name) > 1:
            raise ValueError(
                f"boundaries: layer {name!r} is named {names.count(name)} times."
            )
    return {name: _copy(objective) for name in names}


def _find(model: keras.Model, name: str) -> keras.layers.Layer:
    """The layer of this name in a Functional model or in a model nested in it."""
    found = [layer for path, layer in _paths(model) if name in (path, layer.name)]
    found = list({id(layer): layer for layer in found}.values())
    if len(found) == 1:
        return found[0]
    if found:
        paths = [path for path, layer in _paths(model) if layer.name == name]
        raise ValueError(
            f"Layer name {name!r} is ambiguous in {model.name!r}: {paths}. Give the path."
        )
    for layer in compat.all_layers(model):
        if isinstance(layer, LOOPS) and name in [x.name for x in compat.all_layers(layer)]:
            raise in_loop(name, layer)
        if name in [x.name for x in compat.sublayers(layer)]:
            raise ValueError(
                f"Layer {name!r} is inside {layer.name!r} ({type(layer).__name__}), "
                "which is not a graph of layers. Set the boundary on "
                f"{layer.name!r}, or apply a ModuleBoundary in its call."
            )
    names = [layer.name for _, layer in _paths(model)]
    raise ValueError(f"Model {model.name!r} has no layer {name!r}. Its layers: {names}.")


def _paths(model: keras.Model, prefix: str = ""):
    """Yields (path, layer) for the layers of a graph and of models nested in it."""
    for layer in compat.as_functional(model).layers:
        yield prefix + layer.name, layer
        if compat.is_functional(layer):
            yield from _paths(layer, prefix + layer.name + "/")


def _refuse_bad_place(layer: keras.layers.Layer) -> None:
    if isinstance(layer, keras.layers.InputLayer):
        raise ValueError(
            f"Layer {layer.name!r} is an input: no module would end there. Set the "
            "boundary on a later layer."
        )
    if isinstance(layer, ModuleBoundary):
        raise ValueError(f"Layer {layer.name!r} is a boundary already.")


def _refuse_custom_training(model: keras.Model) -> None:
    """Refuses models whose own training logic keras_e2e would skip in silence."""
    if isinstance(model, ModularTrainer):
        return
    methods = ["train_step", "test_step", "predict_step", "compute_loss", "compute_metrics"]
    if compat.is_functional(model) and not compat.has_stock_call(model):
        raise ValueError(
            f"{type(model).__name__} ({model.name!r}) is a graph of layers and overrides "
            "call(), which a modular model, built from the graph, would not run. Put what "
            "call() adds into layers."
        )
    for method in methods:
        if getattr(type(model), method) is not getattr(keras.Model, method):
            raise ValueError(
                f"{type(model).__name__} ({model.name!r}) overrides {method}(), which "
                "a modular model would not run. Move what it does into layers, losses or "
                "metrics, or put a LocalObjective where it trains a part."
            )

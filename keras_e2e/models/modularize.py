"""The pair: `modularize` puts boundaries into a model, `strip` takes them out."""

from collections.abc import Mapping

import keras

from keras_e2e.models.inside_layers import has_boundary_inside_layer
from keras_e2e.models.modular_model import ModularModel
from keras_e2e.models.modular_wrapper import ModularWrapper
from keras_e2e.models.overridden import refuse_overridden
from keras_e2e.models.own_class import modular_graph
from keras_e2e.models.placement import (
    DEFAULT_BALANCE,
    Boundaries,
    new_boundaries,
    objectives_in_code,
    refuse_balance,
)
from keras_e2e.models.remat import Remat
from keras_e2e.modules.call_costs import Balance
from keras_e2e.modules.ownership import Shared
from keras_e2e.modules.training_mode import ModeName, TrainingMode
from keras_e2e.objectives import Identifier
from keras_e2e.trainers.modular_trainer import ModularTrainer
from keras_e2e.utils import compat
from keras_e2e.utils.graphs import strategy_scope

DEFAULT_OBJECTIVE: Identifier = "prediction"


def modularize(
    model: keras.Model,
    boundaries: Boundaries = None,
    *,
    objective: Identifier = DEFAULT_OBJECTIVE,
    balance: Balance = DEFAULT_BALANCE,
    training_mode: TrainingMode | ModeName = "end_to_end",
    remat: Remat = False,
    shared: Shared | None = None,
) -> ModularModel | ModularWrapper:
    """Splits an existing model into modules.

    A module is the layers between two boundaries; a boundary is a `ModuleBoundary` layer,
    which returns what it is given. So the result has the outputs of `model`, to the bit,
    and shares its layers and weights. A boundary goes by the name of the layer that it
    follows, or of the operation, such as the sum `x + y` at the end of a residual block.
    A modular model keeps the structure: its `layers` are those of `model`, nested models
    and all, it is saved as `model` is saved, with the boundaries beside it, and weights
    that one of them saves the other one loads. The boundaries are in `boundaries`. A
    boundary may also stand inside of one layer, behind a block of an encoder; then the
    model is split as a subclassed one is.

    Args:
        model: A Functional or Sequential model, or a subclassed one (its layers are
            found by name among all its sublayers; boundaries that its `call` already
            applies need not be named). It need not be compiled; compile the result.
        boundaries: Where the modules end. One of:
            - None: The `ModuleBoundary` layers that the model holds; if it holds none,
              up to three cut points of the graph that balance the modules. (A cut
              point is a layer or operation that every path from the weights before it to
              an output crosses, at least where other boundaries are set.)
            - A list of names of layers or operations (`"add_1"`, as `model.operations` has
              them), in any order (`"nested/layer"` where a name alone is ambiguous). Of
              layers inside of a layer, too (`"encoder/block_3"`). A tuple of names is one
              boundary that passes several tensors at once, as in `[("skip1", "pool1")]`
              where a U-Net goes on from both. It goes by the last name. Of a layer that
              returns several tensors it passes all that are used.
            - A dict from such names or tuples to objectives: a `LocalObjective`, an alias
              such as `"predsim"`, or None to mark the place only.
            - An integer: The number of cut points of the graph to choose, so that they
              balance the modules, between the blocks of a network that has such. Where
              nothing else balances them a boundary passes several tensors.

            Defaults to `None`.
        objective: The local objective of boundaries that are listed or chosen: a
            `LocalObjective`, of which each gets a copy, or an alias (see
            `ModuleBoundary`). None only marks the places. Defaults to `"prediction"`.
        balance: What the modules have alike if their boundaries are chosen: the largest is
            as small as it can be. One of:
            - `"memory"`: The bytes of the activations that the layers make. Locally trained
              modules need those of one module at a time.
            - `"parameters"`: The number of parameters.
            - `"time"`: The multiplications with additions of a forward pass.

            Defaults to `"memory"`.
        training_mode: `TrainingMode` or its name, the mode to start in. Defaults to
            `"end_to_end"`.
        remat: Boolean or list of names of modules. In training, the activations inside of
            these modules are not kept but computed a second time when the gradients are
            taken (rematerialization, also called gradient checkpointing), which trades
            time for memory. True stands for all modules. Weights, statistics and random
            numbers are what they would be without it. For graphs of layers, on the
            TensorFlow backend. Defaults to `False`.
        shared: Dict from the name of a layer that several modules use to the one that owns
            its variables: `"first"` or `"last"` of those modules, or a module's name. In
            modes that stop gradients they are trained by the losses that train that module,
            and by no other; end to end and in deep supervision by all, as in stock Keras.
            For two layers that hold one variable (tied weights) name one of them. Defaults
            to `None`: the last, whose loss is the nearest to the task's. (A language model
            whose embedding also makes its outputs then learns far better than if the first
            module trains it.) Losses that reach over a part of the modules need the first
            one to own it, and so does `regimes.train(cache=...)`.

    Returns:
        A `ModularModel`, or a `ModularWrapper` for a subclassed model and where a boundary
        is inside of a layer. It has the dtype policy of `model`.

    Raises:
        TypeError: If `model` is not a Keras model, if something else is given where an
            objective is expected, or as `remat` or `shared`.
        ValueError: If a boundary cannot be placed (the error names the layers and a fix),
            if there are too few cut points to choose from, if the model overrides
            methods that a modular model would not call (or, with a boundary inside of a
            layer, has any that `keras.Model` has not), if `remat` names a module
            that does not exist or cannot be computed twice, or if `shared` names something
            else than a layer that modules share, or a module that does not use it.
        NotImplementedError: If the Keras backend is neither TensorFlow nor JAX, or not
            TensorFlow where there is `remat`.

    Example:

    >>> import keras, keras_e2e as e2e
    >>> base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="code"),
    ...                          keras.layers.Dense(1, name="score")])
    >>> model = e2e.modularize(base, ["code"])
    >>> [module.name for module in model.modules]
    ['code', 'score']

    A layer that both modules use, and that the first one's losses are to train:

    >>> x, twice = keras.Input((4,)), keras.layers.Dense(4, name="twice")
    >>> hidden = keras.layers.Dense(4, name="code")(twice(x))
    >>> base = keras.Model(x, keras.layers.Dense(1, name="score")(twice(hidden)))
    >>> e2e.modularize(base, ["code"]).shared
    {'twice': 'score'}
    >>> e2e.modularize(base, ["code"], shared={"twice": "first"}).shared
    {'twice': 'code'}

    A boundary that passes two tensors:

    >>> x = keras.Input((8,))
    >>> wide = keras.layers.Dense(4, name="wide")(x)
    >>> deep = keras.layers.Dense(3, name="deep")(x)
    >>> both = keras.layers.Concatenate()([wide, deep])
    >>> score = keras.layers.Dense(1, name="score")(both)
    >>> model = e2e.modularize(keras.Model(x, score), [("wide", "deep")])
    >>> [(module.name, len(module.layers)) for module in model.modules]
    [('deep', 2), ('score', 2)]
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"modularize needs a keras.Model. Found: {type(model).__name__}. Give a "
            "Functional, Sequential or subclassed model."
        )
    _refuse_unsuitable(model)
    refuse_balance(boundaries, balance)
    if isinstance(boundaries, Mapping) and objective != DEFAULT_OBJECTIVE:
        raise ValueError(
            f"modularize: the dict of boundaries names objectives already, and "
            f"objective={objective!r} is for boundaries in a list or a number of them. "
            "Leave `objective` out."
        )
    with strategy_scope(model):
        graph = compat.is_functional(model)
        if not graph or has_boundary_inside_layer(model, boundaries):
            _refuse_remat(model, remat)
            objectives = objectives_in_code(model, boundaries, objective)
            return ModularWrapper(
                model, objectives, training_mode=training_mode, shared=shared
            )
        inserted = new_boundaries(model, boundaries, objective, balance, shared)
        return modular_graph(
            model, inserted, training_mode=training_mode, remat=remat, shared=shared
        )


def strip(model: keras.Model) -> keras.Model:
    """Takes the boundaries out of a modular model.

    Args:
        model: What `modularize` returned, or a `ModularModel`.

    Returns:
        A stock Keras model, not compiled, over the same layers and weights, with the same
        outputs and the same dtype policy: a new one, with the structure of the model that
        was given to `modularize`. Nested models are nested in it, and where that model was
        Sequential or of a class of its own, so is this one. It saves where that model
        saves, and loading what it saves does not need keras_e2e. For a subclassed model it
        is that model itself, with nothing attached to its layers; the modular model that
        wraps it attaches itself anew when it is used again.

    Raises:
        TypeError: If `model` is not modular.

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
    return model._stock_model()


def _refuse_remat(model: keras.Model, remat: Remat) -> None:
    """Raises ValueError where code is to be recomputed."""
    if remat is not False and remat != []:
        what, where = "is a subclassed model", "its call"
        if compat.is_functional(model):
            what, where = "is to be cut inside of a layer", "the call of that layer"
        raise ValueError(
            f"remat={remat!r}: {type(model).__name__} ({model.name!r}) {what}, and only a "
            "graph of layers shows what can be recomputed. Leave `remat` out, and wrap "
            f"parts of {where} in keras.remat, or make it a Functional model."
        )


def _refuse_unsuitable(model: keras.Model) -> None:
    """Raises ValueError for a model that cannot be split as it is."""
    if isinstance(model, ModularWrapper):
        raise ValueError(
            f"{model.name!r} is modular already. Take its boundaries out first: "
            "modularize(strip(model), boundaries)."
        )
    if isinstance(model, keras.Sequential) and not compat.is_functional(model):
        raise ValueError(
            f"The Sequential model {model.name!r} is not built, so its graph is not "
            "known. Start it with keras.Input(shape), or call model.build(input_shape)."
        )
    if not isinstance(model, ModularTrainer):
        refuse_overridden(model)

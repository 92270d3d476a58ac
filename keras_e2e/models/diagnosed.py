"""What `diagnose` trains: any model as modules, on its own layers and optimizer."""

from collections.abc import Callable
from typing import Any

import keras

from keras_e2e.models.inside_layers import has_boundary_inside_layer
from keras_e2e.models.modular_model import ModularModel
from keras_e2e.models.modular_wrapper import ModularWrapper
from keras_e2e.models.own_class import modular_graph
from keras_e2e.models.placement import (
    Boundaries,
    holds_boundary,
    new_boundaries,
    objectives_in_code,
)
from keras_e2e.modules.call_order import CallOrder
from keras_e2e.trainers.modular_trainer import ModularTrainer
from keras_e2e.utils import compat
from keras_e2e.utils.graphs import strategy_scope

# What a subclass may override that changes how it is trained.
_TRAINING = ("train_step", "compute_loss", "make_train_function")


class AnyGraph(ModularModel):
    """A graph of layers as modules, or as one."""

    _needs_boundary = False


class AnyCode(ModularWrapper):
    """A subclassed model as modules, or as one."""

    _needs_boundary = False


def refuse_model(model: Any) -> None:
    """Raises what `diagnose` says it does, of models that it cannot train as they train."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"diagnose needs a keras.Model; found a {type(model).__name__}. Give a model "
            "that is compiled."
        )
    if not model.compiled:
        raise ValueError(f"diagnose: {model.name!r} is not compiled. Compile it first.")
    if isinstance(model, ModularTrainer):
        return
    for method in _TRAINING:
        if getattr(type(model), method) is not getattr(keras.Model, method):
            raise ValueError(
                f"diagnose: {type(model).__name__} ({model.name!r}) overrides {method}(), "
                "and its modules cannot be seen in a step of its own. Put what it does "
                "into layers, a loss given to compile, or add_loss; or diagnose the part "
                "of it that trains so: compile that as a keras.Model."
            )


def as_modules(
    model: Any, examples: Callable[[], Any], boundaries: Boundaries = None
) -> Any:
    """A modular model that trains the layers of a model with its optimizer and loss.

    The boundaries are those that are given or that the model holds. If there are none, up
    to three are chosen that balance the modules; where none can be, all of it is one
    module. A modular model is returned as it is, but for `steps_per_execution`, which is 1
    in all cases.

    The given model is changed: taps, nodes of the graph, what is built. See
    `preserve_everything`.

    Args:
        model: A compiled Keras model.
        examples: Function that returns inputs of a few examples. It is called only if the
            model has no graph: data may be used up by looking at it.
        boundaries: As in `modularize`, without objectives. Defaults to `None`.
    """
    if isinstance(model, ModularTrainer):
        with strategy_scope(model):
            if not model._modular.modules:
                model.examine(examples())  # type: ignore[attr-defined]
        if model.steps_per_execution != 1:
            model.steps_per_execution = 1
            model._modular.steps.functions = {}
        return model
    with strategy_scope(model):
        if isinstance(model, keras.Sequential) and not compat.is_functional(model):
            shapes = keras.tree.map_structure(lambda t: (None, *t.shape[1:]), examples())
            model.build(shapes)
        is_graph = compat.is_functional(model) and compat.has_stock_call(model)
        if is_graph and not has_boundary_inside_layer(model, boundaries):
            modular = _graph(model, boundaries)
        else:
            modular = _code(model, boundaries, examples())
        _compile_like(model, modular)
    return modular


def _graph(model: keras.Model, boundaries: Boundaries) -> Any:
    try:
        inserted = new_boundaries(model, boundaries, None)
    except ValueError:
        if boundaries is not None:
            raise
        inserted = {}  # there is no cut point
    return modular_graph(model, inserted, AnyGraph)


def _code(model: keras.Model, boundaries: Boundaries, x: Any) -> Any:
    if boundaries is not None:
        return wrapped(model, [*objectives_in_code(model, boundaries, None)], x)
    if holds_boundary(model):
        return wrapped(model, [], x)
    order = CallOrder(model, x)
    refused: set[str] = set()
    good: dict[str, bool] = {}
    while names := order.choose(refused):
        # One by one: together they would let a path around one of them pass, from the
        # one before it.
        for name in names:
            if name not in good:
                good[name] = _may_end(model, name, x)
        wrong = [name for name in names if not good[name]]
        if not wrong:
            return wrapped(model, names, x)
        refused.update(wrong)
    return wrapped(model, [], x)


def _may_end(model: keras.Model, name: str, x: Any) -> bool:
    """Whether a module may end with this layer, if it is the only one to do so."""
    try:
        wrapped(model, [name], x).unwrap()
    except ValueError:
        return False
    return True


def wrapped(model: keras.Model, names: list[str], x: Any) -> AnyCode:
    """A subclassed model as modules that end with these layers; with none, one module."""
    modular = AnyCode(model, dict.fromkeys(names))
    try:
        modular.examine(x)
    except BaseException:
        modular.unwrap()
        raise
    return modular


def _compile_like(model: Any, modular: Any) -> None:
    """Compiles for the training that a model is compiled for, with its very optimizer.

    Metrics are left out: they change no weight. The optimizer scales the loss already if
    that was asked for.
    """
    modular.compile(
        optimizer=model.optimizer,
        loss=model.loss,
        loss_weights=compat.loss_weights(model),
        run_eagerly=model.run_eagerly,
        jit_compile=model.jit_compile,
        auto_scale_loss=False,
    )
    if model.train_function is not None and model.optimizer.built:
        # Keras traced its step before: what was thawed since then is not trained.
        known = compat.known_to_optimizer(model.optimizer)
        modular.make_train_function()
        trained = [v for v in modular.variables if id(v) in known]
        modular._modular.steps.trained = trained

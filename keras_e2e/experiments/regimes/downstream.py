"""Compiles the model downstream of a boundary like the modular model."""

from typing import Any

import keras

from keras_e2e.optimizers.module_optimizers import ModuleOptimizers
from keras_e2e.utils import compat


def compile_downstream(model: Any, part: keras.Model) -> None:
    """Compiles a `downstream_model` like its modular model, with a fresh optimizer.

    Losses and metrics are those given to `model.compile`, themselves: from
    `get_compile_config` a plain function would not come back.

    Args:
        model: The compiled modular model; its optimizer is built.
        part: What `model.downstream_model` returned.
    """
    metrics, weighted_metrics = compat.compiled_metrics(model)
    part.compile(
        _fresh_optimizer(model, part),
        model.loss,
        loss_weights=compat.loss_weights(model),
        metrics=metrics,
        weighted_metrics=weighted_metrics,
        run_eagerly=model.run_eagerly,
        steps_per_execution=model.steps_per_execution,
        jit_compile=model.jit_compile,
    )


def _fresh_optimizer(model: Any, part: keras.Model) -> keras.optimizers.Optimizer:
    """An optimizer made like the model's, without its state."""
    optimizer = model.optimizer
    fresh = type(optimizer).from_config(optimizer.get_config())
    found, inner = (getattr(o, "inner_optimizer", o) for o in (optimizer, fresh))
    if not isinstance(inner, ModuleOptimizers):
        compat.copy_weight_decay_exclusions(found, inner)
        return fresh
    # An optimizer of a stock model does not know which variables belong to which module.
    mine = {id(variable) for variable in part.trainable_variables}
    inner.bind(
        {
            module.name: [v for v in module.trainable_variables if id(v) in mine]
            for module in model.modules
        }
    )
    for module in model.modules:
        compat.copy_weight_decay_exclusions(
            found.optimizer_of(module.name), inner.optimizer_of(module.name)
        )
    inner.build(part.trainable_variables)
    return fresh

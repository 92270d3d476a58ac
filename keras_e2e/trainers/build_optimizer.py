"""Building the optimizer of a modular model on all its variables."""

from typing import Any

from keras_e2e.optimizers.module_optimizers import ModuleOptimizers
from keras_e2e.utils.graphs import strategy_scope


def build_optimizer(model: Any) -> None:
    """Builds the optimizer on all variables, the heads of idle objectives too.

    Left to its first apply, it would know only those of the first mode.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    with strategy_scope(model):
        if isinstance(inner, ModuleOptimizers) and not inner.built:
            inner.bind({m.name: m.all_trainable_variables for m in model._modular.modules})
            # A LossScaleOptimizer that Keras built before the modules were known
            # would not build it again.
            inner.build(model.trainable_variables)
        if not optimizer.built:
            optimizer.build(model.trainable_variables)

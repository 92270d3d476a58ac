"""Modules that are frozen for a while."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from keras_e2e.utils import compat


@contextlib.contextmanager
def frozen_modules(model: Any, names: Iterable[str]) -> Iterator[None]:
    """Freezes modules in a `with` block: no weight of them is trained.

    Their layers are in inference mode, as layers are whose `trainable` is False.
    Afterwards each layer and each variable is trainable if it was so before, so that
    layers that were frozen already stay frozen.

    Args:
        model: A modular model.
        names: Strings, the modules to freeze.

    Example:

    >>> import keras, keras_e2e as e2e
    >>> base = keras.Sequential([keras.Input((2,)), *map(keras.layers.Dense, (3, 1))])
    >>> model = e2e.modularize(base, 1)
    >>> model.compile("sgd", "mse")
    >>> first = model.modules[0]
    >>> with e2e.regimes.frozen_modules(model, [first.name]):
    ...     len(first.trainable_variables)
    0
    >>> len(first.trainable_variables)
    2
    """
    names = set(names)
    modules = [module for module in model.modules if module.name in names]
    # A layer may have variables of several modules.
    others = [x for m in model.modules if m.name not in names for x in m.layers]
    kept = {id(layer) for layer in others}
    layers = [x for module in modules for x in module.layers if id(x) not in kept]
    if not modules:
        yield
        return
    # A layer before those inside of it, which it would set as well.
    tree = [each for layer in layers for each in (layer, *compat.all_layers(layer))]
    variables = [v for x in (*layers, *modules) for v in x.variables]
    before = [(each, each.trainable) for each in (*tree, *variables)]
    for layer in layers:
        layer.trainable = False
    for module in modules:
        for variable in module.trainable_variables:  # held by no layer of it alone
            variable.trainable = False
    model.make_train_function(force=True)  # the traced steps train them
    try:
        yield
    finally:
        for each, trainable in before:
            each.trainable = trainable
        model.make_train_function(force=True)

"""What each module of a model is and has, for the advice of a verdict."""

from typing import Any

import keras

from keras_e2e.diagnostics.states import Place
from keras_e2e.trainers.local_losses import missing

# By their names, since other libraries have layers of their own.
NORMALIZING = ("Normalization", "Norm")


def lacking(model: Any) -> dict[str, str]:
    """What the objectives of a model lack in the latest batch.

    Args:
        model: A modular model that has run a step of `fit`.

    Returns:
        A dict from the name of a module to `"labels"` or `"targets"`.
    """
    specs = model._modular.steps.specs
    if specs is None:
        return {}
    y = keras.utils.unpack_x_y_sample_weight(specs)[1]
    given = model._split(y, None)
    found = {m.name: missing(m, given.y, given.labels.get(m.name)) for m in model.modules}
    return {name: lack for name, lack in found.items() if lack}


def places(model: Any) -> dict[str, Place]:
    """A `Place` for each module of a model that has run a step of `fit`."""
    lack = lacking(model)
    return {
        module.name: Place(
            task=module.boundary is None,
            objective=type(module.objective).__name__ if module.objective else "",
            labels=module.name not in lack
            if module.objective is not None and module.objective.requires_labels
            else None,
            trained=bool(model._modular.trained_variables(module)),
            surrogate=module.boundary is None and _is_surrogate(model),
            normalized=any(
                type(layer).__name__.endswith(NORMALIZING) for layer in module.layers
            ),
        )
        for module in model.modules
    }


def _is_surrogate(model: Any) -> bool:
    """Whether a part of the compiled loss is a surrogate."""
    losses = keras.tree.flatten(getattr(model, "loss", None))
    return any(getattr(loss, "is_surrogate", False) for loss in losses)

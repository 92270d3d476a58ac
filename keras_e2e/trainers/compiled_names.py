"""Names in what `compile` was given."""

from typing import Any

from keras_e2e.utils.compat.logs import compiled_dicts

_INSTEAD = {
    "loss": "modularize(model, {{{0!r}: IntermediateTarget(loss=...)}})",
    "loss_weights": "TrainingMode('local', weights={{{0!r}: 0.5}})",
    "metrics": "modularize(model, {{{0!r}: Prediction(metrics=['accuracy'])}})",
}


def refuse_boundary_names(model: Any) -> None:
    """Raises ValueError if what was compiled is for a boundary.

    A model of one output would take it for that one, whatever the name (as Keras does).
    """
    outputs = {*model._modular.keys(), *(getattr(model, "output_names", None) or ())}
    boundaries = [n for n in model._modular.boundary_names() if n not in outputs]
    for argument, given in compiled_dicts(model).items():
        for name in boundaries:
            if name in given:
                instead = _INSTEAD[argument.removeprefix("weighted_")].format(name)
                raise ValueError(
                    f"{model.name!r}: compile({argument}=...) has {name!r}, which is a "
                    f"boundary. What is compiled is for the outputs, {sorted(outputs)}. "
                    f"Leave {name!r} out, and use {instead} for the head of that boundary."
                )

"""keras_e2e: end-to-end, local and step-by-step training of modular Keras models."""

from keras_e2e import callbacks, diagnostics, objectives, regimes
from keras_e2e.boundary import ModuleBoundary
from keras_e2e.diagnosis import diagnose
from keras_e2e.ensemble_evaluation import evaluate_ensemble
from keras_e2e.ensembles import bootstrap_indices, ensemble
from keras_e2e.goodness import goodness_predict
from keras_e2e.model import ModularModel
from keras_e2e.model_heads import AugLocal, MomentumAuxiliary
from keras_e2e.modes import TrainingMode
from keras_e2e.modularize import modularize, strip
from keras_e2e.optimizers import ModuleOptimizers
from keras_e2e.wrapper import ModularWrapper

__all__ = [
    "AugLocal",
    "ModularModel",
    "ModularWrapper",
    "ModuleBoundary",
    "ModuleOptimizers",
    "MomentumAuxiliary",
    "TrainingMode",
    "bootstrap_indices",
    "callbacks",
    "diagnose",
    "diagnostics",
    "ensemble",
    "evaluate_ensemble",
    "goodness_predict",
    "modularize",
    "objectives",
    "regimes",
    "strip",
]


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("keras-e2e")
    raise AttributeError(f"module 'keras_e2e' has no attribute {name!r}")

"""keras_e2e: end-to-end, local and step-by-step training of modular Keras models."""

from keras_e2e import callbacks, diagnostics, objectives
from keras_e2e.experiments import regimes
from keras_e2e.models.diagnose import diagnose
from keras_e2e.models.ensembles.ensemble import bootstrap_indices, ensemble
from keras_e2e.models.ensembles.evaluation import evaluate_ensemble
from keras_e2e.models.goodness import goodness_predict
from keras_e2e.models.modular_model import ModularModel
from keras_e2e.models.modular_wrapper import ModularWrapper
from keras_e2e.models.modularize import modularize, strip
from keras_e2e.modules.boundary import ModuleBoundary
from keras_e2e.modules.training_mode import TrainingMode
from keras_e2e.objectives.heads.model_based import AugLocal, MomentumAuxiliary
from keras_e2e.optimizers.module_optimizers import ModuleOptimizers

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

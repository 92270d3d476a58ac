"""keras_e2e: end-to-end, local and greedy training of modular Keras models.

`import keras_e2e` registers its layers, models, losses and optimizers with Keras, so that
`keras.saving.load_model` finds them. `tasks` and `regimes`, which only experiments need,
are loaded when they are first used.
"""

import importlib
import itertools
import pathlib
import sys
from typing import TYPE_CHECKING, Any


def _is_command() -> bool:
    """Whether this process is the `keras-e2e` command, which loads what it needs itself.

    It is to answer `--help` and to refuse a flag at once, and importing Keras takes
    seconds.
    """
    program = sys.argv[0] if sys.argv else ""
    # "-m" stands there as long as Python looks for the module to run.
    by_module = ("-m", "keras_e2e") in itertools.pairwise(sys.orig_argv)
    return pathlib.PurePath(program).stem == "keras-e2e" or (program == "-m" and by_module)


if TYPE_CHECKING or not _is_command():
    from keras_e2e import callbacks, diagnostics, objectives, rewards
    from keras_e2e.models import ensembles
    from keras_e2e.models.diagnose import diagnose
    from keras_e2e.models.ensembles.ensemble import bootstrap_indices, ensemble
    from keras_e2e.models.ensembles.evaluation import evaluate_ensemble
    from keras_e2e.models.goodness import goodness_predict
    from keras_e2e.models.memory import estimate_memory
    from keras_e2e.models.memory_estimate import MemoryEstimate
    from keras_e2e.models.modular_model import ModularModel
    from keras_e2e.models.modular_wrapper import ModularWrapper
    from keras_e2e.models.modularize import modularize, strip
    from keras_e2e.modules.boundary import ModuleBoundary
    from keras_e2e.modules.training_mode import ModeName, TrainingMode
    from keras_e2e.objectives.heads.model_based import AugLocal, MomentumAuxiliary
    from keras_e2e.optimizers.module_optimizers import ModuleOptimizers
    from keras_e2e.trainers.module_parallel import ModuleParallel
    from keras_e2e.trainers.multi_worker import enable_multi_worker

if TYPE_CHECKING:
    from keras_e2e.experiments import regimes, tasks

__all__ = [
    "AugLocal",
    "MemoryEstimate",
    "ModeName",
    "ModularModel",
    "ModularWrapper",
    "ModuleBoundary",
    "ModuleOptimizers",
    "ModuleParallel",
    "MomentumAuxiliary",
    "TrainingMode",
    "bootstrap_indices",
    "callbacks",
    "diagnose",
    "diagnostics",
    "enable_multi_worker",
    "ensemble",
    "ensembles",
    "estimate_memory",
    "evaluate_ensemble",
    "goodness_predict",
    "modularize",
    "objectives",
    "regimes",
    "rewards",
    "strip",
    "tasks",
]


def __getattr__(name: str) -> Any:
    if name in ("regimes", "tasks"):
        return importlib.import_module(f"keras_e2e.experiments.{name}")
    if name == "__version__":
        from importlib.metadata import version

        return version("keras-e2e")
    raise AttributeError(f"module 'keras_e2e' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})

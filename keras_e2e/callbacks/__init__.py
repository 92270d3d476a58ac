"""Callbacks for `model.fit`: diagnostics of the modules, and switches of the mode."""

from keras_e2e.callbacks.auto_mode import AutoMode
from keras_e2e.callbacks.episode_returns import EpisodeReturns
from keras_e2e.callbacks.module_diagnostics import ModuleDiagnostics
from keras_e2e.callbacks.module_tensorboard import ModuleTensorBoard
from keras_e2e.callbacks.training_mode_scheduler import TrainingModeScheduler

__all__ = [
    "AutoMode",
    "EpisodeReturns",
    "ModuleDiagnostics",
    "ModuleTensorBoard",
    "TrainingModeScheduler",
]

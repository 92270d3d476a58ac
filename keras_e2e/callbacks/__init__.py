"""Callbacks: what happens around `model.fit`."""

from keras_e2e.callbacks.auto_mode import AutoMode
from keras_e2e.callbacks.mode_schedule import ModeSchedule
from keras_e2e.callbacks.module_tensorboard import ModuleTensorBoard
from keras_e2e.callbacks.readings import Readings

__all__ = ["AutoMode", "ModeSchedule", "ModuleTensorBoard", "Readings"]

"""Local objectives: the losses that train a module from its own activation."""

from keras_e2e.objectives.base import (
    Batch,
    LocalObjective,
    ModelSpec,
    Output,
    OutputSpec,
)
from keras_e2e.objectives.prediction import Prediction
from keras_e2e.objectives.reconstruction import Reconstruction
from keras_e2e.objectives.target import Target

__all__ = [
    "Batch",
    "LocalObjective",
    "ModelSpec",
    "Output",
    "OutputSpec",
    "Prediction",
    "Reconstruction",
    "Target",
]

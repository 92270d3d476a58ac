"""Local objectives: the losses that train a module from its own activation."""

from keras_e2e.objectives import heads
from keras_e2e.objectives.base import LocalObjective
from keras_e2e.objectives.feature_bank import FeatureBank
from keras_e2e.objectives.feedback import DirectFeedbackAlignment, FeedbackAlignment
from keras_e2e.objectives.forward_forward import ForwardForward
from keras_e2e.objectives.infonce import InfoNCE
from keras_e2e.objectives.infopro import InfoPro
from keras_e2e.objectives.intermediate_target import IntermediateTarget
from keras_e2e.objectives.mixture import Mixture
from keras_e2e.objectives.prediction import Prediction
from keras_e2e.objectives.predsim import PredSim
from keras_e2e.objectives.reconstruction import Reconstruction
from keras_e2e.objectives.registry import (
    ALIASES,
    Alias,
    Identifier,
    deserialize,
    get,
    serialize,
)
from keras_e2e.objectives.signal import Signal
from keras_e2e.objectives.similarity import SimilarityMatching, SupervisedContrastive
from keras_e2e.objectives.specs import Batch, Exit, ModelSpec, Output, OutputSpec
from keras_e2e.objectives.synthetic_gradient import SyntheticGradient
from keras_e2e.objectives.transport import Transport
from keras_e2e.objectives.two_view import BarlowTwins, VICReg, ViewContrast

__all__ = [
    "ALIASES",
    "Alias",
    "BarlowTwins",
    "Batch",
    "DirectFeedbackAlignment",
    "Exit",
    "FeatureBank",
    "FeedbackAlignment",
    "ForwardForward",
    "Identifier",
    "InfoNCE",
    "InfoPro",
    "IntermediateTarget",
    "LocalObjective",
    "Mixture",
    "ModelSpec",
    "Output",
    "OutputSpec",
    "PredSim",
    "Prediction",
    "Reconstruction",
    "Signal",
    "SimilarityMatching",
    "SupervisedContrastive",
    "SyntheticGradient",
    "Transport",
    "VICReg",
    "ViewContrast",
    "deserialize",
    "get",
    "heads",
    "serialize",
]

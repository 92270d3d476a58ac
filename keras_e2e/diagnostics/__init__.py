"""Per-module diagnostics: numbers that say which module gets a usable signal."""

from keras_e2e.diagnostics.activations import DormantFraction
from keras_e2e.diagnostics.agreement import LocalAlignment, NoiseScale, Reliability
from keras_e2e.diagnostics.gradients import GradientSNR, GradRMS, UpdateRatio
from keras_e2e.diagnostics.jacobian import JacobianSingularValues
from keras_e2e.diagnostics.on_demand import OnDemand
from keras_e2e.diagnostics.progress import LossCredit, Rotation
from keras_e2e.diagnostics.quantity import ModuleView, Quantity
from keras_e2e.diagnostics.representations import EffectiveRank, ProbeAccuracy
from keras_e2e.diagnostics.signals import ModuleLoss, SignalCoherence, SignalGain
from keras_e2e.diagnostics.similarity import CKA
from keras_e2e.diagnostics.utility import FrozenUtility, ResetUtility
from keras_e2e.diagnostics.verdicts import Verdict, judge


def default_quantities() -> list[Quantity]:
    """The quantities that are on by default: cheap, and no extra pass."""
    return [
        ModuleLoss(),
        GradRMS(),
        UpdateRatio(),
        SignalGain(),
        GradientSNR(),
        SignalCoherence(),
        DormantFraction(),
    ]


def full_quantities() -> list[Quantity]:
    """The default ones, and those that are due now and then: further passes, algebra."""
    return [
        *default_quantities(),
        LossCredit(),
        LocalAlignment(),
        Reliability(),
        NoiseScale(),
        ProbeAccuracy(),
        EffectiveRank(),
        Rotation(),
    ]


__all__ = [
    "CKA",
    "DormantFraction",
    "EffectiveRank",
    "FrozenUtility",
    "GradRMS",
    "GradientSNR",
    "JacobianSingularValues",
    "LocalAlignment",
    "LossCredit",
    "ModuleLoss",
    "ModuleView",
    "NoiseScale",
    "OnDemand",
    "ProbeAccuracy",
    "Quantity",
    "Reliability",
    "ResetUtility",
    "Rotation",
    "SignalCoherence",
    "SignalGain",
    "UpdateRatio",
    "Verdict",
    "default_quantities",
    "full_quantities",
    "judge",
]

"""Per-module diagnostics: numbers that say which module gets a usable signal."""

from keras_e2e.diagnostics.activations import DormantFraction
from keras_e2e.diagnostics.gradients import GradientSNR, GradRMS, UpdateRatio
from keras_e2e.diagnostics.quantity import ModuleView, Quantity
from keras_e2e.diagnostics.signals import ModuleLoss, SignalCoherence, SignalGain
from keras_e2e.diagnostics.verdicts import Verdict, verdict


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


__all__ = [
    "DormantFraction",
    "GradRMS",
    "GradientSNR",
    "ModuleLoss",
    "ModuleView",
    "Quantity",
    "SignalCoherence",
    "SignalGain",
    "UpdateRatio",
    "Verdict",
    "default_quantities",
    "verdict",
]

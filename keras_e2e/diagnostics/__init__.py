"""Per-module diagnostics: quantities that say which module gets a usable signal."""

from keras_e2e.diagnostics.agreement import LocalAlignment, NoiseScale, Reliability
from keras_e2e.diagnostics.descent import Descent
from keras_e2e.diagnostics.gradients import GradientSNR, GradRMS, UpdateRatio
from keras_e2e.diagnostics.jacobian import JacobianSingularValues
from keras_e2e.diagnostics.on_demand import OnDemand
from keras_e2e.diagnostics.progress import LossCredit, Rotation
from keras_e2e.diagnostics.quantity import ModuleView, Quantity
from keras_e2e.diagnostics.representations import (
    DormantFraction,
    EffectiveRank,
    ProbeAccuracy,
)
from keras_e2e.diagnostics.signals import (
    ModuleLoss,
    SignalCoherence,
    SignalGain,
    Skill,
)
from keras_e2e.diagnostics.similarity import CKA
from keras_e2e.diagnostics.utility import FrozenUtility, ResetUtility
from keras_e2e.diagnostics.verdicts import Verdict, judge


def default_quantities() -> list[Quantity]:
    """The quantities that are measured by default: they take no extra pass over the batch.

    Example:

    >>> import keras_e2e as e2e
    >>> [quantity.name for quantity in e2e.diagnostics.default_quantities()][:3]
    ['loss', 'skill', 'grad_rms']
    """
    return [
        ModuleLoss(),
        Skill(),
        GradRMS(),
        UpdateRatio(),
        SignalGain(),
        GradientSNR(),
        Descent(),
        SignalCoherence(),
        DormantFraction(),
    ]


def full_quantities() -> list[Quantity]:
    """The default quantities, and the expensive ones: extra passes, linear algebra.

    The expensive ones have a schedule of their own: every 200 steps.

    Example:

    >>> import keras_e2e as e2e
    >>> [q.name for q in e2e.diagnostics.full_quantities() if q.schedule][:3]
    ['loss_credit', 'local_alignment', 'reliability']
    """
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
    "Descent",
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
    "Skill",
    "UpdateRatio",
    "Verdict",
    "default_quantities",
    "full_quantities",
    "judge",
]

"""Short names of the objectives, accepted wherever an objective is."""

import difflib
from collections.abc import Mapping
from typing import Any

from keras_e2e.objectives.base import LocalObjective
from keras_e2e.objectives.feedback import DirectFeedbackAlignment, FeedbackAlignment
from keras_e2e.objectives.forward_forward import ForwardForward
from keras_e2e.objectives.infonce import InfoNCE
from keras_e2e.objectives.intermediate_target import IntermediateTarget
from keras_e2e.objectives.mixture import InfoPro, Mixture, PredSim
from keras_e2e.objectives.prediction import Prediction
from keras_e2e.objectives.reconstruction import Reconstruction
from keras_e2e.objectives.similarity import SimilarityMatching, SupervisedContrastive
from keras_e2e.objectives.synthetic_gradient import SyntheticGradient
from keras_e2e.objectives.two_view import BarlowTwins, VICReg, ViewContrast

# All but Mixture, whose short form is a dict from alias to factor.
ALIASES: dict[str, type[LocalObjective]] = {
    "pred": Prediction,
    "prediction": Prediction,
    "intermediate_target": IntermediateTarget,
    "sim": SimilarityMatching,
    "predsim": PredSim,
    "supcon": SupervisedContrastive,
    "infopro": InfoPro,
    "reconstruction": Reconstruction,
    "barlow_twins": BarlowTwins,
    "vicreg": VICReg,
    "infonce": InfoNCE,
    "view_contrast": ViewContrast,
    "forward_forward": ForwardForward,
    "synthetic_gradient": SyntheticGradient,
    "feedback_alignment": FeedbackAlignment,
    "direct_feedback_alignment": DirectFeedbackAlignment,
}


def get(objective: Any) -> LocalObjective | None:
    """An objective from any spelling.

    Args:
        objective: a `LocalObjective`, an alias (`"predsim"`), a dict from objective or
            alias to factor (a `Mixture`), or None for no objective.

    Returns:
        The objective, or None for None.

    Raises:
        ValueError: an unknown alias; says the nearest ones.
        TypeError: anything else, False included.

    Example:

    >>> import keras_e2e as e2e
    >>> type(e2e.objectives.get("predsim")).__name__
    'PredSim'
    """
    if objective is None:
        return None
    if isinstance(objective, LocalObjective):
        return objective
    if isinstance(objective, str):
        if objective in ALIASES:
            return ALIASES[objective]()
        near = difflib.get_close_matches(objective.lower(), ALIASES, n=3)
        meant = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(
            f"unknown objective {objective!r}.{meant} The aliases: {sorted(ALIASES)}."
        )
    if isinstance(objective, Mapping):
        return Mixture(objective)
    raise TypeError(
        "objective must be a LocalObjective, an alias such as 'predsim', a dict from "
        f"objective to factor, or None for no objective. Found: {objective!r}."
    )

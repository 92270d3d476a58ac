"""Ensembles as modular models: how to build one, combine its members, and score it."""

from keras_e2e.models.ensembles.calibration import (
    Scores,
    expected_calibration_error,
    scores,
)
from keras_e2e.models.ensembles.ensemble import bootstrap_indices, ensemble
from keras_e2e.models.ensembles.evaluation import EnsembleEvaluation, evaluate_ensemble
from keras_e2e.models.ensembles.voting import MajorityVote, WeightedMean

__all__ = [
    "EnsembleEvaluation",
    "MajorityVote",
    "Scores",
    "WeightedMean",
    "bootstrap_indices",
    "ensemble",
    "evaluate_ensemble",
    "expected_calibration_error",
    "scores",
]

"""Training by reward: a policy acts in Gymnasium's environments and `fit` trains it."""

from keras_e2e.rewards.advantages import generalized_advantages
from keras_e2e.rewards.evaluation import PolicyEvaluation, evaluate_policy
from keras_e2e.rewards.layers import GaussianPolicy, ObservationNormalization
from keras_e2e.rewards.losses import PPO, PolicyGradient
from keras_e2e.rewards.metrics import ApproximateKL, ClipFraction, PolicyEntropy
from keras_e2e.rewards.rollouts import Rollouts

__all__ = [
    "PPO",
    "ApproximateKL",
    "ClipFraction",
    "GaussianPolicy",
    "ObservationNormalization",
    "PolicyEntropy",
    "PolicyEvaluation",
    "PolicyGradient",
    "Rollouts",
    "evaluate_policy",
    "generalized_advantages",
]

"""Ways to train a modular model: plans of stages, each of which trains some of it.

The regimes of the field, each a few stages long, for any modular model: end to end, under
deep supervision, module by module in any order, pretrained, automatic.
"""

from keras_e2e.experiments.regimes.by_reward import (
    REWARD_REGIMES,
    RewardRegime,
    TrainedPolicy,
    pretrained_then_frozen,
    train_by_reward,
)
from keras_e2e.experiments.regimes.cache_store import MEMORY
from keras_e2e.experiments.regimes.freezing import frozen_modules
from keras_e2e.experiments.regimes.plans import (
    PLANS,
    Stage,
    auto,
    deep_supervision,
    end_to_end,
    greedy,
    independent,
    last_first,
    local,
    local_then_end_to_end,
    pretrained,
)
from keras_e2e.experiments.regimes.policies import train_policy
from keras_e2e.experiments.regimes.training import DOWNSTREAM, Trained, train
from keras_e2e.experiments.regimes.transfer import transfer_weights

__all__ = [
    "DOWNSTREAM",
    "MEMORY",
    "PLANS",
    "REWARD_REGIMES",
    "RewardRegime",
    "Stage",
    "Trained",
    "TrainedPolicy",
    "auto",
    "deep_supervision",
    "end_to_end",
    "frozen_modules",
    "greedy",
    "independent",
    "last_first",
    "local",
    "local_then_end_to_end",
    "pretrained",
    "pretrained_then_frozen",
    "train",
    "train_by_reward",
    "train_policy",
    "transfer_weights",
]

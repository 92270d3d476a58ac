"""Data sets and modular tasks that demo, examples, experiments and benchmarks share."""

from keras_e2e.experiments.tasks.arithmetic import arithmetic, arithmetic_model
from keras_e2e.experiments.tasks.datasets import (
    DATASETS,
    load,
    load_digits,
    load_fashion_mnist,
)
from keras_e2e.experiments.tasks.digit_rewards import parity_by_reward
from keras_e2e.experiments.tasks.digit_tasks import parity, random_table, sum_mod_10
from keras_e2e.experiments.tasks.image_tuples import (
    Tuples,
    hide_labels,
    parity_ceiling,
    parity_model,
    parity_tuples,
)
from keras_e2e.experiments.tasks.lines import lines, lines_model
from keras_e2e.experiments.tasks.memory import memory, memory_model
from keras_e2e.experiments.tasks.metrics import sign_accuracy
from keras_e2e.experiments.tasks.numerals import (
    NearestNumeral,
    numeral_images,
    numeral_letters,
)
from keras_e2e.experiments.tasks.pentomino import pentomino, pentomino_model
from keras_e2e.experiments.tasks.random_parity import random_parity, random_parity_model
from keras_e2e.experiments.tasks.reward_task import RewardTask
from keras_e2e.experiments.tasks.scenes import scene_model, scenes
from keras_e2e.experiments.tasks.stocks import (
    chosen_return,
    negative_return,
    stocks,
    stocks_model,
)
from keras_e2e.experiments.tasks.task import Cut, Split, Task

__all__ = [
    "DATASETS",
    "Cut",
    "NearestNumeral",
    "RewardTask",
    "Split",
    "Task",
    "Tuples",
    "arithmetic",
    "arithmetic_model",
    "chosen_return",
    "hide_labels",
    "lines",
    "lines_model",
    "load",
    "load_digits",
    "load_fashion_mnist",
    "memory",
    "memory_model",
    "negative_return",
    "numeral_images",
    "numeral_letters",
    "parity",
    "parity_by_reward",
    "parity_ceiling",
    "parity_model",
    "parity_tuples",
    "pentomino",
    "pentomino_model",
    "random_parity",
    "random_parity_model",
    "random_table",
    "scene_model",
    "scenes",
    "sign_accuracy",
    "stocks",
    "stocks_model",
    "sum_mod_10",
]

"""The names that a sweep goes by, apart from the code behind them, which loads Keras."""

OF_SYMBOLS = ("parity", "sum_mod_10", "random_table")
"""Tasks over tuples of images, with targets."""

BY_REWARD = ("parity_by_reward",)
"""Tasks that are learned by reward. Their steps are those in environments, and what stands
for the accuracy is the mean reward of an episode of the test."""

WITH_BUDGETS = (*OF_SYMBOLS, *BY_REWARD)
"""Tasks with a choice of how many images are labeled."""

SIZED = (*WITH_BUDGETS, "lines", "stocks", "memory")
"""Tasks of which there are several sizes."""

TASKS = (
    *SIZED,
    "pentomino",
    "clothes_patches",
    "roman_arithmetic",
    "decimal_arithmetic",
    "scenes",
)
"""All tasks."""

DATASETS = ("digits", "fashion_mnist")
"""The images that tasks are made of (`tasks.DATASETS`)."""

WITH_DATA = (*WITH_BUDGETS, "memory")
"""Tasks that have a choice of images."""

ON_IDEAL = ("independent", "last_first")
"""Regimes that train a module on ideal activations, which are made of the labels."""

PLANS = (
    "end_to_end",
    "deep_supervision",
    "local",
    "local_then_end_to_end",
    "greedy",
    "last_first",
    "independent",
    "pretrained",
    "auto",
)
"""The plans of training (`regimes.PLANS`)."""

LABEL_FREE = {
    "pretrained_reconstruction": "reconstruction",
    "pretrained_barlow_twins": "barlow_twins",
}
"""Regimes that pretrain without labels, and the objective that they pretrain with."""

CURRICULUM = "curriculum"
"""The regime that begins with the smallest size of the task."""

WITH_TARGETS = (*PLANS, *LABEL_FREE, CURRICULUM)
"""Ways of training on tasks that have targets."""

WITH_REWARDS = (
    "end_to_end",
    "local_reconstruction",
    "local_barlow_twins",
    "pretrained_reconstruction",
    "pretrained_barlow_twins",
    "deep_supervision",
    "local",
    "local_then_end_to_end",
    "auto",
)
"""Ways of training by reward (`regimes.REWARD_REGIMES`)."""

REGIMES = tuple(dict.fromkeys((*WITH_TARGETS, *WITH_REWARDS)))
"""All ways of training."""

WITHOUT_LABELS = (
    "end_to_end",
    CURRICULUM,
    *LABEL_FREE,
    "local_reconstruction",
    "local_barlow_twins",
)
"""Regimes that see no intermediate label."""

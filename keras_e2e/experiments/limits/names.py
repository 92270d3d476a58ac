"""The names that a sweep goes by, apart from the code behind them, which loads Keras."""

OF_SYMBOLS = ("parity", "sum_mod_10", "random_table")
"""Tasks over tuples of images, with a choice of how many images are labeled."""

SIZED = (*OF_SYMBOLS, "lines", "stocks", "memory")
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

WITH_DATA = (*OF_SYMBOLS, "memory")
"""Tasks that have a choice of images."""

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

REGIMES = (*PLANS, *LABEL_FREE, CURRICULUM)
"""All ways of training."""

WITHOUT_LABELS = ("end_to_end", CURRICULUM, *LABEL_FREE)
"""Regimes that see no intermediate label."""

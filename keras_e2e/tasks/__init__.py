"""Data sets and modular tasks that demo, examples, experiments and benchmarks share."""

from keras_e2e.tasks.data import DATASETS, load, load_digits, load_fashion_mnist
from keras_e2e.tasks.ktuples import (
    Tuples,
    hide_labels,
    parity_ceiling,
    parity_model,
    parity_tuples,
)
from keras_e2e.tasks.memory import memory, memory_model
from keras_e2e.tasks.scenes import scene_model, scenes
from keras_e2e.tasks.symbols import parity, random_table, sum_mod_10
from keras_e2e.tasks.task import Cut, Split, Task

__all__ = [
    "DATASETS",
    "Cut",
    "Split",
    "Task",
    "Tuples",
    "hide_labels",
    "load",
    "load_digits",
    "load_fashion_mnist",
    "memory",
    "memory_model",
    "parity",
    "parity_ceiling",
    "parity_model",
    "parity_tuples",
    "random_table",
    "scene_model",
    "scenes",
    "sum_mod_10",
]

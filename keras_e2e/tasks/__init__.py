"""Data sets and modular tasks that demo, examples and benchmarks share."""

from keras_e2e.tasks.data import DATASETS, load, load_digits, load_fashion_mnist
from keras_e2e.tasks.ktuples import (
    Tuples,
    hide_labels,
    parity_ceiling,
    parity_model,
    parity_tuples,
)

__all__ = [
    "DATASETS",
    "Tuples",
    "hide_labels",
    "load",
    "load_digits",
    "load_fashion_mnist",
    "parity_ceiling",
    "parity_model",
    "parity_tuples",
]

"""Layers whose weights depend on a seed alone, each drawn with a seed of its own."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np


def seeded_initializers(
    seed: int, count: int
) -> Callable[..., keras.initializers.Initializer]:
    """A function that makes initializers for the layers of a model.

    Two layers of one shape must not share a seed: they would be equal.

    Args:
        seed: Integer seed of the model's weights, at least 0.
        count: Integer, the most initializers that are made.

    Returns:
        A function of the class of an initializer (by default Glorot uniform) and of its
        other arguments. Each call takes the next seed.

    Example:

    >>> from keras_e2e.experiments.tasks.seeded import seeded_initializers
    >>> draw = seeded_initializers(seed=0, count=2)
    >>> draw().seed != draw().seed
    True
    """
    seeds = iter(np.random.SeedSequence(seed).generate_state(count))

    def draw(kind: Any = keras.initializers.GlorotUniform, **options: Any) -> Any:
        return kind(seed=int(next(seeds)), **options)

    return draw


def seeded_dense(seed: int, count: int) -> Callable[..., keras.layers.Dense]:
    """A function that makes Dense layers of a model, Glorot uniform.

    Args:
        seed: Integer seed of the model's weights, at least 0.
        count: Integer, the most layers that are made.

    Returns:
        A function of the layer's name, units and activation, and of other arguments of
        `keras.layers.Dense`.

    Example:

    >>> from keras_e2e.experiments.tasks.seeded import seeded_dense
    >>> dense = seeded_dense(seed=0, count=1)
    >>> dense("hidden", 8, "relu").units
    8
    """
    draw = seeded_initializers(seed, count)

    def dense(name: str, units: int, activation: Any = None, **options: Any) -> Any:
        return keras.layers.Dense(
            int(units),  # Keras takes no NumPy integers
            activation,
            kernel_initializer=draw(),
            name=name,
            **options,
        )

    return dense

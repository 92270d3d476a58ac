"""How many steps the optimizer has taken."""

import keras
import numpy as np


def count_steps(model: keras.Model) -> int:
    """The optimizer's iterations, under any strategy and on any backend.

    `int(optimizer.iterations)` fails where a strategy mirrors the variable.
    """
    return int(np.asarray(model.optimizer.iterations))

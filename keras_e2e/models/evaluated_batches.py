"""The batches that `evaluate` would see, also where a class prepares raw data in it."""

from collections.abc import Iterator
from typing import Any

import keras

from keras_e2e.utils.data import Batches
from keras_e2e.utils.graphs import overrides


def evaluated_batches(
    model: Any,
    x: Any,
    y: Any,
    sample_weight: Any,
    batch_size: int | None,
    who: str = "evaluate_modules",
) -> Any:
    """Batches `(x, y, sample_weight)` that can be gone through more than once.

    Args:
        model: A modular model. If its class overrides `evaluate`, the batches are those
            that this hands to Keras, and all of them are held in memory.
        x: As in `evaluate`.
        y: As in `evaluate`.
        sample_weight: As in `evaluate`.
        batch_size: As in `evaluate`.
        who: String, what is said in errors.
    """
    if not overrides(model, "evaluate"):
        return Batches(x, y, sample_weight, batch_size=batch_size, who=who)
    given = {"y": y, "sample_weight": sample_weight, "batch_size": batch_size}
    held = _Held()
    function, executed = model.test_function, model.steps_per_execution
    model.steps_per_execution = 1  # as many batches as that are asked for at once
    # What Keras would make of the batches: `evaluate` asks for it by this method.
    model.make_test_function = lambda force=False: None
    model.test_function = held.take
    try:
        known = {key: value for key, value in given.items() if value is not None}
        model.evaluate(x, **known, verbose=0)
    finally:
        del model.make_test_function
        model.test_function, model.steps_per_execution = function, executed
    return held


class _Held:
    """Batches as Keras was given them."""

    def __init__(self) -> None:
        self.batches: list[tuple] = []

    def take(self, *args: Any) -> Any:
        """Stands for a step of `evaluate`."""
        *state, iterator = args  # on JAX the state of the trainer stands before the data
        batch = next(iterator)
        self.batches.append(keras.utils.unpack_x_y_sample_weight(batch))
        return ({}, *state) if state else {}

    def count(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple]:
        return iter(self.batches)

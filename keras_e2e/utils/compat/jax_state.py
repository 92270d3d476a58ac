"""Private names of Keras about the state that JAX's trainer passes from step to step."""

import contextlib
from collections.abc import Iterator, Sequence

import keras


@contextlib.contextmanager
def state_in_variables(model: keras.Model, state: Sequence[Sequence]) -> Iterator[None]:
    """In this context variables that have no value have that of a state of `fit`.

    JAX's trainer takes the values of all variables away before its first step
    (`_purge_model_variables`), and what makes a step under a `keras.distribution` asks the
    values how they lie on the devices (`_get_state_sharding_spec`). Stock Keras makes its
    only step before; those of other training modes are made when they are due.

    Args:
        model: The model.
        state: What the step is given: the values of the trainable, the other, the
            optimizer's and the metrics' variables.
    """
    groups = (
        *(model.trainable_variables, model.non_trainable_variables),
        *(model.optimizer.variables, model.metrics_variables),
    )
    taken = [
        (variable, value)
        for variables, values in zip(groups, state, strict=True)
        for variable, value in zip(variables, values, strict=True)
        if variable._value is None
    ]
    for variable, value in taken:
        variable._value = value
    try:
        yield
    finally:
        for variable, _ in taken:
            variable._value = None

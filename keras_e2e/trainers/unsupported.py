"""What stands in place of the step on a backend that there is none for."""

from typing import Any, NoReturn

import keras


class ModularStep:
    """Refuses a backend that keras_e2e does not train on."""

    def __init__(self, *args: Any, **kwargs: Any):
        raise NotImplementedError(
            "keras_e2e trains on the tensorflow and jax backends of Keras, not on "
            f"{keras.config.backend()!r}. Set KERAS_BACKEND=tensorflow before importing "
            "keras."
        )


def instrument(model: Any, quantities: Any) -> NoReturn:
    """Refuses, as no model can be made on this backend."""
    raise NotImplementedError(
        f"keras_e2e has no diagnostics on {keras.config.backend()!r}. Set "
        "KERAS_BACKEND=tensorflow before importing keras."
    )

"""The instrumented step on JAX, which there is not yet."""

from typing import Any

from keras_e2e.diagnostics.quantity import Quantity


def instrument(model: Any, quantities: list[Quantity]) -> Any:
    """Refuses diagnostics.

    Raises:
        RuntimeError: In every case.
    """
    raise RuntimeError(
        f"{model.name}: diagnostics need the instrumented step, which exists for "
        "the tensorflow backend only. Train without ModuleTensorBoard here, or set "
        "KERAS_BACKEND=tensorflow."
    )

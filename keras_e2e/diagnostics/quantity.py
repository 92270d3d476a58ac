"""The contract of a diagnostic quantity."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras import ops


@dataclass(frozen=True)
class ModuleView:
    """What an instrumented step shows of one module.

    Gradients and signals are those of the loss that was optimised, without the loss
    scale of mixed precision, in float32.

    Attributes:
        name: the module's name.
        variables: the variables that the step may move, as tensors from before it.
        gradients: gradients of all its trainable variables, summed over replicas; None
            where there is none.
        updates: the changes that the optimizer made to `variables`.
        loss: the module's loss: its local loss, or the task loss for the last one;
            None where it was not computed.
        activation: what the module put out, `(batch, ...)`; None for the last module.
        signal: gradient of the loss with respect to the module's output: what the
            module is taught by; None where there is none.
        input_signal: gradient with respect to what the module was given: what it
            would send back. None for the first module.
        total: sums a tensor over the replicas; the identity on one device.
    """

    name: str
    variables: list
    gradients: list
    updates: list
    loss: Any
    activation: Any
    signal: Any
    input_signal: Any
    total: Callable[[Any], Any]


class Quantity:
    """One diagnostic number for each module.

    A subclass sets the attributes and implements `compute`. It may keep running state:
    `init_state` names the tensors, `compute` returns their next values. State is set
    back to zero when the training mode changes.

    Attributes:
        name: the tag's stem: `e2e_<name>/<NN>_<module>` in TensorBoard.
        formula: the formula, in plain text.
        reading: how to read it, in one line.
        unit: the unit; empty for a pure number.
        healthy: `(low, high)`, the band of healthy values: a heuristic. None when only
            changes mean something.

    Example: the largest absolute gradient.

    >>> from keras import ops
    >>> import keras_e2e as e2e
    >>> class LargestGradient(e2e.diagnostics.Quantity):
    ...     name, formula = "largest_gradient", "max abs(g)"
    ...     def compute(self, module, state):
    ...         if not any(g is not None for g in module.gradients):
    ...             return None, state
    ...         sizes = [ops.max(ops.abs(g)) for g in module.gradients if g is not None]
    ...         return ops.max(ops.stack(sizes)), state
    """

    name: str
    formula: str
    reading: str = ""
    unit: str = ""
    healthy: tuple[float, float] | None = None

    def __eq__(self, other: object) -> bool:
        """Whether the other computes the same: a step traced for one serves both."""
        if type(self) is not type(other):
            return False
        try:
            return bool(vars(self) == vars(other))
        except (TypeError, ValueError):  # attributes, such as arrays, without one answer
            return self is other

    def __hash__(self) -> int:
        return hash(type(self))

    def init_state(self, shapes: list[tuple]) -> list[tuple]:
        """Shapes of the float32 tensors to keep between instrumented steps.

        Args:
            shapes: the shapes of the module's trainable variables.
        """
        return []

    def compute(self, module: ModuleView, state: list) -> tuple[Any, list]:
        """The number for one module.

        Args:
            module: what the step shows of it.
            state: the kept tensors, in the order of `init_state`.

        Returns:
            A scalar, or None where the quantity does not apply to this module, and the
            next state.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement compute(module, state)."
        )


def sum_of_squares(tensors: list) -> Any:
    """The squared norm of several tensors taken together; None for no tensor."""
    squares = [ops.sum(ops.square(t)) for t in tensors if t is not None]
    return sum(squares[1:], squares[0]) if squares else None

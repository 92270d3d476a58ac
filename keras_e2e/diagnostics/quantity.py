"""The contract of a quantity that is measured inside the training step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_e2e.utils.validation import check_integer

# Steps from one measurement of an expensive quantity to the next, unless the user says
# otherwise.
EXPENSIVE = 200


@dataclass(frozen=True)
class ModuleView:
    """What a training step shows a quantity of one module.

    `Quantity.compute` is given one for each module; see the example of `Quantity`.

    Gradients and signals are those of the loss that was optimized, without the loss
    scale of mixed precision, in float32. With gradient accumulation they are those of the
    batch at which the weights change.

    Attributes:
        name: String, the module's name.
        variables: List of the variables that the step may change, as tensors from before
            it.
        gradients: List of the gradients of all its trainable variables, summed over
            replicas; `None` for a variable without one.
        updates: List of the changes that the optimizer made, in the places of
            `gradients`; `None` for a variable that is frozen.
        loss: Scalar, the module's loss: its local loss, or the task loss for the last
            module; `None` where it was not computed. Of several replicas it is this one's
            part, whose `total` is the mean over all examples.
        activation: Tensor `(batch, ...)`, the module's output; `None` for the last module.
        shapes: List of the shapes of all its trainable variables, in the places of
            `gradients`; `None` where those of the tensors say it all.
        mask: Boolean tensor `(batch, positions...)`, Keras's mask of the activation,
            False where there is padding; `None` where all of it counts.
        signal: Tensor, the gradient of the loss with respect to the module's output: what
            the module is trained by. `None` where there is no gradient.
        input_signal: Tensor, the gradient with respect to the module's input: what it
            would send back; end to end, with that of penalties of this input. `None` for
            the first module.
        total: Function that sums a tensor over the replicas; the identity on one device.
        num_examples: Scalar, how many examples the step saw, on all replicas.
        halves: For a quantity with the extra pass `"halves"`: the end-to-end gradients of
            the task loss on the first and on the second half of the batch, two lists in
            the places of `gradients`. `None` where a half is empty or there is no task
            loss.
        local_gradients: For a quantity with the extra pass `"local"`: the gradients of the
            local objectives on the batch; `None` where a boundary has no objective.
        later_gradients: For a quantity with the extra pass `"later"`: the gradients of the
            mode's loss on the same batch, after the step.
        prediction_losses: For a quantity with the extra pass `"reference"`, of the last
            module: the compiled loss without penalties, and that of a prediction which
            is the same for all examples, the mean of the predictions on the batch; parts of
            replicas, as of `loss`. `None` for the other modules, and where there is no
            compiled loss.
        classes: For a quantity that `requires_targets`: the targets of the model's only
            output as a one-hot tensor `(batch, num_classes)`; `None` where they are not
            classes.
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
    num_examples: Any = None
    halves: tuple[list, list] | None = None
    local_gradients: list | None = None
    later_gradients: list | None = None
    prediction_losses: tuple[Any, Any] | None = None
    classes: Any = None
    mask: Any = None
    shapes: list[tuple] | None = None


class Described:
    """What every diagnostic number says of itself, however it is measured.

    Attributes:
        name: String, its name; in TensorBoard its tags are `e2e_<name>/<NN>_<module>`.
        formula: String, the formula in plain text.
        interpretation: String, how to read it, in one line.
        unit: String, the unit; empty for a pure number.
        healthy: Tuple `(low, high)`, the range of healthy values: a heuristic. `None`
            where only changes mean something.
        source: String, where it comes from: a paper, in a few words.
        requires_targets: Boolean, whether it looks at the targets.
        extra_outputs: Tuple of the names of further numbers that it measures at the same
            time; `compute` then returns a tuple.
        schedule: When it is measured: see `Quantity` and `OnDemand`.
    """

    name: str
    formula: str
    interpretation: str = ""
    unit: str = ""
    healthy: tuple[float, float] | None = None
    source: str = ""
    requires_targets: bool = False
    extra_outputs: tuple[str, ...] = ()
    schedule: int | str | None

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all its numbers: `name`, and those in `extra_outputs`."""
        return (self.name, *self.extra_outputs)


class Quantity(Described):
    """One diagnostic number for each module, measured inside the training step.

    A subclass sets the class attributes below and implements `compute`. It may keep
    tensors from one measurement to the next: `init_state` returns their shapes, `compute`
    returns their next values. They are zero at the first measurement, and set back to zero
    when the training mode changes, unless `keep_across_modes` is true. A batch that the
    optimizer skips leaves them as they are.

    Args:
        schedule: Integer or `None`: when this object is measured, in place of the
            schedule of its class (see below). A subclass with a constructor of its own
            passes it on: `super().__init__(**kwargs)`. Defaults to `"default"`, the
            schedule of the class.

    Attributes:
        name: String, its name; in TensorBoard its tags are `e2e_<name>/<NN>_<module>`.
        formula: String, the formula in plain text.
        interpretation: String, how to read it, in one line.
        unit: String, the unit; empty for a pure number.
        healthy: Tuple `(low, high)`, the range of healthy values: a heuristic. `None`
            where only changes mean something.
        source: String, where it comes from: a paper, in a few words.
        schedule: `None` for a quantity that is measured whenever the callback measures
            (`update_freq` of `ModuleDiagnostics`), or an integer `n` for one that is
            measured every `n` steps, because it is expensive.
        requires_targets: Boolean, whether it looks at the targets.
        extra_outputs: Tuple of the names of further numbers that it measures at the same
            time; `compute` then returns a tuple.
        extra_passes: Tuple of the further passes over the batch that it takes: some of
            `"halves"`, `"local"`, `"later"` and `"reference"` (see `ModuleView`). Each is
            made once for all quantities and has no side effects.
        keep_across_modes: Boolean, whether its tensors are kept when the training mode
            changes.

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
    >>> LargestGradient().schedule, LargestGradient(schedule=100).schedule
    (None, 100)

    Example: a running average, of a number of its own and of the gradients.

    >>> class SmoothLoss(e2e.diagnostics.Quantity):
    ...     name, formula = "smooth_loss", "mean of the losses so far"
    ...     def init_state(self, shapes):
    ...         return [(), ()]  # two scalars: the sum, and how many there were
    ...     def compute(self, module, state):
    ...         if module.loss is None:
    ...             return None, state
    ...         total, count = state[0] + module.loss, state[1] + 1.0
    ...         return total / count, [total, count]
    """

    schedule: int | None = None
    extra_passes: tuple[str, ...] = ()
    keep_across_modes: bool = False

    def __init__(self, *, schedule: int | str | None = "default"):
        if schedule == "default":
            return
        if schedule is not None:
            check_integer(f"{type(self).__name__}: schedule", schedule, 1)
        self.schedule = None if schedule is None else int(schedule)

    def __eq__(self, other: object) -> bool:
        """Whether the other computes the same: a step traced for one serves both.

        When each is measured makes no difference.
        """
        if type(self) is not type(other):
            return False
        try:
            return bool(_computed_by(self) == _computed_by(other))
        except (TypeError, ValueError):  # attributes, such as arrays, without one answer
            return self is other

    def __hash__(self) -> int:
        return hash(type(self))

    def init_state(self, shapes: list[tuple]) -> list[tuple]:
        """Returns the shapes of the float32 tensors to keep between measurements.

        Called once for each module. The tensors are kept module by module.

        Args:
            shapes: List of the shapes of the module's trainable variables, each a tuple
                of integers.

        Returns:
            List of shapes, one for each tensor to keep, each a tuple of integers: `[()]`
            keeps one scalar, `shapes` a tensor for each variable. Empty by default.
        """
        return []

    def compute(self, module: ModuleView, state: list) -> tuple[Any, list]:
        """Measures one module.

        Args:
            module: A `ModuleView`, what the step shows of the module.
            state: List of the kept tensors, in the order of `init_state`.

        Returns:
            Two values. First a scalar (with `extra_outputs` a tuple of scalars, one for
            each of `columns`), or `None` where the quantity does not apply to this
            module; then the list of the next kept tensors.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement compute(module, state)."
        )


def _computed_by(quantity: Quantity) -> dict[str, Any]:
    """The attributes of a quantity that its numbers depend on."""
    return {name: value for name, value in vars(quantity).items() if name != "schedule"}

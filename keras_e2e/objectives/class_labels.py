"""Class labels and absent examples, for objectives that compare examples."""

from typing import Any

from keras import ops

from keras_e2e.objectives.base import LocalObjective
from keras_e2e.objectives.specs import Batch, ModelSpec
from keras_e2e.utils.validation import check_integer


def check_num_classes(objective: LocalObjective, num_classes: Any) -> int | None:
    """Returns a number of classes as an `int`, or None.

    Raises:
        ValueError: If it is neither None nor an integer of at least 2.
    """
    who = type(objective).__name__
    return (
        None
        if num_classes is None
        else check_integer(f"{who}: num_classes", num_classes, 2)
    )


def labeled_output(
    objective: LocalObjective,
    model: ModelSpec,
    output_name: str | None,
    num_classes: int | None,
) -> tuple[str, int]:
    """Returns the output whose labels an objective uses, and the number of classes.

    Args:
        objective: The objective, for errors.
        model: What is known of the model.
        output_name: String, name of the output; None for the only one.
        num_classes: Integer, the number of classes; None for the size of the output.

    Raises:
        ValueError: If there is no such output, if there are several to choose from, or if
            the output does not score classes.
    """
    who = type(objective).__name__
    names = [output.name for output in model.outputs]
    chosen = [o for o in model.outputs if output_name in (None, o.name)]
    if not chosen:
        raise ValueError(
            f"{who}(output_name={output_name!r}): the model has no such output. Its "
            f"outputs: {names}. Name one of them."
        )
    if len(chosen) > 1:
        raise ValueError(
            f"{who} compares the classes of one output, and the model has {len(chosen)}: "
            f"{names}. Name one: {who}(output_name={names[0]!r})."
        )
    shape = tuple(chosen[0].spec.shape)
    if num_classes is None:
        if len(shape) != 2 or shape[-1] is None or shape[-1] < 2:
            raise ValueError(
                f"{who} needs class labels, and the model's output {chosen[0].name!r} of "
                f"shape {shape} does not score classes. If its targets are class indices "
                f"all the same, give their number: {who}(num_classes=2); else use an "
                "objective without labels."
            )
        num_classes = int(shape[-1])
    return chosen[0].name, num_classes


def one_hot(
    objective: LocalObjective, batch: Batch, output_name: str, num_classes: int
) -> Any:
    """Returns the labels of an output, float32 of shape `(batch, num_classes)`.

    Args:
        objective: The objective, for errors.
        batch: The batch.
        output_name: String, name of the output.
        num_classes: Integer, the number of classes.

    Raises:
        ValueError: If the targets are neither class indices nor one-hot.
    """
    y = next(output.y for output in batch.outputs if output.name == output_name)
    y = ops.convert_to_tensor(y)
    shape = tuple(y.shape)
    if len(shape) == 2 and shape[1] == num_classes and num_classes > 1:
        return ops.cast(y, "float32")
    if len(shape) == 2 and shape[1] == 1:
        y, shape = ops.squeeze(y, 1), shape[:1]
    if len(shape) != 1:
        raise ValueError(
            f"{type(objective).__name__} needs class indices of shape (batch,) or one-hot "
            f"labels of shape (batch, {num_classes}) for the output {output_name!r}. Found "
            f"targets of shape {shape}. Give one label for each example, or use an "
            "objective without labels."
        )
    return ops.one_hot(ops.cast(y, "int32"), num_classes, dtype="float32")


def present(batch: Batch, activation: Any) -> Any:
    """Returns 1 for each example that counts, 0 for one of sample weight zero: `(batch,)`.

    Objectives that compare examples leave the others out of their statistics, so that
    an example of weight zero trains nothing there either.
    """
    weight = batch.sample_weight
    if weight is None:
        return ops.ones((ops.shape(activation)[0],), dtype="float32")
    weight = ops.convert_to_tensor(weight)
    if len(weight.shape) > 1:
        weight = ops.max(weight, axis=tuple(range(1, len(weight.shape))))
    return ops.cast(ops.not_equal(weight, 0), "float32")


def present_positions(batch: Batch, activation: Any) -> Any:
    """Returns 1 for each position that counts, as `present`: `(batch, positions, ...)`.

    Weights hold for an example, or for each position along the first axis if there are as
    many of them.
    """
    there = ops.ones_like(activation[..., 0], dtype="float32")
    counts = present(batch, activation)[:, None]
    weight = batch.sample_weight
    if weight is not None and len(weight.shape) > 1 and weight.shape[1] == there.shape[1]:
        counts = ops.cast(ops.not_equal(ops.convert_to_tensor(weight), 0), "float32")
        counts = ops.max(ops.reshape(counts, (*ops.shape(counts)[:2], -1)), axis=-1)
    others = [1] * (len(there.shape) - 2)
    return there * ops.reshape(counts, (*ops.shape(counts), *others))


def unit(rows: Any, epsilon: float = 1e-8) -> Any:
    """Returns rows scaled to length 1; a row of zeros stays, with gradient zero."""
    squares = ops.sum(ops.square(rows), axis=-1, keepdims=True)
    some = squares > 0
    length = ops.sqrt(ops.where(some, squares, ops.ones_like(squares)))
    return ops.where(some, rows / (length + epsilon), ops.zeros_like(rows))

"""What every task offers: examples, labels of its modules, a model to be cut."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np
from keras import tree

from keras_e2e.utils.data import endless

if TYPE_CHECKING:
    import tensorflow as tf


class Split(NamedTuple):
    """Examples of a task.

    Attributes:
        x: inputs, an array or a structure of arrays, as the model takes them.
        y: targets by the name of the model's output.
        labels: intermediate labels by the name of the cut point.

    Example:

    >>> import numpy as np
    >>> from keras_e2e import tasks
    >>> split = tasks.Split(np.zeros((4, 2)), {"out": np.ones(4)}, {"middle": np.ones(4)})
    >>> len(split.targets()), split.size
    (2, 4)
    """

    x: Any
    y: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]

    @property
    def size(self) -> int:
        """How many examples there are."""
        return len(tree.flatten(self.x)[0])

    def targets(self) -> dict[str, np.ndarray]:
        """Targets and intermediate labels, as `fit` of a modular model takes them."""
        return {**self.y, **self.labels}

    def take(self, rows: Any) -> "Split":
        """The examples at these places: a slice or an array of indices."""
        return tree.map_structure(lambda array: array[rows], self)

    def batches(self, size: int, seed: int = 0, labels: bool = True) -> "tf.data.Dataset":
        """Shuffled batches without an end, all of one size.

        Args:
            size: examples in a batch.
            seed: Integer seed of the order; the same seed gives the same batches.
            labels: whether the intermediate labels come along in the targets.

        Returns:
            A dataset of `(x, targets)`, for `fit(..., steps_per_epoch=...)`.
        """
        return endless((self.x, self.targets() if labels else self.y), size, seed)


class Cut(NamedTuple):
    """A place in the model where a module ends that has labels of its own.

    Attributes:
        loss: what compares the activation there with the labels: the name of a Keras loss,
            or a function of labels and activation.
        ideal_activation: what the activation would be if the module made no error, from the
            labels: trains the later modules without the earlier ones.
        classes: how many classes the labels have; None where they are no classes.
        needed: what the task needs to know of the labels; all of them by default.
    """

    loss: str | Callable[[Any, Any], Any]
    ideal_activation: Callable[[np.ndarray], np.ndarray]
    classes: int | None = None
    needed: Callable[[np.ndarray], np.ndarray] = np.asarray


def one_hot(classes: int) -> Callable[[np.ndarray], np.ndarray]:
    """The ideal activation of a softmax over classes, for `Cut.ideal_activation`.

    Args:
        classes: Integer, how many classes there are.

    Returns:
        A function that turns integer labels into float32 one-hot vectors.

    Example:

    >>> import numpy as np
    >>> from keras_e2e.experiments.tasks.task import one_hot
    >>> one_hot(3)(np.array([2, 0])).tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    return lambda labels: np.eye(classes, dtype="float32")[labels]


def class_cut(classes: int, needed: Callable[[np.ndarray], np.ndarray] = np.asarray) -> Cut:
    """A cut point at a softmax over classes, which the labels name by number.

    Args:
        classes: Integer, how many classes there are.
        needed: As in `Cut`.
    """
    return Cut("sparse_categorical_crossentropy", one_hot(classes), classes, needed)


def as_probability(labels: np.ndarray) -> np.ndarray:
    """The ideal activation of a sigmoid unit: labels of 0 and 1 as float32."""
    return labels[..., None].astype("float32")


class Task(NamedTuple):
    """A modular task: its data, its model, and what can be reached.

    Attributes:
        name: in a word, with the sizes that matter.
        build: makes the plain Keras model from a seed, not compiled, the same weights
            for the same seed; its cut points are layers of it.
        train: examples to learn from.
        validation: examples to choose by, made of raw data of their own.
        test: examples to report on, made of raw data of their own.
        cuts: the cut points by the name of their layer, in order.
        loss: the task loss, as `compile` takes it.
        metrics: as `compile` takes them; the first one is the task's.
        chance: the value of that metric without knowledge of the input.
        ceiling: from the share of inputs that the first module gets wrong, the best
            value of that metric (NaN where there is no formula).
    """

    name: str
    build: Callable[[int], keras.Model]
    train: Split
    validation: Split
    test: Split
    cuts: dict[str, Cut]
    loss: Any
    metrics: Any
    chance: float
    ceiling: Callable[[float], float] = lambda error: float("nan")

    @property
    def success(self) -> float:
        """Half-way between chance and 1: above it a training counts as a success."""
        return (self.chance + 1.0) / 2.0

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
        x: The inputs: an array or a structure of arrays, as the model takes them.
        y: Dict from the name of the model's output to the targets.
        labels: Dict from the name of the cut point to the intermediate labels.

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
        """The number of examples."""
        return len(tree.flatten(self.x)[0])

    def targets(self) -> dict[str, np.ndarray]:
        """Targets and intermediate labels, as `fit` of a modular model takes them."""
        return {**self.y, **self.labels}

    def take(self, rows: Any) -> "Split":
        """The examples at these places: a slice or an array of indices."""
        return tree.map_structure(lambda array: array[rows], self)

    def batches(self, size: int, seed: int = 0, labels: bool = True) -> "tf.data.Dataset":
        """Returns an endless dataset of shuffled batches, all of one size.

        Args:
            size: Integer, the number of examples in a batch.
            seed: Integer seed for the order; the same seed gives the same batches.
                Defaults to 0.
            labels: Boolean, whether the targets hold the intermediate labels too.
                Defaults to `True`.

        Returns:
            A dataset of `(x, targets)`, for `fit(..., steps_per_epoch=...)`.
        """
        return endless((self.x, self.targets() if labels else self.y), size, seed)


class Cut(NamedTuple):
    """A place in the model where a module ends that has labels of its own.

    Attributes:
        loss: Name of a Keras loss, or a function of labels and activation, that compares
            the activation there with the labels.
        ideal_activation: Function from the labels to the activation that the module would
            have if it made no error. The later modules can be trained on it without the
            earlier ones.
        classes: Integer, the number of classes. Defaults to None, where the labels are
            not classes.
        needed: Function from the labels to what the task needs to know of them. Defaults
            to all of them.

    Example:

    >>> from keras_e2e import tasks
    >>> cut = tasks.parity(k=2, n=100).cuts["symbols"]
    >>> cut.loss, cut.classes
    ('sparse_categorical_crossentropy', 10)
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
        needed: As in `Cut`. Defaults to np.asarray.
    """
    return Cut("sparse_categorical_crossentropy", one_hot(classes), classes, needed)


def as_probability(labels: np.ndarray) -> np.ndarray:
    """The ideal activation of a sigmoid unit: labels of 0 and 1 as float32."""
    return labels[..., None].astype("float32")


class Task(NamedTuple):
    """A modular task: its data, its model, and what can be reached.

    Attributes:
        name: String, a short name with the sizes that matter.
        build: Function from a seed to the stock Keras model, not compiled. The same seed
            gives the same weights; the cut points are layers of the model.
        train: `Split` to learn from.
        validation: `Split` to choose by, made of raw data of its own.
        test: `Split` to report on, made of raw data of its own.
        cuts: Dict from the name of a layer to its `Cut`, in order.
        loss: The task loss, as `compile` takes it.
        metrics: List of metrics, as `compile` takes them; the first one is the task's.
        chance: Float, the value of that metric without knowledge of the input.
        ceiling: Function from the share of inputs that the first module gets wrong to the
            best value of that metric (NaN where there is no formula).

    Example:

    >>> from keras_e2e import tasks
    >>> task = tasks.parity(k=2, n=100)
    >>> task.name, list(task.cuts), task.chance
    ('parity of 2 digits', ['symbols'], 0.5)
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

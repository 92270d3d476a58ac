"""What one forward pass of a modular model records at its boundaries."""

from typing import Any, NamedTuple

from keras_e2e.utils import compat


class Crossing(NamedTuple):
    """What one boundary recorded in one forward pass.

    Attributes:
        boundary: The `ModuleBoundary` that was crossed.
        activation: Tensor, the boundary's input: the output of its module.
        output: Tensor, the boundary's output: the next module's input. It is the
            activation itself unless the boundary stopped the gradient.
        predicted_gradient: Tensor, what a `SyntheticGradient` predicted here, or None.
    """

    boundary: Any
    activation: Any
    output: Any
    predicted_gradient: Any = None

    def masked_activation(self) -> Any:
        """The activation, with the Keras mask of the module noted on it."""
        # A layer's mask is noted on what it returns, so behind the boundary.
        compat.set_mask(self.activation, compat.mask_of(self.output))
        return self.activation


class ForwardRecord:
    """What crossed the boundaries in one forward pass, and the model's outputs.

    `model.forward_record(x)` makes one.

    Attributes:
        crossings: List with a `Crossing` for each time a boundary was crossed, in order.
        outputs: The model's outputs; None until the pass is over, or where a training
            mode does not compute them.
        penalties: List of the scalar losses that layers and regularizers added.

    Example:

    >>> import keras, numpy as np, keras_e2e as e2e
    >>> base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="code"),
    ...                          keras.layers.Dense(1)])
    >>> record = e2e.modularize(base, ["code"]).forward_record(np.ones((2, 8)))
    >>> [activation.shape for activation in record.activations("code")]
    [TensorShape([2, 4])]
    """

    def __init__(self) -> None:
        self.crossings: list[Crossing] = []
        self.outputs: Any = None
        self.penalties: list = []

    def crossed(self, name: str) -> list[Crossing]:
        """Returns the `Crossing`s of the boundary of this name, in order."""
        return [c for c in self.crossings if c.boundary.module == name]

    def activations(self, name: str) -> list:
        """Returns the activation at each crossing of a boundary, with its Keras mask.

        Args:
            name: String, the boundary's name.
        """
        return [crossing.masked_activation() for crossing in self.crossed(name)]

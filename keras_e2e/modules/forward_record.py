"""What one forward pass of a modular model records at its boundaries."""

from typing import Any, NamedTuple

from keras_e2e.utils import compat


class Crossing(NamedTuple):
    """What one boundary recorded in one forward pass.

    Attributes:
        boundary: The `ModuleBoundary` that was crossed.
        inputs: Tuple of the tensors that the boundary was given, the outputs of its
            module: one, or several.
        outputs: Tuple of the tensors that the boundary returned, for the next modules.
            They are the inputs themselves unless the boundary stopped the gradient.
        predicted_gradient: Tensor, what a `SyntheticGradient` predicted here, or None.
    """

    boundary: Any
    inputs: tuple
    outputs: tuple
    predicted_gradient: Any = None

    @property
    def activation(self) -> Any:
        """What the objective is given of the inputs: one tensor."""
        return self.boundary.seen_of(self.inputs)

    @property
    def output(self) -> Any:
        """The same of the outputs."""
        return self.boundary.seen_of(self.outputs)

    def masked_activation(self) -> Any:
        """The activation, with the Keras mask of the module noted on it."""
        # A layer's mask is noted on what it returns, so behind the boundary.
        for before, behind in zip(self.inputs, self.outputs, strict=True):
            compat.set_mask(before, compat.mask_of(behind))
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

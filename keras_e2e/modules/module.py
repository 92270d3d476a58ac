"""A module: the layers between two boundaries."""

from typing import Any, NamedTuple

from keras_e2e.modules.boundary import ModuleBoundary
from keras_e2e.objectives.base import LocalObjective
from keras_e2e.utils.graphs import count_parameters, unique


class Module(NamedTuple):
    """The layers between two boundaries.

    `model.modules` is the list of them.

    Attributes:
        name: String, the name of the boundary that ends it; for the last module that of
            the model's output layer, or `"outputs"` where there are several.
        boundary: The `ModuleBoundary` that ends it; None for the last module.
        layers: Tuple of its layers, in the order of the graph.
        inputs: Names of the boundaries that lead into it.
        model_inputs: Positions of those of the model's inputs that lead into it.
        crossings: Integer, how often one pass crosses the boundary.
        borrowed: Tuple of the variables that it uses and another module owns: `shared` in
            `modularize`.
        foreign: Tuple of the variables of its layers that another module owns, used or not.

    Example:

    >>> import keras, keras_e2e as e2e
    >>> base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="code"),
    ...                          keras.layers.Dense(1, name="score")])
    >>> module = e2e.modularize(base, ["code"]).modules[0]
    >>> [layer.name for layer in module.layers], module.parameters
    (['code'], 36)
    """

    name: str
    boundary: ModuleBoundary | None
    layers: tuple
    inputs: tuple[str, ...]
    model_inputs: tuple[int, ...] = ()
    own_variables: tuple = ()
    crossings: int = 1
    borrowed: tuple = ()
    foreign: tuple = ()

    @property
    def variables(self) -> list:
        """All weights that the module owns, its head left out."""
        if self.own_variables:
            return list(self.own_variables)
        weights = unique(v for layer in self.layers for v in layer.weights)
        others = {id(v) for v in self.foreign}
        return [v for v in weights if id(v) not in others]

    @property
    def trainable_variables(self) -> list:
        """The trainable weights of the module, its head left out.

        Like Keras it asks each variable, not the layer: a frozen layer may hold a sublayer
        that is trained, as LoRA does.
        """
        return [v for v in self.variables if v.trainable]

    @property
    def parameters(self) -> int:
        """The number of parameters: how many numbers the module's weights hold."""
        return count_parameters(self.variables)

    @property
    def objective(self) -> LocalObjective | None:
        """The local objective; None for the last module and for a mere mark."""
        return None if self.boundary is None else self.boundary.objective

    @property
    def head_variables(self) -> list:
        """The trainable weights of the objective's head."""
        return [] if self.objective is None else self.objective.trainable_weights

    @property
    def all_variables(self) -> list:
        """The weights of the module and of its head, trainable or not."""
        head = [] if self.objective is None else self.objective.weights
        return [*self.variables, *head]

    @property
    def all_trainable_variables(self) -> list:
        """The trainable weights of the module and of its head."""
        return [*self.trainable_variables, *self.head_variables]


class ModuleSpec(NamedTuple):
    """A module with the shapes around it, before the head of its objective is built.

    Attributes:
        module: The module.
        inputs: What the module is given: a `keras.KerasTensor`, or a list of several.
        activation: The `keras.KerasTensor` that its objective is given; None for the last
            module.
        following_blocks: The blocks of layers behind the boundary (`blocks.Block`), where
            the model shows a graph.
        leaving: Tuple of the `keras.KerasTensor`s that enter its boundary, of which the
            activation is made; empty for the last module.
    """

    module: Module
    inputs: Any
    activation: Any = None
    following_blocks: tuple = ()
    leaving: tuple = ()

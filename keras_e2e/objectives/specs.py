"""What an objective is given: the model's shapes, a batch, and what a head predicts."""

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import keras

from keras_e2e.utils import compat


class Output(NamedTuple):
    """One output of the model and its targets in a batch.

    Attributes:
        name: String, the output's name, as in `model.output_names`.
        y: The output's targets, or None if none were given.
        sample_weight: The output's sample weights, or None.
        loss: Function `loss(y_true, y_pred, sample_weight)`: the compiled loss of this
            output times its loss weight, reduced to a scalar. None if the model was
            compiled without a loss for it.
        compiled_loss: The loss as it was given to `compile`: a string, a function or a
            `keras.losses.Loss`. Defaults to `None`, no loss.

    Example:

    >>> from keras_e2e.objectives import Output
    >>> output = Output("score", y=[[1.0]], sample_weight=None, loss=None)
    >>> output.name, output.compiled_loss
    ('score', None)
    """

    name: str
    y: Any
    sample_weight: Any
    loss: Callable | None
    compiled_loss: Any = None


class Batch(NamedTuple):
    """What a local objective may use besides its activation.

    Attributes:
        x: The model's inputs, in the structure that the model takes.
        outputs: Tuple of `Output`: the model's outputs with their targets and losses.
        labels: The intermediate labels that were given in `y` under the boundary's
            name, or None.
        sample_weight: Tensor of shape `(batch,)` of weights for this objective, or None.
        module_input: What the module itself was given (a tensor, or several in a list),
            with its gradient stopped.
        extra_activations: Dict with this boundary's activations in the further forward
            passes that the objective asked for, by the keys of
            `LocalObjective.extra_inputs`. Defaults to an empty dict.
        predicted_gradient: Tensor, what a `Signal` predicted at the boundary. Defaults to
            `None`, no prediction.
        training: Boolean, whether heads run in training mode. False in
            `evaluate_modules`, which trains nothing. Defaults to `True`.
        earlier: Dict with what the modules upstream returned, by the names of their
            boundaries, with its gradient stopped, for an objective that sets
            `requires_earlier`. Defaults to an empty dict.

    Example: a batch to try an objective on.

    >>> import keras
    >>> from keras_e2e.objectives import Batch, Reconstruction
    >>> x = keras.ops.ones((2, 8))
    >>> batch = Batch(x, (), labels=None, sample_weight=None, module_input=x)
    >>> batch.training, dict(batch.extra_activations)
    (True, {})
    """

    x: Any
    outputs: tuple[Output, ...]
    labels: Any
    sample_weight: Any
    module_input: Any
    extra_activations: Mapping[Hashable, Any] = {}
    predicted_gradient: Any = None
    training: bool = True
    earlier: Mapping[str, Any] = {}


class OutputSpec(NamedTuple):
    """One output of the model as it is known before training.

    Attributes:
        name: String, the output's name.
        spec: `keras.KerasTensor` with the output's shape and dtype.
        ending: Function from raw values (logits) to the output, such as a softmax: the
            output's activation. None if the model does not show how it ends.

    Example:

    >>> import keras
    >>> from keras_e2e.objectives import OutputSpec
    >>> logits = keras.KerasTensor((None, 3))
    >>> OutputSpec("class", logits, keras.activations.softmax).spec.shape
    (None, 3)
    """

    name: str
    spec: keras.KerasTensor
    ending: Callable | None


# Not a named tuple, whose fields cannot be called `index`.
@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """What is known of the model when an objective builds its head.

    Attributes:
        module_input: `keras.KerasTensor` (or several, in a list) with the shape of what
            the module is given.
        inputs: List of `keras.KerasTensor`: the model's inputs.
        outputs: Tuple of `OutputSpec`, one for each output of the model.
        following: Tuple with an entry for each module that comes next: a tuple of the
            `keras.KerasTensor`s at its end, which are the activation of its boundary or
            the model's outputs. Defaults to `()`, where that is not known.
        index: Integer, the module's position, from 0. Defaults to 0.
        num_modules: Integer, the number of modules of the model. Defaults to 2.
        following_blocks: Tuple of the blocks of layers that come after the boundary
            (`modules.blocks.Block`), of which `AugLocal` and `MomentumAuxiliary` are
            made. Defaults to `()`, where the model shows no graph.
        name: String, the module's name. Defaults to `""`.
        earlier: Dict with the `keras.KerasTensor` at the boundary of each module upstream
            that a pass crosses once, by name. Defaults to an empty dict.

    Example: the shapes around a module, to build a head without a model.

    >>> import keras
    >>> from keras_e2e.objectives import ModelSpec, OutputSpec, Prediction
    >>> x = keras.KerasTensor((None, 8))
    >>> outputs = (OutputSpec("class", keras.KerasTensor((None, 3)), None),)
    >>> objective = Prediction("linear")
    >>> objective.build_for(keras.KerasTensor((None, 4)), ModelSpec(x, [x], outputs))
    >>> [tuple(weight.shape) for weight in objective.trainable_weights]
    [(4, 3), (3,)]
    """

    module_input: Any
    inputs: list
    outputs: tuple[OutputSpec, ...]
    following: tuple = ()
    index: int = 0
    num_modules: int = 2
    following_blocks: tuple = ()
    name: str = ""
    earlier: Mapping[str, keras.KerasTensor] = dataclasses.field(default_factory=dict)


class Exit(NamedTuple):
    """A prediction that a head makes: where the model can be left early.

    `LocalObjective.exits` returns them. `model.early_exit_model(name)` makes of one a
    stock Keras model that ends behind the boundary, and `model.evaluate_modules` measures
    how good each is.

    Attributes:
        output: String, name of the model output that is predicted. None for a prediction
            of intermediate labels.
        network: The layer that computes raw values (logits) from the activation. None if
            the activation itself is the prediction.
        ending: Function applied to the raw values, such as a softmax. None for nothing.

    Example:

    >>> import keras
    >>> from keras_e2e.objectives import Exit
    >>> head = keras.layers.Dense(3)
    >>> way_out = Exit("class", head, keras.activations.softmax)
    >>> tuple(way_out.predict(keras.ops.ones((2, 5))).shape)
    (2, 3)
    """

    output: str | None
    network: Any
    ending: Callable | None

    def predict(self, activation: Any, training: bool = False) -> Any:
        """Returns the prediction from an activation.

        Args:
            activation: Tensor, the boundary's activation.
            training: Boolean, whether the head runs in training mode. Defaults to
                `False`.
        """
        raw = activation
        if self.network is not None:
            raw = self.network(activation, training=training)
        if self.ending is None:
            return raw
        prediction = self.ending(raw)
        compat.set_mask(prediction, compat.mask_of(raw))
        return prediction

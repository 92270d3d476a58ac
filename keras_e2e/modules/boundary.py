"""The layer that marks where a module ends."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops, tree

from keras_e2e import objectives
from keras_e2e.modules.joined import is_float, joined
from keras_e2e.modules.step_context import open_context
from keras_e2e.objectives.base import LocalObjective
from keras_e2e.objectives.global_batch import GlobalBatch
from keras_e2e.utils.validation import check_number, check_seed


@keras.saving.register_keras_serializable("keras_e2e")
class ModuleBoundary(keras.layers.Layer):
    """Marks the end of a module.

    A module is the layers between two boundaries. In the forward pass a boundary is the
    identity, to the bit. It may pass several tensors, where several lead on. While a
    modular model trains, the boundary also hands its input, the *activation* of the
    module, to a *local objective*: a loss that trains the module from that activation
    alone. Where the training mode says so, it stops the gradient. Anywhere else (in
    inference, or inside a model that is not modular) it does nothing else.

    Args:
        objective: The `LocalObjective` that trains the module which ends here, or an
            alias such as `"predsim"`, or a dict from objective to factor for a weighted
            sum. None only marks the place: the module is measured like all others, but
            has no local loss, so modes that stop the gradient here (`"local"`) are
            refused. Defaults to `"prediction"` (`objectives.Prediction()`): predict the
            model's own target from this activation.
        name: String, the layer's name. Defaults to `None`: Keras makes one.
        module: String, the name of the module that ends here: the key of its labels in
            `y`, and its name in errors, summaries and TensorBoard. Defaults to `None`,
            the layer's name. (`modularize` gives the name of the layer that the boundary
            follows.)
        noise: Float, standard deviation of Gaussian noise added to the next module's
            input, in training and where the gradient stops. Block-wise self-supervised
            training needs it (Siddiqui et al. 2023). Defaults to 0.0, no noise.
        seed: Integer seed for the generator of that noise. Defaults to `None`: a seed that
            is drawn.

    Call arguments:
        inputs: One tensor of any shape and dtype, or a list of several. The activation is
            then what the objective is given of them (`LocalObjective`, `tensors`).

    Raises:
        TypeError: If something else is given as `objective`.
        ValueError: If the alias is unknown, `module` is not a string, `noise` is negative
            or `seed` is not an integer of at least 0.

    Example:

    >>> import keras, keras_e2e as e2e
    >>> inputs = keras.Input((8,))
    >>> hidden = keras.layers.Dense(4, activation="relu")(inputs)
    >>> hidden = e2e.ModuleBoundary(name="features")(hidden)
    >>> outputs = keras.layers.Dense(3, activation="softmax")(hidden)
    >>> model = e2e.ModularModel(inputs, outputs)
    >>> [module.name for module in model.modules][0]
    'features'
    """

    objective: LocalObjective | None
    module: str
    noise: float
    generator: keras.random.SeedGenerator | None
    # From layers that modules share to the owners, noted by the modular model: its
    # `clone_model` copies the layers alone, and so do new cuts of the graph.
    shared: dict[str, str]
    # The names of the tensors, where there are several, and the places of those that the
    # objective is given, noted by the modular model.
    tensors: tuple[str, ...]
    seen: tuple[int, ...]

    def __init__(
        self,
        objective: objectives.Identifier = "prediction",
        *,
        name: str | None = None,
        module: str | None = None,
        noise: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        # Autocasting would change the activation under mixed precision.
        kwargs["autocast"] = False
        super().__init__(name=name, **kwargs)
        who = f"ModuleBoundary {self.name!r}"
        noise = check_number(f"{who}: noise", noise, least=0)
        seed = check_seed(f"{who}: seed", seed)
        if module is not None and (not isinstance(module, str) or not module):
            raise ValueError(
                f"{who}: module={module!r}; expected the name of the module that ends "
                "here, a string, or None for the layer's name."
            )
        try:
            self.objective = objectives.get(objective)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{who}: {error}") from None
        self.noise, self.seed = noise, seed
        self.generator = keras.random.SeedGenerator(seed) if noise else None
        self.module = module or self.name
        self.shared = {}
        self.tensors, self.seen = (), ()
        self.supports_masking = True
        self.built = True

    def call(self, inputs):
        gate = open_context().gate
        return inputs if gate is None else gate.cross(self, inputs)

    def add_noise(self, output: Any) -> Any:
        """Returns what the next module is given of an output: with noise, if there is any.

        Args:
            output: Tensor, what the boundary returns without noise.
        """
        if not self.noise or not is_float(output):
            return output
        # Drawn for the whole batch: the same on however many devices.
        every = GlobalBatch(output)
        shape = (every.size, *ops.shape(output)[1:])
        noise = keras.random.normal(shape, stddev=self.noise, seed=self.generator)
        return output + ops.cast(every.own(noise), output.dtype)

    def tensor_names(self, count: int) -> list[str]:
        """Returns the names of the tensors that it passes.

        Args:
            count: Integer, how many there are.
        """
        if len(self.tensors) == count:
            return list(self.tensors)
        return [self.module] if count == 1 else [str(place) for place in range(count)]

    def seen_of(self, tensors: Sequence[Any]) -> Any:
        """Returns what the objective is given of the tensors that the boundary passes.

        Args:
            tensors: The tensors, on one side of the boundary.
        """
        seen = [tensors[place] for place in self.seen] or tensors
        return joined(seen, self.name)

    def compute_output_spec(self, inputs):
        return tree.map_structure(
            lambda tensor: keras.KerasTensor(tensor.shape, dtype=tensor.dtype), inputs
        )

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        config = super().get_config()
        objective = self.objective
        config["module"] = self.module
        if self.shared:
            config["shared"] = dict(self.shared)
        if self.tensors:
            config["tensors"] = list(self.tensors)
        if self.noise:
            config.update(noise=self.noise, seed=self.seed)
        config["objective"] = (
            None if objective is None else keras.saving.serialize_keras_object(objective)
        )
        return config

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        shared, tensors = config.pop("shared", {}), config.pop("tensors", ())
        if isinstance(config.get("objective"), dict):
            config["objective"] = keras.saving.deserialize_keras_object(config["objective"])
        boundary = cls(**config)
        boundary.shared, boundary.tensors = dict(shared), tuple(tensors)
        return boundary

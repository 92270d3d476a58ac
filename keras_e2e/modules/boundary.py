"""The layer that marks where a module ends."""

from typing import Any

import keras
from keras import ops

from keras_e2e import objectives
from keras_e2e.modules.step_context import open_context
from keras_e2e.objectives.base import LocalObjective
from keras_e2e.utils.validation import check_number, check_seed


@keras.saving.register_keras_serializable("keras_e2e")
class ModuleBoundary(keras.layers.Layer):
    """Marks the end of a module.

    A module is what lies between two boundaries. In the forward pass a boundary is the
    identity, to the bit. While a `ModularModel` trains, it records its input for the local
    objective and, where the training mode says so, stops the gradient. Anywhere else (in
    inference, or inside a model that is not modular) it does nothing else.

    Args:
        objective: the `LocalObjective` that trains the module which ends here, or its
            alias (`"predsim"`). None only marks the place: no head, no weights,
            diagnostics as everywhere, but `"local"` mode, which would leave the module
            without a loss, is refused. Defaults to `"prediction"`
            (`objectives.Prediction()`): predict the model's own target from this
            activation.
        name: string, the layer's name. Defaults to None: Keras makes one.
        module: string, the name of the module that ends here: the key of its labels in
            `y`, and its name in errors, summaries and TensorBoard. Defaults to None, which
            means the layer's name; `modularize` gives the name of the layer that the
            boundary follows.
        noise: float, standard deviation of Gaussian noise added to what the next module is
            given, in training and where the gradient stops: block-wise self-supervised
            training needs it (Siddiqui et al. 2023). Defaults to 0, no noise.
        seed: integer seed of the generator of that noise. Defaults to None: a random one.

    Call arguments:
        inputs: one tensor of any shape and dtype.

    Raises:
        TypeError: `objective` is not one of the above, or `module` not a string.
        ValueError: an unknown alias; a noise that is negative.

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
        self.supports_masking = True
        self.built = True

    def call(self, inputs):
        gate = open_context().gate
        return inputs if gate is None else gate.cross(self, inputs)

    def add_noise(self, output: Any) -> Any:
        """What the next module is given of an output: with noise, if there is any."""
        if not self.noise:
            return output
        shape = ops.shape(output)
        return output + ops.cast(
            keras.random.normal(shape, stddev=self.noise, seed=self.generator), output.dtype
        )

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        config = super().get_config()
        objective = self.objective
        config["module"] = self.module
        if self.noise:
            config.update(noise=self.noise, seed=self.seed)
        config["objective"] = (
            None if objective is None else keras.saving.serialize_keras_object(objective)
        )
        return config

    @classmethod
    def from_config(cls, config):
        if isinstance(config.get("objective"), dict):
            config = dict(config)
            config["objective"] = keras.saving.deserialize_keras_object(config["objective"])
        return cls(**config)

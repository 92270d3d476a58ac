"""The modular model that is a graph of layers."""

import keras

from keras_e2e.models.base import ModularBase
from keras_e2e.models.sub_models import Stages
from keras_e2e.modules.blocks import blocks_after
from keras_e2e.modules.boundary import ModuleBoundary
from keras_e2e.modules.graph import Graph
from keras_e2e.modules.module import ModuleSpec
from keras_e2e.modules.training_mode import TrainingMode
from keras_e2e.objectives.base import OutputSpec
from keras_e2e.objectives.heads.output_activation import ending_of
from keras_e2e.trainers import targets
from keras_e2e.trainers.modular_trainer import ModularTrainer
from keras_e2e.trainers.state import ModularState


@keras.saving.register_keras_serializable("keras_e2e")
class ModularModel(ModularBase, keras.Model):
    """A Functional model with module boundaries.

    Everything of a stock Functional model holds: compile, fit, evaluate, predict,
    save, load, export. In `end_to_end` mode, the one it starts in, it trains as stock
    Keras does, to the bit.

    Args:
        inputs: as for `keras.Model`.
        outputs: as for `keras.Model`; the graph in between holds `ModuleBoundary`
            layers.
        name: as for `keras.Model`.
        training_mode: the mode to start in.

    Raises:
        ValueError: no boundary in the graph, or boundaries that cannot be placed
            there (the error names the layers); an unknown training mode.
        NotImplementedError: the Keras backend is torch.

    Example:

    >>> import keras, numpy as np, keras_e2e as e2e
    >>> inputs = keras.Input((4,))
    >>> x = e2e.ModuleBoundary(name="first")(keras.layers.Dense(3)(inputs))
    >>> model = e2e.ModularModel(inputs, keras.layers.Dense(1, name="y")(x))
    >>> model.compile("sgd", "mse")
    >>> model.training_mode = "local"
    >>> history = model.fit(np.ones((8, 4)), np.ones((8, 1)), verbose=0)
    >>> [module.name for module in model.modules]
    ['first', 'y']
    """

    def __init__(self, *args, training_mode="end_to_end", **kwargs):
        mode = TrainingMode.get(training_mode)
        super().__init__(*args, **kwargs)
        self._modular = ModularState(mode)
        graph = Graph(self)
        boundaries = graph.boundaries()
        graph.refuse_bad_boundaries()
        if not boundaries:
            raise ValueError(
                f"ModularModel {self.name!r}: no ModuleBoundary on the way from inputs "
                "to outputs. Put one between the layers, or use "
                "keras_e2e.modularize(model, boundaries)."
            )
        specs = _specs(graph, boundaries, list(self.inputs))
        keys = targets.output_keys(self.output, self.output_names)
        self._stages = Stages(self, [spec.module for spec in specs])
        outputs = [
            OutputSpec(key, tensor, ending_of(tensor))
            for key, tensor in zip(keys, self.outputs, strict=True)
        ]
        self._set_modules(specs, list(self.inputs), outputs)
        # Keras unpacks a list of one output, but not a dict.
        self._modular.single_output = len(keys) == 1 and not isinstance(self.output, dict)
        self._modular.mode = self.check_training_mode(mode)

    def _plain_call(self, inputs, training, mask, **kwargs):
        return super(ModularTrainer, self).call(
            inputs, training=training, mask=mask, **kwargs
        )

    def _flat_inputs(self, x):
        return self._stages.flat_inputs(x)

    def _sequential_call(self, inputs, module, mask, **kwargs):
        return self._stages.run(inputs, module)

    def get_config(self):
        config = super().get_config()
        config["training_mode"] = self.training_mode.get_config()
        return config

    def get_compile_config(self):
        """As Keras's; with the training mode, for `keras.models.clone_model`.

        That one calls the constructor with inputs and outputs alone, and then compiles
        the clone as this model is compiled.
        """
        config = super().get_compile_config()
        return config and {**config, "training_mode": self.training_mode.get_config()}

    def compile_from_config(self, config):
        config = dict(config)
        mode = config.pop("training_mode", None)
        super().compile_from_config(config)
        if mode is not None:
            self.training_mode = TrainingMode.get(mode)


def _specs(
    graph: Graph, boundaries: dict[str, ModuleBoundary], inputs: list
) -> list[ModuleSpec]:
    """The modules of a graph with the shapes around them."""
    crossed = {name: graph.tensors(boundary) for name, boundary in boundaries.items()}
    specs = []
    for module in graph.modules():
        entered = [tensor for name in module.inputs for tensor in crossed[name][1]]
        entered = entered or [inputs[i] for i in module.model_inputs]
        given = entered[0] if len(entered) == 1 else entered
        if module.boundary is None:
            specs.append(ModuleSpec(module, given))
            continue
        activation = crossed[module.name][0][0]
        blocks = blocks_after(graph, module.boundary)
        specs.append(ModuleSpec(module, given, activation, blocks))
    return specs

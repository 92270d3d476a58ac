"""Running one module at a time: the sequential mode of Functional models."""

from typing import Any

import keras
from keras import tree

from keras_e2e.modules.boundary import ModuleBoundary
from keras_e2e.modules.module import Module
from keras_e2e.utils import compat
from keras_e2e.utils.graphs import input_like


class Stages:
    """The sub-models that sequential training runs.

    For each module there is one model from the inputs to what enters the module, run
    in inference mode, and one from there to the module's end, run in training mode.
    What comes later is not computed. They share the layers of the model.

    Both repeat the graph on inputs of their own. `keras.Model(tensors, tensors)` on the
    model's tensors would be shorter, but changes the history of its input tensors, after
    which the model can no longer be saved (Keras 3.15).

    Args:
        model: The modular model.
        modules: Its modules, in order.
    """

    def __init__(self, model: keras.Model, modules: list[Module]):
        self.model = model
        self.modules = {module.name: module for module in modules}
        self.made: dict[str, tuple] = {}

    def run(self, inputs: Any, name: str) -> Any:
        """Runs the model up to the end of a module.

        Args:
            inputs: The inputs of the whole model.
            name: String, the name of the module.

        Returns:
            The model's outputs if the module is the last one, else None. The
            boundary's own activation is in the record of the pass.
        """
        before, active = self._models(name)
        flat = [
            None if t is None else keras.ops.convert_to_tensor(t)
            for t in self.flat_inputs(inputs)
        ]
        entering = [] if before is None else tree.flatten(before(flat, training=False))
        outputs = active([*flat, *entering], training=True)
        if self.modules[name].boundary is not None:
            return None
        return tree.pack_sequence_as(self.model.output, tree.flatten(outputs))

    def flat_inputs(self, inputs: Any) -> list:
        """Inputs in the order of the model's, also when given by name."""
        if isinstance(inputs, dict) and not isinstance(self.model.input, dict):
            return [inputs[tensor.name] for tensor in self.model.inputs]
        return tree.flatten(inputs)

    def _models(self, name: str) -> tuple:
        if name not in self.made:
            module = self.modules[name]
            # A boundary crossed more than once may lead into its own module.
            upstream = {b for b in module.inputs if b != name}
            before = self._model_before(upstream) if upstream else None
            self.made[name] = (before, self._model_of(module, upstream))
        return self.made[name]

    def _model_before(self, upstream: set[str]) -> keras.Model:
        """From the model's inputs to the outputs of the boundaries before a module."""
        inputs, leaving = self._inputs(), []

        def call(layer, *args, **kwargs):
            outputs = layer(*args, **kwargs)
            if isinstance(layer, ModuleBoundary) and layer.module in upstream:
                leaving.append(outputs)
            return outputs

        compat.run_graph(self.model, inputs, call)
        return _Stage(inputs, leaving, name="upstream")

    def _model_of(self, module: Module, upstream: set[str]) -> keras.Model:
        """From the model's inputs and what enters a module to the module's end."""
        inputs = self._inputs()
        entering: list = []
        ends: list = []

        def call(layer, *args, **kwargs):
            if isinstance(layer, ModuleBoundary) and layer.module in upstream:
                entering.append(input_like(args[0], f"entering_{len(entering)}"))
                return entering[-1]
            outputs = layer(*args, **kwargs)
            if layer is module.boundary:
                ends.append(outputs)
            return outputs

        outputs = compat.run_graph(self.model, inputs, call)
        outputs = ends or tree.flatten(outputs)
        return _Stage([*inputs, *entering], outputs, name="stage")

    def _inputs(self) -> list:
        return [input_like(tensor) for tensor in self.model.inputs]


class _Stage(keras.Model):
    """A part of a graph, on inputs of its own.

    It is given a name of its own. Keras's automatic names count up, so they would sort
    differently in the graphs of models made alike, and could so change the order of a sum
    in TensorFlow.
    """

    def compute_mask(self, inputs, previous_mask):
        # Its layers have set the masks there are. Keras would warn that they are lost.
        return None

"""Running one module at a time: the sequential mode of Functional models."""

from typing import Any, NamedTuple

import keras
from keras import tree

from keras_e2e.models.remat import Recomputation
from keras_e2e.modules.boundary import ModuleBoundary
from keras_e2e.modules.module import Module
from keras_e2e.modules.step_context import context_of
from keras_e2e.utils import compat
from keras_e2e.utils.graphs import input_like, layer_name


class WithUpstream(NamedTuple):
    """A batch of inputs with what boundaries upstream of a module return for it.

    In place of `x` in the data of `fit` it trains the module without running those before.

    Attributes:
        x: The inputs of the whole model.
        crossings: Dict with one entry: from the module to a tuple with what leaves the
            boundaries, tensor by tensor, in the order of the graph. Each is a dict with one
            entry, from the name of the boundary to the tensor and, if there is one, its
            mask.
    """

    x: Any
    crossings: dict[str, tuple]


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

    Attributes:
        remat: Tuple of the names of the modules whose activations are recomputed.
    """

    def __init__(self, model: keras.Model, modules: list[Module]):
        self.model = model
        self.modules = {module.name: module for module in modules}
        self.made: dict[str, tuple] = {}
        self.following: dict[str, keras.Model] = {}
        self.remat: tuple[str, ...] = ()

    def upstream_model(self, name: str) -> "UpstreamModel":
        """The model of what a step that trains one module needs of those before it.

        That is what enters the module, and the activations of modules whose heads are
        measured meanwhile.

        Args:
            name: String, the name of a module that is not a first one.

        Returns:
            An `UpstreamModel`, not compiled.
        """
        measured = {
            module.name
            for module, objective in self.model._modular.with_objective()
            if objective.head_metrics()
        }
        wanted = self._entering(name) | (self.modules_before(name) & measured)
        return UpstreamModel(self, name, *self._model_before(wanted))

    def modules_before(self, name: str) -> set[str]:
        """The names of all modules that lead to one, directly or not."""
        pending, before = [name], set[str]()
        while pending:
            more = self._entering(pending.pop()) - before
            before |= more
            pending += more
        return before - {name}

    def recompute(self, names: tuple[str, ...]) -> None:
        """Takes the names of the modules whose activations are recomputed."""
        self.remat = names
        self.made.clear()

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
        flat = self.flat(inputs)
        entering = self._computed_before(inputs, name)
        if entering is None:
            entering = [] if before is None else tree.flatten(before(flat, training=False))
        outputs = active([*flat, *entering], training=True)
        if self.modules[name].boundary is not None:
            return None
        return tree.pack_sequence_as(self.model.output, tree.flatten(outputs))

    def run_on(self, inputs: Any) -> Any:
        """Runs the model in inference mode from what the data brought of upstream modules.

        Returns:
            The model's outputs; None where the data brought nothing for these inputs.
        """
        given = context_of(self.model._modular).upstream
        name = next(iter(given.crossings)) if given is not None else None
        entering = None if name is None else self._computed_before(inputs, name)
        if name is None or entering is None:
            return None
        if name not in self.following:
            last = list(self.modules.values())[-1]
            self.following[name] = self._model_of(last, self._entering(name))
        outputs = self.following[name]([*self.flat(inputs), *entering], training=False)
        return tree.pack_sequence_as(self.model.output, tree.flatten(outputs))

    def flat(self, inputs: Any) -> list:
        """Inputs as a flat list of tensors; None for one that is left out."""
        return [
            None if t is None else keras.ops.convert_to_tensor(t)
            for t in tree.flatten(self.in_order(inputs))
        ]

    def in_order(self, inputs: Any) -> Any:
        """Inputs in the structure of the model's, also when given by name."""
        if isinstance(inputs, dict) and not isinstance(self.model.input, dict):
            flat = [inputs[tensor.name] for tensor in self.model.inputs]
            return tree.pack_sequence_as(self.model.input, flat)
        return inputs

    def _computed_before(self, inputs: Any, name: str) -> list | None:
        """What enters a module, where the data brought it; None where it has to be run.

        An extra pass on other inputs runs all modules, and so does an instrumented step,
        which looks at each of them.
        """
        state = self.model._modular
        given = context_of(state).upstream
        if given is None or state.steps.measuring:
            return None
        given_x, flat = (tree.flatten(self.in_order(x)) for x in (given.x, inputs))
        if [id(tensor) for tensor in given_x] != [id(tensor) for tensor in flat]:
            return None
        wanted, entering = self._entering(name), []
        crossing: list = []  # the tensors so far of a boundary that passes several
        for kept in given.crossings.get(name, ()):
            [(boundary, (tensor, *mask))] = kept.items()
            compat.set_mask(tensor, mask[0] if mask else None)
            crossing.append(tensor)
            if len(crossing) < self._passed()[boundary]:
                continue
            # Crossed here as well, so that the step records it.
            several = crossing if len(crossing) > 1 else tensor
            outputs = tree.flatten(self.model.boundaries[boundary](several))
            crossing = []
            if boundary in wanted:
                entering += outputs
        return entering or None

    def _passed(self) -> dict[str, int]:
        """How many tensors each boundary passes at once."""
        return {
            call.operation.module: len(call.outputs)
            for call in compat.graph_calls(self.model._modular.graph)
            if isinstance(call.operation, ModuleBoundary)
        }

    def _entering(self, name: str) -> set[str]:
        """The boundaries that lead into a module."""
        # A boundary crossed more than once may lead into its own module.
        return {b for b in self.modules[name].inputs if b != name}

    def _models(self, name: str) -> tuple:
        if name not in self.made:
            upstream = self._entering(name)
            before = self._model_before(upstream)[0] if upstream else None
            self.made[name] = (before, self._model_of(self.modules[name], upstream))
        return self.made[name]

    def _model_before(self, upstream: set[str]) -> tuple[keras.Model, list[str]]:
        """From the model's inputs to the outputs of some boundaries, and their names.

        There is a name for each output: a boundary that is crossed more than once, or
        passes several tensors, is named as often.
        """
        inputs, leaving, names = self._inputs(), [], []

        def call(layer, *args, **kwargs):
            outputs = layer(*args, **kwargs)
            if isinstance(layer, ModuleBoundary) and layer.module in upstream:
                flat = tree.flatten(outputs)
                leaving.extend(flat)
                names.extend([layer.module] * len(flat))
            return outputs

        compat.run_graph(self.model._modular.graph, inputs, call)
        return _Stage(inputs, leaving, name="upstream"), names

    def _model_of(self, module: Module, upstream: set[str]) -> keras.Model:
        """From the model's inputs and what enters a module to the module's end."""
        inputs = self._inputs()
        entering: list = []
        ends: list = []

        def call(layer, *args, **kwargs):
            if isinstance(layer, ModuleBoundary) and layer.module in upstream:
                flat = tree.flatten(args[0])
                start = len(entering)
                entering.extend(
                    input_like(t, f"entering_{start + i}") for i, t in enumerate(flat)
                )
                return tree.pack_sequence_as(args[0], entering[start:])
            outputs = layer(*args, **kwargs)
            if layer is module.boundary:
                ends.extend(tree.flatten(outputs))
            return outputs

        outputs = compat.run_graph(self.model._modular.graph, inputs, call)
        outputs = ends or tree.flatten(outputs)
        stage = _Stage([*inputs, *entering], outputs, name="stage")
        if module.name in self.remat:
            last = list(self.modules)[-1]
            stage.recomputation = Recomputation(stage, [module.name], last)
        return stage

    def _inputs(self) -> list:
        return [input_like(tensor) for tensor in self.model.inputs]


class UpstreamModel(keras.Model):
    """Computes the `crossings` of a `WithUpstream`, in inference mode.

    Args:
        stages: The `Stages` of the modular model.
        module: String, the module that is trained.
        before: The model from its inputs to the outputs of the boundaries.
        boundaries: List of the names of these boundaries, one for each output.
    """

    def __init__(
        self, stages: Stages, module: str, before: keras.Model, boundaries: list[str]
    ):
        super().__init__(name=layer_name(f"upstream_of_{module}"))
        self.before, self.boundaries = before, tuple(boundaries)
        self.module, self.flat = module, stages.flat

    def call(self, inputs, training=False):
        leaving = tree.flatten(self.before(self.flat(inputs), training=False))
        masks = [compat.mask_of(tensor) for tensor in leaving]
        return [
            [tensor] if mask is None else [tensor, mask]
            for tensor, mask in zip(leaving, masks, strict=True)
        ]

    def with_upstream(self, x: Any, returned: Any) -> WithUpstream:
        """The inputs with what this model returned for them."""
        pairs = zip(self.boundaries, returned, strict=True)
        return WithUpstream(
            x, {self.module: tuple({name: tuple(found)} for name, found in pairs)}
        )


class _Stage(keras.Model):
    """A part of a graph, on inputs of its own.

    It is given a name of its own. Keras's automatic names count up, so they would sort
    differently in the graphs of models made alike, and could so change the order of a sum
    in TensorFlow.
    """

    recomputation: Recomputation | None = None

    def call(self, inputs, training=None, mask=None, **kwargs):
        if training and self.recomputation is not None:
            return self.recomputation.call(inputs, mask, training=training, **kwargs)
        return super().call(inputs, training=training, mask=mask, **kwargs)

    def compute_mask(self, inputs, previous_mask):
        # Its layers have set the masks there are. Keras would warn that they are lost.
        return None

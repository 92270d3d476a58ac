"""The modular model that is a graph of layers."""

import contextlib
from collections.abc import Iterator

import keras

from keras_e2e.models.base import ModularBase
from keras_e2e.models.open_sizes import refuse_unlike_sizes
from keras_e2e.models.placed import PlacedBoundaries, placed_in
from keras_e2e.models.remat import Recomputation, chosen_modules
from keras_e2e.models.rewiring import placed_boundaries, rewire
from keras_e2e.models.structure import stock_graph
from keras_e2e.models.sub_models import Stages, WithUpstream
from keras_e2e.modules.blocks import blocks_after
from keras_e2e.modules.boundary import ModuleBoundary
from keras_e2e.modules.graph import Graph
from keras_e2e.modules.module import ModuleSpec
from keras_e2e.modules.seen_tensors import seen_in_graph
from keras_e2e.modules.step_context import step_context
from keras_e2e.modules.training_mode import TrainingMode
from keras_e2e.objectives.base import OutputSpec
from keras_e2e.objectives.heads.output_activation import ending_of
from keras_e2e.trainers import targets
from keras_e2e.trainers.modular_trainer import ModularTrainer
from keras_e2e.trainers.state import ModularState
from keras_e2e.utils.compat.scoped import NestedCalls, ScopedGraph
from keras_e2e.utils.graphs import strategy_scope


@keras.saving.register_keras_serializable("keras_e2e")
class ModularModel(ModularBase, keras.Model):
    """A Functional model with module boundaries.

    A boundary is a `ModuleBoundary` layer; what lies between two of them is a module. The
    `training_mode` says which gradients cross the boundaries and which local objectives
    count (see `TrainingMode`). Everything that a stock Functional model can do stays:
    compile, fit, evaluate, predict, save, load, export. In `"end_to_end"` mode it trains
    as stock Keras does, to the bit. `modularize` makes a `ModularModel` of a model that
    has no boundaries.

    Args:
        inputs: As in `keras.Model`.
        outputs: As in `keras.Model`; between inputs and outputs the graph holds one or
            more `ModuleBoundary` layers.
        name: As in `keras.Model`.
        training_mode: `TrainingMode` or its name, the mode to start in. Defaults to
            `"end_to_end"`.
        remat: Boolean, or list of names of modules: those whose activations are
            recomputed for their gradients, as in `modularize`. Defaults to `False`.
        shared: Dict from the name of a layer that several modules use to the one that owns
            and trains it, as in `modularize`. Defaults to `None`: what the boundaries have
            noted of the modular model that they were in before, if they were, else the
            last.
        dtype: As for `keras.Layer`: the dtype policy that `compile` goes by. Defaults to
            `None`: the global policy, as in Keras.

    Raises:
        ValueError: If there is no boundary in the graph, if one cannot be placed where it
            is (the error names the layers), if the training mode is unknown or does
            not fit the model, if `remat` names something else than modules or a module
            that cannot be computed twice, or if `shared` names something else than a layer
            that modules share, or a module that does not use it.
        TypeError: If `shared` is not a dict of names.
        NotImplementedError: If the Keras backend is neither TensorFlow nor JAX, or not
            TensorFlow where there is `remat`.

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

    # Without a boundary there is one module, and no mode but end to end.
    _needs_boundary = True

    def __init__(
        self,
        *args,
        training_mode="end_to_end",
        remat=False,
        shared=None,
        dtype=None,
        **kwargs,
    ):
        mode = TrainingMode.get(training_mode)
        self._make_graph(*args, **kwargs)
        if dtype is not None:
            self.dtype_policy = keras.dtype_policies.get(dtype)
        self._modular = ModularState(mode)
        # An attribute, so that Keras tracks it: `layers` leaves it out.
        self._placed = placed_in(self)
        running = self._modular.graph = self
        if self._placed is not None:
            calls, placed = NestedCalls(), placed_boundaries(self)
            self._modular.saved.places = self._placed.listed()
            # On the same inputs, so that keras.Model(model.inputs, boundary.output) is one.
            ends = rewire(self, placed, keep=True, inputs=self.input, calls=calls)
            running = self._modular.graph = ScopedGraph(*ends, self.name, calls)
        graph = Graph(running, shared)
        boundaries = graph.boundaries()
        graph.refuse_bad_boundaries()
        if self._needs_boundary and not boundaries:
            raise ValueError(
                f"ModularModel {self.name!r}: no ModuleBoundary on the way from inputs "
                "to outputs. Put one between the layers, or use "
                "keras_e2e.modularize(model, boundaries)."
            )
        specs = _specs(graph, boundaries, list(running.inputs))
        keys = targets.output_keys(self.output, self.output_names)
        self._stages = Stages(self, [spec.module for spec in specs])
        outputs = [
            OutputSpec(key, tensor, ending_of(tensor))
            for key, tensor in zip(keys, running.outputs, strict=True)
        ]
        self._set_modules(specs, list(running.inputs), outputs)
        refuse_unlike_sizes(self, specs)
        # Keras unpacks a list of one output, but not a dict.
        self._modular.predictions = self.output
        self._modular.single_output = len(keys) == 1 and not isinstance(self.output, dict)
        self._modular.mode = self.check_training_mode(mode)
        self._recompute(remat)
        self._shared, self._chosen_owners = graph.shared, graph.chosen
        if shared is not None:  # else it is what they have noted
            for boundary in boundaries.values():
                boundary.shared = dict(graph.shared)

    def _make_graph(self, *args, **kwargs):
        super().__init__(*args, **kwargs)

    def _stock_model(self):
        """A stock model over the same layers, without boundaries, for `strip`."""
        with strategy_scope(self):
            return stock_graph(self)

    @property
    def layers(self):
        """List of the layers, as those of the model that this one was made of.

        So without the boundaries that `modularize` put in; they are in `boundaries`.
        """
        placed = placed_in(self)
        if placed is None:
            return super().layers
        hidden = (PlacedBoundaries, *(placed.sequential * [keras.layers.InputLayer]))
        return [layer for layer in super().layers if not isinstance(layer, hidden)]

    @property
    def shared(self) -> dict[str, str]:
        """Dict from layers that several modules use to the module that trains each."""
        return {**self._chosen_owners, **self._shared}

    @property
    def remat(self) -> list[str]:
        """List of the names of the modules whose activations are recomputed."""
        return list(self._stages.remat)

    def _recompute(self, remat):
        modules = self._modular.modules
        names = chosen_modules(remat, modules, self.name)
        self._stages.recompute(names)
        self._recomputation = (
            Recomputation(self._modular.graph, names, modules[-1].name) if names else None
        )

    def _plain_call(self, inputs, training, mask, **kwargs):
        outputs = None if training else self._stages.run_on(inputs)
        if outputs is not None:
            return outputs
        if training and self._recomputation is not None:
            stopping = self._modular.flow().stopping
            return self._recomputation.call(
                inputs, mask, stopping, training=training, **kwargs
            )
        graph = self._modular.graph
        run = super(ModularTrainer, self).call if graph is self else graph.call
        return run(inputs, training=training, mask=mask, **kwargs)

    def _in_order(self, x):
        return self._stages.in_order(x)

    def _sequential_call(self, inputs, module, mask, **kwargs):
        return self._stages.run(inputs, module)

    def train_step(self, *args):
        with self._with_upstream(args) as plain:
            return super().train_step(*plain)

    def test_step(self, *args):
        with self._with_upstream(args) as plain:
            return super().test_step(*plain)

    @contextlib.contextmanager
    def _with_upstream(self, args: tuple) -> Iterator[tuple]:
        """The arguments of a step with `x` alone; the context has what else it brought."""
        *state, data = args  # on JAX the state of the trainer stands before the data
        x = data[0] if isinstance(data, list | tuple) else data
        if not isinstance(x, WithUpstream):
            yield args
            return
        with step_context(self._modular, upstream=x):
            yield (*state, (x.x, *data[1:]))

    def get_config(self):
        config = super().get_config()
        config["training_mode"] = self.training_mode.get_config()
        if self.remat:
            config["remat"] = self.remat
        if self._shared:
            config["shared"] = dict(self._shared)
        # Stock Keras does not keep it: loaded under another global policy, a model in
        # float16 would be compiled without its LossScaleOptimizer.
        if self.dtype_policy.quantization_mode is None:
            config["dtype"] = keras.saving.serialize_keras_object(self.dtype_policy)
        return config

    def get_compile_config(self):
        """As in Keras, with the training mode and `remat`, for `keras.models.clone_model`.

        `clone_model` calls the constructor with inputs and outputs alone, and then
        compiles the clone as this model is compiled.
        """
        config = super().get_compile_config()
        own = {"training_mode": self.training_mode.get_config(), "remat": self.remat}
        return config and {**config, **own}

    def compile_from_config(self, config):
        config = dict(config)
        mode, remat = config.pop("training_mode", None), config.pop("remat", self.remat)
        super().compile_from_config(config)
        if mode is not None:
            self.training_mode = TrainingMode.get(mode)
        if remat != self.remat:
            self._recompute(remat)


def _specs(
    graph: Graph, boundaries: dict[str, ModuleBoundary], inputs: list
) -> list[ModuleSpec]:
    """The modules of a graph with the shapes around them."""
    crossed = {name: graph.tensors(boundary) for name, boundary in boundaries.items()}
    for boundary in boundaries.values():
        boundary.seen = seen_in_graph(graph, boundary)
    specs = []
    for module in graph.modules():
        entered = [tensor for name in module.inputs for tensor in crossed[name][1]]
        entered = entered or [inputs[i] for i in module.model_inputs]
        given = entered[0] if len(entered) == 1 else entered
        if module.boundary is None:
            specs.append(ModuleSpec(module, given))
            continue
        first = next(c for c in graph.calls if c.operation is module.boundary)
        activation = module.boundary.seen_of(first.inputs)
        blocks = blocks_after(graph, module.boundary)
        leaving = tuple(first.inputs)
        specs.append(ModuleSpec(module, given, activation, blocks, leaving))
    return specs

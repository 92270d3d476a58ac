"""The layer that marks where a module ends, and the collector it reports to."""

import contextlib
import threading
from collections.abc import Callable, Container, Iterator, Mapping
from numbers import Real
from typing import Any, NamedTuple

import keras
from keras import ops, tree

from keras_e2e import objectives
from keras_e2e.objectives.base import LocalObjective, Output
from keras_e2e.utils import compat


class Crossing(NamedTuple):
    """What one boundary noted in one forward pass.

    Attributes:
        boundary: the `ModuleBoundary` that was crossed.
        activation: the tensor that came in: the module's output.
        output: the tensor that went out: the next module's input. It is the
            activation itself unless the boundary stopped the gradient.
        predicted_gradient: what a `SyntheticGradient` predicted here, else None.
    """

    boundary: "ModuleBoundary"
    activation: Any
    output: Any
    predicted_gradient: Any = None


class Collector:
    """Gathers the crossings of one forward pass.

    Args:
        stops: the boundaries, by module, that stop the gradient.
        known: `id`s of the boundaries that count. A boundary of another modular model
            that shares layers with this one is the identity here.
        tap: makes of each boundary's output a tensor of its own. In an instrumented
            step a tape watches it, so that it can tell what the next module sends
            back, or would have sent.
        freezes: tells by the modules whose boundaries were crossed so far whether
            the layers that follow run in inference mode. Only the layers of a
            subclassed model ask.
        listeners: for the end of each module the boundaries whose objectives listen to
            the signal there (`flow.Flow`).
        outputs: the model's targets, for signals that are predicted from them too.

    Attributes:
        crossings: what the boundaries noted, in order.
        losses: the local losses computed from them, by boundary, without weights.
        terms: what the loss adds up, by module: the local losses with their weights
            and, under the last module's name, the task loss.
        task_loss: the compiled loss, with regularisation, without local losses.
    """

    def __init__(
        self,
        known: Container[int],
        stops: Container[str] = (),
        tap: Callable[[Any], Any] | None = None,
        freezes: Callable[[list[str]], bool] | None = None,
        listeners: Mapping[str, Mapping[str, Any]] | None = None,
        outputs: tuple[Output, ...] = (),
    ):
        self.known = known
        self.stops = stops
        self.tap = tap
        self.freezes = freezes
        self.listeners = listeners or {}
        self.outputs = outputs
        self.crossings: list[Crossing] = []
        self.losses: dict[str, Any] = {}
        self.terms: dict[str, Any] = {}
        self.task_loss: Any = None

    def cross(self, boundary: "ModuleBoundary", activation: Any) -> Any:
        """Notes that `boundary` was crossed and returns what goes on."""
        if id(boundary) not in self.known:
            return activation
        name = boundary.module
        activation = self.inject_feedback(name, [activation])[0]
        output, sent = activation, None
        if name in self.stops:
            output = ops.stop_gradient(activation)
            if name in self.listeners.get(name, ()):
                assert boundary.objective is not None
                sent = boundary.objective.predict_gradient(output, self.outputs)
                output = _echoed(output, -sent * self._factor(name, boundary))
            output = boundary.disturb(output)
        if self.tap is not None:
            output = self.tap(output)
        self.crossings.append(Crossing(boundary, activation, output, sent))
        return output

    def inject_feedback(self, end: str, tensors: list) -> list:
        """Lets the boundaries that listen at a module's end hear the signal there.

        The tensors keep their values. The gradient that comes back to each of them also
        goes, through the fixed map of a listening objective, to that one's activation.
        """
        for crossing in self.crossings:
            name, objective = crossing.boundary.module, crossing.boundary.objective
            if name == end or name not in self.listeners.get(end, ()):
                continue
            assert objective is not None, "an objective listens"
            factor = self._factor(end, crossing.boundary)
            echoes = objective.project_feedback(
                crossing.activation, self.listeners[end][name].place
            )
            tensors = [
                _echoed(tensor, echo * factor)
                for tensor, echo in zip(tensors, echoes, strict=True)
            ]
        return tensors

    def inject_output_feedback(self, end: str, outputs: Any) -> Any:
        """The same at the model's outputs."""
        if not self.listeners.get(end):
            return outputs
        flat = tree.flatten(outputs)
        # A cross-entropy is taken from the values under a softmax, another loss is not.
        raw = [compat.logits_of(tensor) for tensor in flat]
        heard, below = self.inject_feedback(end, flat), self.inject_feedback(end, raw)
        told = []
        for before, tensor, under, logits in zip(flat, heard, raw, below, strict=True):
            if under is not before:
                # In Keras's own precision for losses, whose cast would lose the logits.
                dtype = keras.config.floatx()
                tensor, logits = ops.cast(tensor, dtype), ops.cast(logits, dtype)
                tensor = compat.with_logits(tensor, logits)
            compat.set_mask(tensor, compat.mask_of(before))
            told.append(tensor)
        return tree.pack_sequence_as(outputs, told)

    def _factor(self, end: str, boundary: "ModuleBoundary") -> Any:
        assert boundary.objective is not None
        return self.listeners[end][boundary.module].weight * boundary.objective.weight_now()

    def frozen(self) -> bool:
        """Whether the layer called now belongs to a module that stands still."""
        if self.freezes is None:
            return False
        return self.freezes([c.boundary.module for c in self.crossings])


def _echoed(tensor: Any, echo: Any) -> Any:
    """The tensor, to the bit; its gradient also flows into `echo`."""
    echo = ops.cast(echo, tensor.dtype)
    return tensor + (echo - ops.stop_gradient(echo))


class _Local(threading.local):
    # One collector per thread: MirroredStrategy runs each replica in its own.
    collector: Collector | None = None


_local = _Local()


@contextlib.contextmanager
def collecting(collector: Collector) -> Iterator[Collector]:
    """Sends the crossings of this thread to `collector` while it is open."""
    outer = _local.collector
    _local.collector = collector
    try:
        yield collector
    finally:
        _local.collector = outer


def open_collector() -> Collector | None:
    """The collector of this thread, or None outside a training step."""
    return _local.collector


@keras.saving.register_keras_serializable("keras_e2e")
class ModuleBoundary(keras.layers.Layer):
    """Marks the end of a module.

    In the forward pass it is the identity, to the bit. While a `ModularModel`
    trains, it notes its input for the local objective and, where the training
    mode says so, stops the gradient. Anywhere else (inference, or inside a
    model that is not modular) it does nothing.

    Args:
        objective: the `LocalObjective` that trains the module which ends here, or its
            alias (`"predsim"`). None only marks the place: no head, no weights,
            diagnostics as everywhere, but `"local"` mode, which would leave the module
            without a loss, is refused. Defaults to `"prediction"`
            (`objectives.Prediction()`): predict the model's own target from this
            activation.
        name: the layer's name.
        module: name of the module that ends here: the key of its labels in `y`, and
            its name in errors, summaries and TensorBoard. By default the layer's name;
            `modularize` gives the name of the layer that the boundary follows.
        noise: standard deviation of Gaussian noise added to what the next module sees,
            in training and where the gradient stops: block-wise self-supervised
            training needs it (Siddiqui et al. 2023). Default: none.
        seed: of the noise.

    Call arguments:
        inputs: one tensor of any shape and dtype.

    Raises:
        TypeError: `objective` is none of the above.
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
        if not isinstance(noise, Real) or not 0 <= noise < float("inf"):
            raise ValueError(
                f"ModuleBoundary {self.name!r}: noise={noise!r}; expected a standard "
                "deviation, 0 or larger."
            )
        try:
            self.objective = objectives.get(objective)
        except (TypeError, ValueError) as error:
            raise type(error)(f"ModuleBoundary {self.name!r}: {error}") from None
        self.noise, self.seed = float(noise), seed
        self.generator = keras.random.SeedGenerator(seed) if noise else None
        self.module = module or self.name
        self.supports_masking = True
        self.built = True

    def call(self, inputs):
        collector = open_collector()
        return inputs if collector is None else collector.cross(self, inputs)

    def disturb(self, output: Any) -> Any:
        """What the next module sees of an output: with noise, if there is any."""
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

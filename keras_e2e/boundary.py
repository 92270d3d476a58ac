"""The layer that marks where a module ends, and the collector it reports to."""

import contextlib
import threading
from collections.abc import Callable, Container, Iterator
from typing import Any, NamedTuple

import keras

from keras_e2e.objectives.base import LocalObjective
from keras_e2e.objectives.prediction import Prediction


class Crossing(NamedTuple):
    """What one boundary noted in one forward pass.

    Attributes:
        boundary: the `ModuleBoundary` that was crossed.
        activation: the tensor that came in: the module's output.
        output: the tensor that went out: the next module's input. It is the
            activation itself unless the boundary stopped the gradient.
    """

    boundary: "ModuleBoundary"
    activation: Any
    output: Any


class Collector:
    """Gathers the crossings of one forward pass.

    Args:
        stops: tells by a boundary's module whether it stops the gradient.
        known: `id`s of the boundaries that count. A boundary of another modular model
            that shares layers with this one is the identity here.
        tap: makes of each boundary's output a tensor of its own. In an instrumented
            step a tape watches it, so that it can tell what the next module sends
            back, or would have sent.
        freezes: tells by the modules whose boundaries were crossed so far whether
            the layers that follow run in inference mode. Only the layers of a
            subclassed model ask.

    Attributes:
        crossings: what the boundaries noted, in order.
        losses: the local losses computed from them, by boundary, without weights.
        task_loss: the compiled loss, with regularisation, without local losses.
    """

    def __init__(
        self,
        stops: Callable[[str], bool],
        known: Container[int],
        tap: Callable[[Any], Any] | None = None,
        freezes: Callable[[list[str]], bool] | None = None,
    ):
        self.stops = stops
        self.known = known
        self.tap = tap
        self.freezes = freezes
        self.crossings: list[Crossing] = []
        self.losses: dict[str, Any] = {}
        self.task_loss: Any = None

    def cross(self, boundary: "ModuleBoundary", activation: Any) -> Any:
        """Notes that `boundary` was crossed and returns what goes on."""
        if id(boundary) not in self.known:
            return activation
        output = activation
        if self.stops(boundary.module):
            output = keras.ops.stop_gradient(activation)
        if self.tap is not None:
            output = self.tap(output)
        self.crossings.append(Crossing(boundary, activation, output))
        return output

    def frozen(self) -> bool:
        """Whether the layer called now belongs to a module that stands still."""
        if self.freezes is None:
            return False
        return self.freezes([c.boundary.module for c in self.crossings])


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
        objective: the `LocalObjective` that trains the module which ends here.
            None stands for `objectives.Prediction()`: predict the model's own
            target from this activation. False marks the place only: no head,
            no weights, diagnostics as everywhere, but `"local"` mode, which
            would leave the module without a loss, is refused.
        name: the layer's name.
        module: name of the module that ends here: the key of its labels in `y`, and
            its name in errors, summaries and TensorBoard. By default the layer's name;
            `modularize` gives the name of the layer that the boundary follows.

    Call arguments:
        inputs: one tensor of any shape and dtype.

    Raises:
        TypeError: `objective` is none of the above.

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

    def __init__(
        self,
        objective: LocalObjective | bool | None = None,
        *,
        name: str | None = None,
        module: str | None = None,
        **kwargs: Any,
    ):
        # Autocasting would change the activation under mixed precision.
        kwargs["autocast"] = False
        super().__init__(name=name, **kwargs)
        if objective is None:
            objective = Prediction()
        if objective is not False and not isinstance(objective, LocalObjective):
            raise TypeError(
                f"ModuleBoundary {self.name!r}: objective must be a LocalObjective, "
                "None for the default Prediction(), or False for none at all. "
                f"Found: {objective!r}."
            )
        self.objective = objective or None
        self.module = module or self.name
        self.supports_masking = True
        self.built = True

    def call(self, inputs):
        collector = open_collector()
        return inputs if collector is None else collector.cross(self, inputs)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        config = super().get_config()
        objective = self.objective
        config["module"] = self.module
        config["objective"] = (
            False if objective is None else keras.saving.serialize_keras_object(objective)
        )
        return config

    @classmethod
    def from_config(cls, config):
        if isinstance(config.get("objective"), dict):
            config = dict(config)
            config["objective"] = keras.saving.deserialize_keras_object(config["objective"])
        return cls(**config)

"""The planted faults of `verdicts.py`: each in a random module of a random network."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from _zoo import Data, Setting
from _zoo_settings import SETTINGS

import keras_e2e as e2e
from keras_e2e.experiments import tasks

layers, ops = keras.layers, keras.ops


@dataclasses.dataclass
class Planted:
    """A training with a fault, before it is compiled.

    Attributes:
        base: The stock model.
        setting: The `Setting` that it was made from.
        data: `Data`.
        place: Integer, the number of the module where the fault is, counted from 1; None
            for a fault of the whole training.
        boundaries: What `modularize` is given.
        mode: The training mode.
        optimizer: The optimizer.
    """

    base: keras.Model
    setting: Setting
    data: Data
    place: int | None
    boundaries: Any
    mode: Any
    optimizer: Any

    @property
    def module(self) -> str | None:
        """The name of the module where the fault is."""
        return None if self.place is None else self.setting.cuts[self.place - 1]

    def layers(self, *kinds: str) -> list:
        """The layers of these kinds (`"dense"`, `"norm"`) in the faulty module."""
        names = [f"{kind}{self.place}" for kind in kinds]
        return [layer for layer in self.base.layers if layer.name in names]


class Fault(NamedTuple):
    """A fault.

    Attributes:
        plant: Function that spoils a `Planted`, and may return another.
        states: The verdicts that name it.
        settings: Names of the settings that it is planted in.
        everywhere: Boolean, whether it is a fault of the whole training.
        rebuilt: Boolean, whether it is another network for each seed, not other weights.
    """

    plant: Callable[[Planted, np.random.Generator], Planted | None]
    states: tuple[str, ...]
    settings: tuple[str, ...]
    everywhere: bool = False
    rebuilt: bool = False


def _scale(planted: Planted, factor: float, bias: float = 0.0) -> None:
    for layer in planted.layers("dense", "conv"):
        layer.kernel.assign(layer.kernel * factor)
        layer.bias.assign(layer.bias * 0 + bias)


def zero_weights(planted, rng):
    """All weights of the module are zero, as after a faulty initializer."""
    _scale(planted, 0.0)


def huge_weights(planted, rng):
    """Weights a hundred thousand times too large."""
    _scale(planted, 1e5)


def negative_biases(planted, rng):
    """Biases so low that (nearly) no unit is ever active."""
    _scale(planted, 1.0, bias=-30.0)
    for norm in planted.layers("norm"):
        norm.beta.assign(norm.beta * 0 - 5.0)


def dead_units(planted, rng):
    """Nine of ten units never act."""
    (layer,) = planted.layers("dense")
    dead = rng.random(layer.bias.shape) < 0.9
    dead[:3] = False
    layer.bias.assign(np.where(dead, -30.0, 0.0))


def saturated(planted, rng):
    """Units at the flat end of tanh."""
    planted.base.get_layer(planted.module).activation = keras.activations.tanh
    _scale(planted, 1.0, bias=10.0)


def frozen(planted, rng):
    """The module is not trainable."""
    names = [layer.name for layer in planted.base.layers]
    ends = [0, *[names.index(cut) + 1 for cut in planted.setting.cuts]]
    for layer in planted.base.layers[ends[planted.place - 1] : ends[planted.place]]:
        layer.trainable = False


def rate_zero(planted, rng):
    """The learning rate of the module is 0."""
    still = {planted.module: keras.optimizers.SGD(0.0)}
    planted.optimizer = e2e.ModuleOptimizers(planted.optimizer, still)


@keras.saving.register_keras_serializable("benchmark")
class Stopped(layers.Layer):
    """Lets no gradient through."""

    def call(self, x):
        return ops.stop_gradient(x)


@keras.saving.register_keras_serializable("benchmark")
class Drowned(layers.Layer):
    """Adds noise of variance one to a ten-thousandth of what comes in."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, x):
        return 1e-4 * x + keras.random.normal(ops.shape(x), seed=self.seeds, dtype=x.dtype)


def _insert(planted: Planted, layer: Any) -> Planted:
    """The network with a layer before the activation that ends the module."""
    name = planted.module

    def call(old, *args, **kwargs):
        return old(layer(args[0]), **kwargs) if old.name == name else old(*args, **kwargs)

    planted.base = keras.models.clone_model(
        planted.base, call_function=call, clone_function=lambda old: old
    )
    return planted


def gradient_stopped(planted, rng):
    """A `stop_gradient` was left in the module."""
    return _insert(planted, Stopped(name="stopped"))


def scaled_away(planted, rng):
    """A factor of a millionth was left in the module."""
    return _insert(planted, layers.Rescaling(1e-6, name="scaled"))


def drowned(planted, rng):
    """The module's output drowns in noise."""
    return _insert(planted, Drowned(name="drowned"))


def random_labels(planted, rng):
    """Labels without any relation to the inputs, new ones in each epoch."""
    x = np.concatenate([planted.data.x] * 8)
    y = rng.integers(0, 10, len(x))
    planted.data = planted.data._replace(x=x, y=y)


def nan_inputs(planted, rng):
    """One input in a hundred holds a NaN."""
    x = planted.data.x.copy()
    x[rng.random(len(x)) < 0.01, 0, 0] = np.nan
    planted.data = planted.data._replace(x=x)


def rate_too_high(planted, rng):
    """A learning rate ten thousand times too high."""
    planted.optimizer = keras.optimizers.SGD(1e3)


def rate_too_low(planted, rng):
    """A learning rate ten thousand times too low."""
    planted.optimizer = keras.optimizers.SGD(1e-6)


@keras.saving.register_keras_serializable("benchmark")
class Opposed(e2e.objectives.Prediction):
    """Trains its head to tell the class, and the module to hide it from the head."""

    def compute_loss(self, activation, batch):
        turned = 2.0 * ops.stop_gradient(activation) - activation
        return super().compute_loss(turned, batch)


def opposed(planted, rng):
    """The local objective of the module works against the task."""
    planted.boundaries = {
        cut: Opposed("mlp") if cut == planted.module else "pred"
        for cut in planted.setting.cuts
    }
    planted.mode = e2e.TrainingMode("deep_supervision", weights=0.1)


def parity(planted, rng):
    """Parity of four digits, which end-to-end training does not learn."""
    seed = int(rng.integers(2**31))
    images, classes = tasks.load_digits(seed)[0]
    data = tasks.parity_tuples(images, classes, 4, 20000, seed=seed)
    planted.base = tasks.parity_model(4, images.shape[-1], seed=seed)
    planted.data = Data(
        data.x[:18000], data.parity[:18000], data.x[18000:], data.parity[18000:]
    )
    planted.setting = planted.setting._replace(
        cuts=("symbols",), batch=64, loss="binary_crossentropy"
    )
    planted.boundaries, planted.place = {"symbols": None}, 1
    return planted


PLAIN, NORMAL, CNN = "mlp", "mlp, normalized", "cnn of V1"
DEAD, SHUT = ("dormant", "vanishing"), ("vanishing",)
FAULTS = {
    "zero weights": Fault(zero_weights, DEAD, (PLAIN, "hundred classes", "float16")),
    "scaled away": Fault(scaled_away, SHUT, (PLAIN, "hundred classes"), rebuilt=True),
    "huge weights": Fault(huge_weights, ("exploding",), (PLAIN, "hundred classes")),
    "negative biases": Fault(negative_biases, DEAD, (PLAIN, NORMAL, CNN, "float16")),
    "dead units": Fault(dead_units, ("dormant",), (PLAIN, "imbalanced", "accumulation")),
    "saturated tanh": Fault(saturated, SHUT, (PLAIN, "imbalanced"), rebuilt=True),
    "frozen module": Fault(
        frozen, ("frozen",), (PLAIN, CNN, "residual net", "lstm"), rebuilt=True
    ),
    "rate of zero": Fault(
        rate_zero, ("frozen",), (PLAIN, CNN, "residual net", "lstm"), rebuilt=True
    ),
    "gradient stopped": Fault(gradient_stopped, SHUT, (PLAIN, NORMAL, CNN), rebuilt=True),
    # It lets through a ten-thousandth of the signal, too.
    "drowned in noise": Fault(
        drowned, ("starved", "vanishing"), (PLAIN, CNN), True, rebuilt=True
    ),
    "random labels": Fault(random_labels, ("starved",), (PLAIN, CNN, "transformer"), True),
    "parity of four": Fault(parity, ("starved",), (PLAIN,)),
    "opposed objective": Fault(opposed, ("conflicting",), (PLAIN, "lstm"), rebuilt=True),
    "rate too high": Fault(rate_too_high, ("exploding",), (PLAIN, CNN, "lstm"), True),
    "rate too low": Fault(
        rate_too_low, ("frozen", "starved"), (PLAIN, CNN, "transformer"), True
    ),
    "NaN in the inputs": Fault(nan_inputs, ("exploding",), (PLAIN, NORMAL, CNN), True),
}


def planted(name: str, seed: int) -> Planted:
    """A fault in a random module of one of its networks, by the seed."""
    fault = FAULTS[name]
    rng = np.random.default_rng([seed, sum(map(ord, name))])
    setting = SETTINGS[fault.settings[seed % len(fault.settings)]]
    place = int(rng.integers(1, len(setting.cuts) + 1))
    found = Planted(
        setting.network(),
        setting,
        setting.data(seed),
        place,
        dict.fromkeys(setting.cuts),
        "end_to_end",
        setting.optimizer(),
    )
    found = fault.plant(found, rng) or found
    if fault.everywhere:
        found.place = None
    return found

"""The planted faults and the healthy models of `verdicts.py`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

import keras_e2e as e2e
from keras_e2e.experiments import tasks

layers = keras.layers
# Heads are trained, and their modules hardly feel it.
WATCHED = e2e.TrainingMode("deep_supervision", weights=0.1)


class Case(NamedTuple):
    """A model with a planted fault, or a healthy one.

    Attributes:
        make: makes a compiled modular model and its data from a seed.
        module: where the fault is; None for a healthy model.
        states: the verdicts that name it.
        mode: how it is trained.
    """

    make: Callable[[int], tuple[keras.Model, Any, Any]]
    module: str | None = None
    states: tuple[str, ...] = ()
    mode: Any = "end_to_end"


def digits(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of 8 x 8 in [0, 1], in an order of the seed, and their classes."""
    (x, y), _ = tasks.load_digits(seed)
    order = np.random.default_rng(seed).permutation(len(x))
    return x[order].reshape(-1, 8, 8), y[order]


def finish(base: keras.Model, objectives: Any, loss: Any = None) -> keras.Model:
    """The modular model, compiled."""
    model = e2e.modularize(base, objectives)
    model.compile(keras.optimizers.Adam(1e-3), loss or "sparse_categorical_crossentropy")
    return model


def chain(middle: list, first: Any = None) -> keras.Model:
    """Three modules: `first`, the layers in the middle, and a classifier."""
    parts = [
        keras.Input((8, 8)),
        layers.Flatten(),
        first or layers.Dense(64, activation="relu", name="first"),
        *middle,
        layers.Dense(32, activation="relu"),
        layers.Dense(10, activation="softmax", name="digit"),
    ]
    return keras.Sequential(parts)


def planted(middle: Callable[[], list], **first: Any) -> Callable:
    """Makes a chain with these layers in the middle; the last one is named `middle`."""

    def make(seed):
        keras.utils.set_random_seed(seed)
        return finish(chain(middle(), **first), ["first", "middle"]), *digits(seed)

    return make


def dense(
    count: int, activation: str, initializer: Any, bias: float = 0.0
) -> Callable[[], list]:
    """Dense layers of 64 units."""

    def make():
        names = [None] * (count - 1) + ["middle"]
        start = keras.initializers.Constant(bias)
        return [
            layers.Dense(64, activation, True, initializer(), start, name=name)
            for name in names
        ]

    return make


def normal(scale: float) -> Callable:
    """Kernels that pass on `scale` times the variance that He's initialization would."""
    return lambda: keras.initializers.VarianceScaling(scale, mode="fan_in")


HEALTHY = dense(2, "relu", normal(2.0))


def dead_units(seed):
    """Nine of ten units of the first module never act."""
    model, x, y = planted(HEALTHY)(seed)
    bias = np.full(64, -30.0)
    bias[:6] = 0.0
    model.get_layer("first").bias.assign(bias)
    return model, x, y


def frozen(seed):
    """The middle is not trainable."""
    keras.utils.set_random_seed(seed)
    base = chain(HEALTHY())
    for layer in base.layers[2:4]:
        layer.trainable = False
    return finish(base, ["first", "middle"]), *digits(seed)


def noise(seed):
    """Labels without any relation to the images, new ones in each epoch."""
    model, x, _ = planted(HEALTHY)(seed)
    x = np.concatenate([x] * 20)
    return model, x, np.random.default_rng(seed).integers(0, 10, len(x))


@keras.saving.register_keras_serializable("benchmark")
class Opposed(e2e.objectives.Prediction):
    """Trains its head to tell the class, and the module to hide it from the head."""

    def compute_loss(self, activation, batch):
        turned = 2.0 * keras.ops.stop_gradient(activation) - activation
        return super().compute_loss(turned, batch)


def opposed(seed):
    """The local objective of the first module works against the task."""
    keras.utils.set_random_seed(seed)
    objectives = {"first": Opposed("mlp"), "middle": "pred"}
    return finish(chain(HEALTHY()), objectives), *digits(seed)


def parity(seed):
    """Parity of four digits, which end-to-end training does not learn."""
    images, classes = tasks.load_digits(seed)[0]
    data = tasks.parity_tuples(images, classes, 4, 20000, seed=seed)
    base = tasks.parity_model(4, images.shape[-1], seed=seed)
    return finish(base, ["symbols"], "binary_crossentropy"), data.x, data.parity


def mlp(seed):
    """A plain MLP."""
    return planted(HEALTHY)(seed)


def convnet(seed):
    """A residual convolutional network with BatchNorm."""
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((8, 8))
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(
        layers.Reshape((8, 8, 1))(x)
    )
    for name in ("first", "middle"):
        y = layers.Conv2D(16, 3, padding="same", use_bias=False)(x)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same")(y))
        x = layers.ReLU(name=name)(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    base = keras.Model(inputs, layers.Dense(10, activation="softmax", name="digit")(x))
    return finish(base, ["first", "middle"]), *digits(seed)


def transformer(seed):
    """Two blocks of attention over the rows of the image."""
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((8, 8))
    places = layers.Embedding(8, 32)(keras.ops.arange(8))
    x = layers.Dense(32)(x) + places
    for name in ("first", "middle"):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, 8)(y, y)])
        y = layers.Dense(64, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add(name=name)([x, layers.Dense(32)(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    base = keras.Model(inputs, layers.Dense(10, activation="softmax", name="digit")(x))
    return finish(base, ["first", "middle"]), *digits(seed)


CASES = {
    "layers at zero": Case(
        planted(dense(2, "tanh", keras.initializers.Zeros)),
        "middle",
        ("dormant", "vanishing"),
    ),
    "saturated sigmoids": Case(
        planted(dense(4, "sigmoid", normal(2.0), bias=8.0)), "middle", ("vanishing",)
    ),
    "exploding stack": Case(
        planted(dense(6, "linear", normal(100.0))), "middle", ("exploding",)
    ),
    "dead ReLUs": Case(dead_units, "first", ("dormant",)),
    "frozen module": Case(frozen, "middle", ("frozen",)),
    "labels are noise": Case(noise, "first", ("starved",)),
    "parity of four": Case(parity, "symbols", ("starved",)),
    "opposed objective": Case(opposed, "first", ("conflicting",), WATCHED),
    "healthy MLP": Case(mlp),
    "healthy ConvNet": Case(convnet),
    "healthy transformer": Case(transformer),
}

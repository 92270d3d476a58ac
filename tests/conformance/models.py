"""Small stock Keras models.

Nothing of keras_e2e is imported here: a test loads these models where it is not
installed. Modules are cut after the layers named `first` and `second`.
"""

import keras
import numpy as np
from keras import layers

CLASSES = 3
CUTS = ("first", "second")


def dense(hidden="tanh"):
    """Two hidden layers and a classifier."""
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, activation=hidden, name="first"),
            layers.Dense(5, activation=hidden, name="second"),
            layers.Dense(CLASSES, activation="softmax", name="out"),
        ],
        name="dense",
    )


def conv(hidden="tanh"):
    """Two convolutions and a classifier."""
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(4, 3, padding="same", activation=hidden, name="first"),
            layers.Conv2D(
                4, 3, strides=2, padding="same", activation=hidden, name="second"
            ),
            layers.Flatten(name="flat"),
            layers.Dense(CLASSES, activation="softmax", name="out"),
        ],
        name="conv",
    )


def deep(hidden="tanh"):
    """Two blocks of equal width in each module, for heads that copy them."""
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, activation=hidden, name="a"),
            layers.Dense(5, activation=hidden, name="first"),
            layers.Dense(5, activation=hidden, name="b"),
            layers.Dense(5, activation=hidden, name="second"),
            layers.Dense(5, activation=hidden, name="c"),
            layers.Dense(CLASSES, activation="softmax", name="out"),
        ],
        name="deep",
    )


def regression(hidden="tanh"):
    """Two hidden layers and two numbers."""
    inputs = keras.Input((6,))
    x = layers.Dense(5, activation=hidden, name="first")(inputs)
    x = layers.Dense(5, activation=hidden, name="second")(x)
    return keras.Model(inputs, layers.Dense(2, name="out")(x), name="regression")


def two_outputs(hidden="tanh"):
    """Two hidden layers, a classifier and a number."""
    inputs = keras.Input((6,))
    x = layers.Dense(5, activation=hidden, name="first")(inputs)
    x = layers.Dense(5, activation=hidden, name="second")(x)
    kind = layers.Dense(CLASSES, activation="softmax", name="kind")(x)
    size = layers.Dense(1, name="size")(x)
    return keras.Model(inputs, {"kind": kind, "size": size}, name="two_outputs")


def rich(hidden="relu"):
    """A regularizer, BatchNorm and Dropout in every module."""
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(7, kernel_regularizer="l2", name="a"),
            layers.BatchNormalization(name="a_norm"),
            layers.Activation(hidden, name="a_act"),
            layers.Dropout(0.2, name="first"),
            layers.Dense(5, kernel_regularizer="l2", name="b"),
            layers.BatchNormalization(name="b_norm"),
            layers.Activation(hidden, name="b_act"),
            layers.Dropout(0.2, name="second"),
            layers.BatchNormalization(name="c_norm"),
            layers.Dense(CLASSES, activation="softmax", name="out"),
        ],
        name="rich",
    )


def nested(hidden="tanh"):
    """The cuts lie inside a model nested in the model."""
    inner = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, activation=hidden, name="first"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(5, activation=hidden, name="second"),
        ],
        name="inner",
    )
    inputs = keras.Input((6,))
    x = layers.Dense(CLASSES, activation="softmax", name="out")(inner(inputs))
    return keras.Model(inputs, x, name="nested")


def residual(hidden="tanh"):
    """Several branches start and meet again in every module."""
    x = inputs = keras.Input((6,))
    for name in ("first", "second", "third"):
        # Named: TensorFlow orders sums by names, and automatic ones count up.
        branches = [
            layers.Dense(6, activation=hidden, name=f"{name}_{i}")(x) for i in range(2)
        ]
        x = layers.Add(name=name)([x, *branches])
    x = layers.Dense(CLASSES, activation="softmax", name="out")(x)
    return keras.Model(inputs, x, name="residual")


@keras.saving.register_keras_serializable("conformance")
class Chain(keras.Model):
    """A subclassed model: no graph, only code."""

    def __init__(self, width=5, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.a = layers.Dense(width, kernel_regularizer="l2", name="a")
        self.drop = layers.Dropout(0.2, name="drop")
        self.first = layers.BatchNormalization(name="first")
        self.b = layers.Dense(width, activation="tanh", name="b")
        self.second = layers.BatchNormalization(name="second")
        self.out = layers.Dense(CLASSES, activation="softmax", name="out")

    def call(self, x, training=False):
        x = self.first(self.drop(self.a(x), training=training), training=training)
        x = self.second(self.b(x), training=training)
        return self.out(x)

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def subclassed(hidden=None):
    """A subclassed model, built."""
    model = Chain(name="subclassed")
    model(np.zeros((1, 6), "float32"))
    return model


BUILDERS = {
    f.__name__: f
    for f in (
        dense,
        conv,
        deep,
        regression,
        two_outputs,
        rich,
        nested,
        residual,
        subclassed,
    )
}


def build(name, seed=1, **kwargs):
    """A model with the same weights each time."""
    keras.utils.set_random_seed(seed)
    return BUILDERS[name](**kwargs)


def inputs(name, n, seed=0):
    """Examples for the model of this name."""
    shape = (6, 6, 2) if name == "conv" else (6,)
    return np.random.RandomState(seed).randn(n, *shape).astype("float32")


def targets(name, n, seed=0):
    """Targets for the model of this name: they depend on nothing."""
    random = np.random.RandomState(1000 + seed)
    kinds = random.randint(0, CLASSES, n)
    sizes = random.randn(n, 2).astype("float32")
    if name == "regression":
        return sizes
    if name == "two_outputs":
        return {"kind": kinds, "size": sizes[:, :1]}
    return kinds


def losses(name):
    """`loss` and `loss_weights` for `compile`."""
    if name == "regression":
        return {"loss": "mean_absolute_error"}
    if name == "two_outputs":
        return {
            "loss": {"kind": "sparse_categorical_crossentropy", "size": "mse"},
            "loss_weights": {"kind": 1.0, "size": 0.5},
        }
    return {"loss": "sparse_categorical_crossentropy"}


def flat(outputs):
    """Predictions as a list of arrays."""
    return [np.asarray(t) for t in keras.tree.flatten(outputs)]


def same(left, right):
    """Whether two lists of arrays are equal to the bit."""
    left, right = flat(left), flat(right)
    return len(left) == len(right) and all(
        np.array_equal(a, b, equal_nan=True) for a, b in zip(left, right, strict=True)
    )

"""Makes the golden `.keras` files: one of each kind of model, as this version saves it.

They are made once for a version and kept, so that later versions are held to loading them:

    python -m tests.golden.make VERSION
"""

import pathlib
import sys

import keras
import numpy as np
from keras import layers

import keras_e2e as e2e

HERE = pathlib.Path(__file__).parent
LOSS = "sparse_categorical_crossentropy"


def inputs(shape=(6,), n=4):
    """The inputs that a golden model's predictions are of."""
    return np.random.default_rng(0).normal(size=(n, *shape)).astype("float32")


def dense(*names):
    return [layers.Dense(5, "relu", name=name) for name in names]


def sequential():
    base = keras.Sequential(
        [keras.Input((6,)), *dense("a", "b"), layers.Dense(3, "softmax", name="out")]
    )
    return e2e.modularize(base, ["a", "b"])


def functional():
    """Objectives of many families on a small convolutional network."""
    x = start = keras.Input((6, 6, 2))
    for name in "abcdef":
        x = layers.Conv2D(4, 3, padding="same", activation="relu", name=name)(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    base = keras.Model(start, layers.Dense(3, "softmax", name="out")(x))
    objectives = {
        "a": "predsim",
        "b": e2e.objectives.Prediction(head="mlp", metrics=["accuracy"], weight=0.5),
        "c": e2e.objectives.Reconstruction(),
        "d": "infopro",
        "e": {"supcon": 0.5, "prediction": 1.0},
        "f": None,
    }
    return e2e.modularize(base, objectives, training_mode="end_to_end")


def signals():
    base = keras.Sequential(
        [keras.Input((6,)), *dense("a", "b", "c"), layers.Dense(3, "softmax", name="out")]
    )
    names = ["feedback_alignment", "synthetic_gradient", "direct_feedback_alignment"]
    objectives = dict(zip("abc", names, strict=True))
    return e2e.modularize(base, objectives, training_mode="local")


def labels():
    base = keras.Sequential(
        [keras.Input((6,)), *dense("code"), layers.Dense(3, "softmax", name="out")]
    )
    target = e2e.objectives.IntermediateTarget(head="mlp", units=4)
    mode = e2e.TrainingMode("mixed", stop=["code"], weights={"code": 0.3})
    return e2e.modularize(base, {"code": target}, training_mode=mode)


def nested():
    inner = keras.Sequential([keras.Input((6,)), *dense("a", "b")], name="encoder")
    start = keras.Input((6,))
    base = keras.Model(start, layers.Dense(3, "softmax", name="out")(inner(start)))
    return e2e.modularize(base, ["encoder/a"])


@keras.saving.register_keras_serializable("golden")
class Net(keras.Model):
    """A subclassed model."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.a, self.b = dense("a", "b")
        self.out = layers.Dense(3, "softmax", name="out")

    def call(self, x):
        return self.out(self.b(self.a(x)))


def subclassed():
    model = e2e.modularize(Net(name="net"), {"a": "prediction", "b": "reconstruction"})
    model.examine(inputs(n=2))
    return model


def ensemble():
    members = []
    for seed in range(2):
        first = layers.Dense(5, "relu", name=f"hidden_{seed}")
        last = layers.Dense(3, "softmax", name=f"out_{seed}")
        members.append(keras.Sequential([keras.Input((6,)), first, last], name=f"m{seed}"))
    return e2e.ensemble(members)


def module_optimizers():
    model = sequential()
    optimizer = e2e.ModuleOptimizers(
        keras.optimizers.Adam(0.001), {"a": keras.optimizers.SGD(0.1, momentum=0.9)}
    )
    model.compile(optimizer, LOSS, metrics=["accuracy"])
    return model


def mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return sequential()
    finally:
        keras.config.set_dtype_policy("float32")


MODELS = {
    make.__name__: make
    for make in (
        sequential,
        functional,
        signals,
        labels,
        nested,
        subclassed,
        ensemble,
        module_optimizers,
        mixed_precision,
    )
}


def inputs_of(name):
    return inputs((6, 6, 2) if name == "functional" else (6,))


def main(version):
    folder = HERE / version
    folder.mkdir(exist_ok=True)
    predictions = {}
    for name, make in MODELS.items():
        keras.backend.clear_session()
        keras.utils.set_random_seed(7)
        model = make()
        if not model.compiled:
            model.compile(keras.optimizers.Adam(0.01), LOSS)
        x, y = inputs_of(name), np.arange(4) % 3
        targets = {"out": y, "code": y} if name == "labels" else y
        model.train_on_batch(x, targets)
        model.save(folder / f"{name}.keras")
        predictions[name] = model.predict(x, verbose=0)
    np.savez(folder / "predictions.npz", **predictions)


if __name__ == "__main__":
    main(sys.argv[1])

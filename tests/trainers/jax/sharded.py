"""Training under `keras.distribution` on four virtual devices; run by test_distribution.py.

JAX makes its devices when it starts, so all cases are one process.

    XLA_FLAGS=--xla_force_host_platform_device_count=4 KERAS_BACKEND=jax \
        python -m tests.trainers.jax.sharded [CASES, by default all]
"""

import sys
import tempfile

import keras
import numpy as np
from keras import layers

import keras_e2e as e2e

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 6, 6)).astype("float32")
Y = RNG.integers(0, 4, 32).astype("int32")
ONE = keras.distribution.list_devices()[:1]
# Of each: the training mode, and the objective of both boundaries.
CASES = {
    "end_to_end": ("end_to_end", "prediction"),
    "local": ("local", "prediction"),
    "deep supervision": ("deep_supervision", "prediction"),
    "sequential": ("sequential:second", "prediction"),
    "mixed": (e2e.TrainingMode("mixed", stop=["first"]), "prediction"),
    "sim": ("local", "sim"),
    # At the temperature of the papers rounding grows.
    "supcon": ("local", lambda: e2e.objectives.SupervisedContrastive(temperature=0.5)),
    "vicreg": ("local", "vicreg"),
    "infonce": ("local", lambda: e2e.objectives.InfoNCE(seed=1)),
    "forward-forward": ("local", lambda: e2e.objectives.ForwardForward(seed=1)),
}
FAILED = []


def base():
    """Three modules with BatchNormalization and Dropout."""
    return keras.Sequential(
        [
            keras.Input((6, 6)),
            layers.Dense(8, name="a"),
            layers.BatchNormalization(name="norm"),
            layers.Activation("tanh", name="first"),
            layers.Dropout(0.2, seed=3, name="drop"),
            layers.Dense(8, activation="tanh", name="second"),
            layers.Flatten(name="flat"),
            layers.Dense(4, activation="softmax", name="out"),
        ]
    )


def made(mode, objective="prediction"):
    """A compiled model; a stock one without a mode."""
    keras.utils.set_random_seed(0)
    model = base()
    if mode is not None:
        ends = {
            name: objective() if callable(objective) else objective
            for name in ("first", "second")
        }
        model = e2e.modularize(model, ends, training_mode=mode)
    optimizer = keras.optimizers.SGD(0.02, momentum=0.9)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def fit(model, **options):
    """The weights and the history after two epochs."""
    options = {"epochs": 2, "batch_size": 16, "shuffle": False, "verbose": 0, **options}
    history = model.fit(X, Y, **options).history
    return [np.array(w) for w in model.get_weights()], history


def over(devices):
    """The distribution over so many devices; with weights cut in two over (2, 2)."""
    if devices != (2, 2):
        devices = keras.distribution.list_devices()[:devices]
        return keras.distribution.DataParallel(devices=devices)
    mesh = keras.distribution.DeviceMesh(
        (2, 2), ["batch", "model"], keras.distribution.list_devices()
    )
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*(first|second|out|a).*kernel"] = (None, "model")
    return keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")


def compare(name, one, other, exact=False):
    """Notes where weights or logs differ."""
    off = max(np.abs(a - b).max() for a, b in zip(one[0], other[0], strict=True))
    # NaN where a mode makes no prediction.
    pairs = [np.nan_to_num((one[1][key], other[1][key]), nan=-1.0) for key in one[1]]
    logs = max(np.abs(a - b).max() for a, b in pairs)
    print(f"{name}: weights {off:.1e}, logs {logs:.1e}", flush=True)
    if not (off <= (0 if exact else 2e-5) and logs <= (0 if exact else 1e-4)):
        FAILED.append(name)


def check(name, fine):
    """Notes what is not as it should be."""
    print(f"{name}: {bool(fine)}", flush=True)
    if not fine:
        FAILED.append(name)


class Switch(keras.callbacks.Callback):
    """Changes the mode amid the epochs, where Keras has taken the values away."""

    def on_train_batch_end(self, batch, logs=None):
        modes = ("local", "end_to_end")
        self.model.training_mode = modes[batch % 2]


def on_four(names):
    """Modes and objectives on four devices."""
    for name in names:
        mode, objective = CASES[name]
        one = fit(made(mode, objective))
        with over(4).scope():
            four = fit(made(mode, objective))
            if name == "end_to_end":
                plain, ours = fit(made(None)), fit(made(mode, None))
                compare("stock on four devices", plain, ours, exact=True)
        compare(name, one, four)


def measured(devices):
    """Diagnostics change no bit of what is trained, and are those of one device."""
    watch = e2e.callbacks.ModuleDiagnostics(update_freq=1)
    fit(made("local"), callbacks=[watch])
    one = watch.history
    with over(devices).scope():
        plain, seen = fit(made("local")), fit(made("local"), callbacks=[watch])
    compare(f"{devices}: measured or not", plain, seen, exact=True)
    for quantity, modules in one.items():
        pairs = [(modules[m], watch.history[quantity][m]) for m in modules]
        fine = np.allclose(*zip(*pairs, strict=True), rtol=1e-3, atol=1e-5, equal_nan=True)
        check(f"{devices}: {quantity}", fine)


def around_training(devices):
    """A switch of the mode during `fit`, then evaluation, prediction, save and load."""
    switched = fit(made("end_to_end"), callbacks=[Switch()])
    with over(devices).scope(), tempfile.TemporaryDirectory() as folder:
        model = made("end_to_end")
        compare(f"switched on {devices}", switched, fit(model, callbacks=[Switch()]))
        spread = model.get_layer("a").kernel.value.sharding
        check(f"{devices}: cut up", spread.is_fully_replicated == (devices != (2, 2)))
        model.save(f"{folder}/model.keras")
        loaded = keras.saving.load_model(f"{folder}/model.keras")
        check(f"{devices}: its mode", loaded.training_mode.name == "end_to_end")
        scores = [m.evaluate(X, Y, verbose=0) for m in (model, loaded)]
        check(f"{devices}: evaluated", np.array_equal(*scores))
        predicted = [m.predict(X, verbose=0) for m in (model, loaded)]
        check(f"{devices}: predicted", np.array_equal(*predicted))
        slots = [
            [np.array(v.value) for v in m.optimizer.variables] for m in (model, loaded)
        ]
        check(f"{devices}: resumed", all(map(np.array_equal, *slots)))
        model.save_weights(f"{folder}/model.weights.h5")
        with keras.distribution.DataParallel(devices=ONE).scope():
            alone = made("end_to_end")
            alone.optimizer.build(alone.trainable_variables)
            alone.load_weights(f"{folder}/model.weights.h5")
            off = np.abs(alone.predict(X, verbose=0) - predicted[0]).max()
        check(f"{devices}: on one device", off < 1e-5)


if __name__ == "__main__":
    on_four(sys.argv[1:] or CASES)
    around_training((2, 2))
    measured((2, 2))
    print("compared")
    sys.exit(bool(FAILED))

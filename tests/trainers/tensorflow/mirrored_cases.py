"""Uneven batches, noise and XLA on two devices, beside one; run by mirrored_steps.py."""

import keras
import numpy as np
from keras import layers, ops, optimizers

import keras_e2e as e2e

RNG = np.random.default_rng(1)
# The last batch of 8 has 5 examples: three for one device, two for the other.
X = RNG.normal(size=(21, 6)).astype("float32")
Y = RNG.integers(0, 3, 21).astype("int32")


class Mixed(layers.Layer):
    """Adds noise and another example: with part of a batch it would do something else."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.generator = keras.random.SeedGenerator(4)

    def call(self, x):
        noise = keras.random.normal(ops.shape(x), stddev=0.5, seed=self.generator)
        return x + noise + 0.5 * ops.roll(x, 1, axis=0)


def views():
    """An objective with two further passes, each with chance in it."""
    return {
        e2e.objectives.ViewContrast(
            Mixed(name="mixed"), projection_dim=4, temperature=0.5
        ): 1.0,
        e2e.objectives.Reconstruction(
            corrupt=layers.Dropout(0.5, seed=5, name="masks")
        ): 1.0,
    }


# Of each: the training mode, the objective of both boundaries, and noise at the first.
# Penalties of activations are a replica's own, also where it waits for others amid a pass.
UNEVEN = {
    "comparing, noise": ("local", "sim", 0.3),
    "drawn": ("deep_supervision", lambda: e2e.objectives.ForwardForward(seed=2), 0.0),
    "views": ("local", views),
    "end to end": ("end_to_end",),  # as in Keras; what is measured counts examples
}


def made(mode, objective="prediction", noise=0.0, moving=False, **options):
    """A compiled model of three modules; `moving` ones have a state of their own.

    The dropout leaves all there, for XLA draws other numbers of the same seed.
    """
    keras.utils.set_random_seed(0)

    def end(name, noise=0.0):
        own = objective() if callable(objective) else objective
        return e2e.ModuleBoundary(own, name=name, noise=noise, seed=5)

    x = inputs = keras.Input((6,))
    for layer in (
        layers.Dense(
            *(8, "tanh"), kernel_regularizer="l2", activity_regularizer="l2", name="a"
        ),
        *((layers.BatchNormalization(), layers.Dropout(1e-6, seed=3)) if moving else ()),
        end("first", noise),
        layers.Dense(8, "tanh", activity_regularizer="l2", name="b"),
        end("second"),
        layers.Dense(3, "softmax", name="out"),
    ):
        x = layer(x)
    model = e2e.ModularModel(inputs, x, training_mode=mode)
    loss = "sparse_categorical_crossentropy"
    model.compile(optimizers.SGD(0.05), loss, metrics=["accuracy"], **options)
    return model


def fit(model, size=21, modes=(), callbacks=()):
    """The weights and the history after two epochs, or after one in each of some modes."""
    x, y, found = X[:size], Y[:size], []
    for mode in modes or (model.training_mode,):
        model.training_mode = mode
        epochs = 1 if modes else 2
        found += model.fit(
            *(x, y, 8), epochs=epochs, verbose=0, shuffle=False, callbacks=[*callbacks]
        ).history.values()
    return found + [np.array(w) for w in model.get_weights()]


def measured(model):
    """The losses and the skill of each step of a training, and what `fit` returns."""
    quantities = [e2e.diagnostics.ModuleLoss(), e2e.diagnostics.Skill()]
    watch = e2e.callbacks.ModuleDiagnostics(1, quantities)
    trained = fit(model, callbacks=[watch])
    # End to end, steps after an uneven batch have other weights, as in Keras.
    steps = 3 if model.training_mode.name == "end_to_end" else None
    values = [v[:steps] for of in watch.history.values() for v in of.values()]
    values = [v for v in values if not np.isnan(v).all()]  # of modules without a loss
    return values if steps else values + trained


def differs(one, two, to):
    """Whether two trainings differ by more than this."""
    pairs = zip(keras.tree.flatten(one), keras.tree.flatten(two), strict=True)
    off = [np.abs(np.subtract(a, b)).max(initial=0.0) for a, b in pairs]
    print(f"  off by {max(off):.1e}", flush=True)
    return not max(off) < to


def check_uneven(strategy):
    """The cases in which uneven batches train something else on two devices."""
    failed = []
    for name, case in UNEVEN.items():
        one = measured(made(*case))
        with strategy.scope():
            two = measured(made(*case))
        print(name, flush=True)
        if differs(one, two, 1e-5):
            failed.append(name)
    return failed


def check_compiled(strategy):
    """What XLA trains or scores in another way than the graph."""
    modes = ("end_to_end", "local")
    found = []
    with strategy.scope():
        for jit in (False, True):
            model = made("local", moving=True, jit_compile=jit)
            # XLA compiles for each size of a batch: two full ones.
            trained = fit(model, 16, modes)
            scores = model.evaluate(X[:16], Y[:16], batch_size=8, verbose=0)
            found.append((trained, scores, model.predict(X[:16], 8, verbose=0)))
    print("xla", flush=True)
    failed = ["xla"] if differs(*found, 1e-5) else []
    if [*model.trace_counts.values()] != [2, 2] or not model.jit_compile:
        failed.append(f"xla: {model.trace_counts}")
    return failed + refusals(strategy, model)


def refusals(strategy, model):
    """What is not refused by name under XLA, or anyhow under a strategy."""
    with strategy.scope():
        comparing = made("local", "sim", jit_compile=True)
        several = made("local", steps_per_execution=2)
    watch = e2e.callbacks.ModuleDiagnostics()
    attempts = {
        ("'first'", "jit_compile=False"): lambda: fit(comparing),
        ("diagnostics", "jit_compile=False"): lambda: fit(model, callbacks=[watch]),
        ("=2", "steps_per_execution=1"): lambda: fit(several),
    }
    failed = []
    for (word, fix), attempt in attempts.items():
        try:
            attempt()
            failed.append(f"{word} not refused")
        except ValueError as error:
            if word not in str(error) or fix not in str(error):
                failed.append(str(error))
    if several.optimizer.built:
        failed.append("the optimizer was built before steps were refused")
    return failed

"""What several modules use is trained by the losses of its owner, and by no others."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import keras_e2e as e2e
from keras_e2e import TrainingMode
from keras_e2e.objectives import LocalObjective
from keras_e2e.trainers.one_pass import why_one_apply
from tests.conformance.test_order import accesses, graphs_of, unordered

pytestmark = pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="a backward pass for each loss"
)
WIDTH = 4
NAMES = ("a", "b", "out")


class Distance(LocalObjective):
    """How far an activation is from a number."""

    def __init__(self, to=1.0, **kwargs):
        super().__init__(**kwargs)
        self.to = to

    def loss(self, activation, batch):
        return ops.mean(ops.square(ops.cast(activation, "float32") - self.to), axis=-1)


def objectives():
    return {"a": Distance(1.0), "b": Distance(-1.0)}


def chain(**options):
    """Three modules, each of the layer `twice` and one of its own."""
    keras.utils.set_random_seed(3)
    twice = layers.Dense(WIDTH, activation="tanh", name="twice", **options)
    x = inputs = keras.Input((WIDTH,))
    for name in NAMES:
        x = layers.Dense(WIDTH, activation="tanh", name=name)(twice(x))
    return keras.Model(inputs, x)


def towers(**options):
    """Two parallel modules that share a layer, and one that joins them."""
    keras.utils.set_random_seed(3)
    twice = layers.Dense(WIDTH, activation="tanh", name="twice", **options)
    inputs = [keras.Input((WIDTH,), name=name) for name in ("left", "right")]
    a, b = (
        layers.Dense(WIDTH, activation="tanh", name=name)(twice(x))
        for name, x in zip("ab", inputs, strict=True)
    )
    out = layers.Dense(WIDTH, name="out")(layers.Concatenate(name="joined")([a, b]))
    return keras.Model(inputs, out)


class Transposed(layers.Layer):
    """Weight tying: uses the kernel of another layer."""

    def __init__(self, kernel, **kwargs):
        super().__init__(**kwargs)
        self.kernel = kernel

    def build(self, shape):
        self.bias = self.add_weight(shape=(self.kernel.shape[0],), name="bias")

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.kernel)) + self.bias


def tied():
    """The first module's kernel, used by the last one too."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((WIDTH,))
    twice = layers.Dense(WIDTH, use_bias=False, name="twice")
    x = layers.Dense(WIDTH, activation="tanh", name="a")(twice(inputs))
    x = layers.Dense(WIDTH, activation="tanh", name="b")(x)
    return keras.Model(inputs, Transposed(twice.kernel, name="out")(x))


def run(base, x, stopping):
    """What leaves each module, by name, where these boundaries stop the gradient."""
    named = {layer.name: layer for layer in base.layers}
    twice, found = named["twice"], {}

    def end(name, h):
        found[name] = h
        return tf.stop_gradient(h) if name in stopping else h

    if "joined" in named:
        a, b = (end(n, named[n](twice(t))) for n, t in zip("ab", x, strict=True))
        found["out"] = named["out"](tf.concat([a, b], -1))
    elif isinstance(named["out"], Transposed):
        x = end("b", named["b"](end("a", named["a"](twice(x)))))
        found["out"] = named["out"](x)
    else:
        for name in NAMES:
            x = end(name, named[name](twice(x)))
    return found


def plain_losses(base, x, y, stopping):
    found = run(base, x, stopping)
    return {
        "a": tf.reduce_mean(tf.square(found["a"] - 1.0)),
        "b": tf.reduce_mean(tf.square(found["b"] + 1.0)),
        "out": tf.reduce_mean(tf.square(found["out"] - y)),
    }


def data(kind):
    random = np.random.RandomState(0)
    x = [random.randn(8, WIDTH).astype("float32") for _ in range(2)]
    y = random.randn(8, WIDTH).astype("float32")
    return (x if kind is towers else x[0]), y


def modular(base, mode, owner, optimizer=None, **kwargs):
    shared = owner and {"twice": owner}
    model = e2e.modularize(base, objectives(), training_mode=mode, shared=shared)
    model.compile(optimizer or keras.optimizers.SGD(1.0), "mse", **kwargs)
    return model


def step_of(kind, mode, owner, **kwargs):
    """The gradients that a step takes of the shared layer, and of the layer `a`."""
    base = kind()
    model = modular(base, mode, owner, **kwargs)
    watched = [base.get_layer("twice").kernel, base.get_layer("a").kernel]
    before = [v.numpy() for v in watched]
    model.train_on_batch(*data(kind))
    return [old - v.numpy() for old, v in zip(before, watched, strict=True)]


def plain(kind, losses, stopping):
    """The gradient of the sum of some losses, by the shared layer's kernel."""
    base = kind()
    x, y = data(kind)
    with tf.GradientTape() as tape:
        found = plain_losses(base, x, y, stopping)
        loss = sum(found[name] for name in losses)
    return tape.gradient(loss, base.get_layer("twice").kernel.value).numpy()


MIXED = TrainingMode("mixed", stop=["a"], weights={"a": 1.0, "b": 1.0})
CASES = [
    # kind, mode, owner; whose losses train what is shared, and where the gradient stops
    (chain, "local", "first", "a", "ab"),
    (chain, "local", "b", "b", "ab"),
    (chain, "local", "last", ["out"], "ab"),
    (chain, "sequential:a", "first", "a", "ab"),
    (chain, "sequential:b", "b", "b", "ab"),
    (chain, "sequential:out", "out", ["out"], "ab"),
    (chain, MIXED, "a", "a", "a"),
    (chain, MIXED, "b", ["b", "out"], "a"),
    (chain, MIXED, "out", ["out"], "a"),
    (chain, TrainingMode("local", reach=2), "a", ["a", "b"], ""),
    (chain, TrainingMode("local", reach=3), "b", [*NAMES], ""),
    (chain, "end_to_end", "b", ["out"], ""),
    (chain, "deep_supervision", "b", [*NAMES], ""),
    (towers, "local", "a", "a", "ab"),
    (towers, "local", "last", "b", "ab"),
    (towers, MIXED, None, ["b", "out"], "a"),
    (towers, MIXED, "a", "a", "a"),
    (towers, MIXED, "b", ["b", "out"], "a"),
    (towers, "deep_supervision", "b", [*NAMES], ""),
    (tied, "local", "first", "a", "ab"),
    (tied, "local", "last", ["out"], "ab"),
    (tied, "local", None, ["out"], "ab"),
    (tied, "sequential:out", "last", ["out"], "ab"),
    (tied, TrainingMode("local", reach=2), "first", ["a", "b"], ""),
]


def named(value):
    return value.__name__ if callable(value) else str(value)


# XLA compiles for seconds: every fifth case.
COMPILED = [(*case, False) for case in CASES] + [(*case, True) for case in CASES[::5]]


@pytest.mark.parametrize(
    ("kind", "mode", "owner", "losses", "stopping", "jit"), COMPILED, ids=named
)
def test_it_is_trained_by_the_losses_that_train_its_owner(
    kind, mode, owner, losses, stopping, jit
):
    found, _ = step_of(kind, mode, owner, jit_compile=jit)
    expected = plain(kind, losses, stopping)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("mode", "owner"),
    [("sequential:a", "last"), ("sequential:b", "a"), ("sequential:out", "first")],
)
def test_it_stands_still_where_its_owner_is_frozen(mode, owner):
    found, _ = step_of(chain, mode, owner, optimizer=keras.optimizers.AdamW(0.1))
    assert not np.any(found)


@pytest.mark.parametrize("kind", [chain, towers, tied])
@pytest.mark.parametrize("owner", ["first", "last"])
@pytest.mark.parametrize(
    ("precision", "optimizer"),
    [("float32", lambda: keras.optimizers.SGD(1.0)), ("mixed_float16", lambda: "adam")],
    ids=["float32-sgd", "mixed_float16-adam"],
)
def test_no_other_loss_changes_a_bit_of_it(kind, owner, precision, optimizer):
    results = []
    for factor in (1.0, 0.3):
        keras.config.set_dtype_policy(precision)
        try:
            base = kind()
            model = modular(base, "local", owner, e2e.ModuleOptimizers(optimizer()))
        finally:
            keras.config.set_dtype_policy("float32")
        trains = model.shared["twice"]
        others = {n: factor for n in "ab" if n != trains}
        model.training_mode = TrainingMode(
            "local", weights={**dict.fromkeys("ab", 1.0), **others}
        )
        x, y = data(kind)
        # The task loss has no weight: its targets change instead.
        model.train_on_batch(x, y if trains == "out" else factor * y)
        results.append([v.numpy() for v in base.get_layer("twice").weights])
    for first, second in zip(*results, strict=True):
        np.testing.assert_array_equal(first, second)
    start = kind().get_layer("twice").kernel.numpy()
    assert not np.array_equal(results[0][0], start)


@pytest.mark.parametrize("kind", [chain, towers, tied])
@pytest.mark.parametrize(("optimizer", "jit"), [("adam", False), ("sgd", True)])
def test_end_to_end_all_is_as_in_stock_keras(kind, jit, optimizer):
    stock, base = kind(), kind()
    model = e2e.modularize(base, objectives())
    x, y = data(kind)
    logs = []
    for each in (stock, model):
        keras.utils.set_random_seed(1)
        each.compile(optimizer, "mse", jit_compile=jit)
        logs.append(each.fit(x, y, epochs=3, batch_size=4, verbose=0).history["loss"])
    assert logs[0] == logs[1]
    for first, second in zip(stock.get_weights(), base.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("kind", [chain, tied])
@pytest.mark.parametrize("objective", ["forward_forward", "view_contrast", "predsim"])
def test_objectives_with_passes_of_their_own_leave_it_to_its_owner(kind, objective):
    """Where all activations are kept, too, each loss trains what its module owns."""
    base = kind()
    given = {"a": objective, "b": Distance(-1.0)}
    model = e2e.modularize(base, given, training_mode="local", shared={"twice": "last"})
    output = "sparse_categorical_crossentropy" if objective != "view_contrast" else "mse"
    model.compile(keras.optimizers.SGD(1.0), output)
    kernel = base.get_layer("twice").kernel
    before = kernel.numpy()
    x, y = data(kind)
    y = y if output == "mse" else np.arange(8) % WIDTH
    twin = kind()
    with tf.GradientTape() as tape:
        found = run(twin, x, "ab")["out"]
        loss = tf.reduce_mean(keras.losses.get(output)(y, found))
    expected = tape.gradient(loss, twin.get_layer("twice").kernel.value).numpy()
    model.train_on_batch(x, y)
    np.testing.assert_allclose(before - kernel.numpy(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [chain, towers, tied])
@pytest.mark.parametrize("owner", ["last"])
@pytest.mark.parametrize("how", ["eager", "remat", "for each module"])
def test_however_a_step_is_made_it_is_the_same(kind, owner, how):
    results = []
    for other in (False, True):
        base = kind()
        optimizer = keras.optimizers.Adam(0.01)
        model = e2e.modularize(
            base,
            objectives(),
            training_mode="local",
            shared={"twice": owner},
            remat=other and how == "remat",
        )
        each = other and how == "for each module"
        model.compile(
            e2e.ModuleOptimizers(optimizer) if each else optimizer,
            "mse",
            run_eagerly=other and how == "eager",
        )
        x, y = data(kind)
        for _ in range(3):
            model.train_on_batch(x, y)
        results.append(base.get_weights())
    for first, second in zip(*results, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-6)


def test_gradients_are_applied_when_all_modules_have_read_it():
    model = modular(chain(), "local", "first", e2e.ModuleOptimizers("adam"))
    assert "share variables" in why_one_apply(model)


def test_a_penalty_of_its_weights_is_its_owners():
    """The others' losses have it not in them."""
    penalty = keras.regularizers.L2(0.5)
    for owner in ("a", "b", "out"):
        plain_step = step_of(chain, "local", owner)
        step = step_of(lambda: chain(kernel_regularizer=penalty), "local", owner)
        kernel = chain().get_layer("twice").kernel.numpy()
        np.testing.assert_allclose(step[0], plain_step[0] + kernel, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(step[1], plain_step[1])


@pytest.mark.parametrize("owner", ["first", "last"])
@pytest.mark.parametrize("mode", ["local", "sequential:out"])
def test_a_penalty_that_another_module_makes_of_it_is_refused(owner, mode):
    if (mode, owner) == ("sequential:out", "first"):
        pytest.skip("nothing trains it")
    base = chain(activity_regularizer=keras.regularizers.L2(0.5))
    model = modular(base, mode, owner)
    before = base.get_weights()
    with pytest.raises(ValueError, match=r"'twice' adds a penalty.*'end_to_end'"):
        model.train_on_batch(*data(chain))
    for old, new in zip(before, base.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    model.training_mode = "end_to_end"
    model.train_on_batch(*data(chain))


def test_a_penalty_of_a_module_that_does_not_own_what_it_uses_is_refused_with_a_fix():
    base = tied()
    base.get_layer("a").activity_regularizer = keras.regularizers.L2(0.5)
    for shared in (None, {"out": "a"}):
        model = e2e.modularize(base, objectives(), training_mode="local", shared=shared)
        model.compile("sgd", "mse", run_eagerly=True)
        before = base.get_weights()
        if shared is None:
            said = r"'a' adds a penalty.* give them to it, shared=\{'out': 'a'\}, or"
            with pytest.raises(ValueError, match=said):
                model.train_on_batch(*data(tied))
            for old, new in zip(before, base.get_weights(), strict=True):
                np.testing.assert_array_equal(old, new)
        else:
            model.train_on_batch(*data(tied))


@pytest.mark.parametrize("kind", [chain, towers, tied])
@pytest.mark.parametrize("owner", ["first", "last"])
@pytest.mark.parametrize(
    ("mode", "one"), [("local", True), ("local", False), (MIXED, True)], ids=str
)
def test_every_read_of_it_is_before_or_after_its_update(kind, owner, mode, one, tmp_path):
    optimizer = keras.optimizers.SGD(0.1)
    model = modular(
        kind(), mode, owner, optimizer if one else e2e.ModuleOptimizers(optimizer)
    )
    x, y = data(kind)
    graphs = graphs_of(lambda: model.train_on_batch(x, y), tmp_path)
    assert any(reads and writes for g in graphs for reads, writes in accesses(g).values())
    assert [pair for graph in graphs for pair in unordered(graph)] == []


@pytest.mark.parametrize("kind", [chain, towers, tied])
@pytest.mark.parametrize(
    ("mode", "owner"),
    [("local", "first"), ("end_to_end", "last"), (MIXED, "last")],
    ids=str,
)
def test_diagnostics_change_nothing(kind, mode, owner):
    x, y = data(kind)
    results = []
    for measured in (False, True):
        keras.utils.set_random_seed(1)
        base = kind()
        model = modular(base, mode, owner, e2e.ModuleOptimizers("adam"))
        found = e2e.callbacks.ModuleDiagnostics(update_freq=1)
        callbacks = [found] if measured else []
        model.fit(x, y, epochs=2, batch_size=4, verbose=0, callbacks=callbacks)
        results.append(base.get_weights())
    for first, second in zip(*results, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("owner", ["a", "b"])
def test_gradients_that_are_measured_are_those_of_the_owner(owner):
    """GradRMS is that of all gradients of a module, told by a step of rate 1."""
    base = chain()
    model = modular(base, "local", owner)
    model.instrument([e2e.diagnostics.GradRMS()])
    model.request_diagnostics()
    before = {m.name: [v.numpy() for v in m.trainable_variables] for m in model.modules}
    model.train_on_batch(*data(chain))
    measured = model.read_diagnostics()["grad_rms"]
    for module in model.modules:
        now = [v.numpy() for v in module.trainable_variables]
        taken = np.concatenate(
            [(a - b).ravel() for a, b in zip(before[module.name], now, strict=True)]
        )
        assert len(taken) == (40 if module.name == owner else 20)
        expected = np.sqrt(np.mean(taken**2))
        np.testing.assert_allclose(measured[module.name], expected, rtol=1e-3)


class Subclassed(keras.Model):
    """The network of `chain` in code."""

    def __init__(self):
        super().__init__()
        self.named = {layer.name: layer for layer in chain().layers if layer.weights}
        self.all = list(self.named.values())

    def call(self, x):
        for name in NAMES:
            x = self.named[name](self.named["twice"](x))
        return x


@pytest.mark.parametrize(("mode", "owner"), [c[1:3] for c in CASES if c[0] is chain][::3])
def test_in_a_subclassed_model_it_is_trained_as_in_a_graph(mode, owner):
    graph, subclassed = chain(), Subclassed()
    x, y = data(chain)
    subclassed(x)
    # There the last module goes by another name.
    owner = "last" if owner == "out" else owner
    modes = {graph: mode, subclassed: mode}
    if mode == "sequential:out":
        modes[subclassed] = "sequential:outputs"
    results = []
    for base, chosen in modes.items():
        keras.utils.set_random_seed(1)
        model = modular(base, chosen, owner, keras.optimizers.SGD(0.1))
        for _ in range(2):
            model.train_on_batch(x, y)
        kernels = {v.path.split("/")[-2]: v for v in base.weights if v.name == "kernel"}
        results.append([kernels[n].numpy() for n in ("twice", *NAMES)])
    for first, second in zip(*results, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)


def test_a_subclass_with_a_loss_of_its_own_is_refused():
    class Own(e2e.ModularModel):
        def compute_loss(self, *args, **kwargs):
            return 2.0 * super().compute_loss(*args, **kwargs)

    made = modular(chain(), "local", "first")
    model = Own(made.inputs, made.outputs, training_mode="local")
    model.compile("sgd", "mse")
    with pytest.raises(NotImplementedError, match=r"Own computes a loss of its own.*twice"):
        model.train_on_batch(*data(chain))

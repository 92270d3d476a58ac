"""What every objective takes: a weight, a reach; and the noise of a boundary."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_e2e as e2e
from keras_e2e import TrainingMode
from keras_e2e.objectives import LocalObjective, Prediction, Reconstruction

RNG = np.random.default_rng(0)
B, C = 6, 3
LABELS = np.array([0, 2, 0, 1, 1, 0])
NAMES = ("a", "b", "c")
MODULES = (*NAMES, "out")


def some(*shape):
    return RNG.normal(size=shape).astype("float32")


X = some(B, 6)


def stock(regularizer=None):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((6,))])
    for name in NAMES:
        model.add(
            layers.Dense(5, activation="tanh", kernel_regularizer=regularizer, name=name)
        )
    model.add(
        layers.Dense(C, activation="softmax", kernel_regularizer=regularizer, name="out")
    )
    return model


def modular(mode="local", objectives=None, regularizer=None, **compiled):
    """Heads of three modules; they do not start from zero."""
    objectives = objectives or {name: Prediction("mlp") for name in NAMES}
    model = e2e.modularize(stock(regularizer), objectives)
    # Also modes that the model refuses, as nothing would train some modules.
    model._modular.mode = TrainingMode.get(mode)
    random = np.random.RandomState(0)
    for name in NAMES:
        for v in model.boundaries[name].objective.trainable_variables:
            v.assign(random.randn(*v.shape))
    optimizer = compiled.pop("optimizer", None) or keras.optimizers.SGD(1.0)
    model.compile(optimizer, "sparse_categorical_crossentropy", **compiled)
    return model


def kernels(model):
    return {name: model.get_layer(name).kernel.numpy() for name in MODULES}


def step(model):
    """What a step of SGD(1.0) takes from the kernels, and the loss."""
    before = kernels(model)
    loss = float(model.train_on_batch(X, LABELS))
    after = kernels(model)
    return {name: before[name] - after[name] for name in MODULES}, loss


def single(model):
    """The gradient of each loss with respect to each kernel, nothing stopped."""
    found, h = {}, tf.constant(X)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with tf.GradientTape(persistent=True) as tape:
        losses = {}
        for name in NAMES:
            h = model.get_layer(name)(h)
            (head,) = model.boundaries[name].objective.networks
            losses[name] = cross_entropy(LABELS, head(h))
        out = model.get_layer("out")
        losses["out"] = cross_entropy(LABELS, h @ out.kernel.value + out.bias.value)
    for name, loss in losses.items():
        for module in MODULES:
            gradient = tape.gradient(loss, model.get_layer(module).kernel.value)
            found[name, module] = 0.0 if gradient is None else gradient.numpy()
    return found


def assert_windows(model, windows, weights=(1, 1, 1, 1), l2=0.0):
    """Each loss trains the modules of its window, and no more."""
    each, before = single(model), kernels(model)
    found, _ = step(model)
    for module in MODULES:
        expected = 2 * l2 * before[module]
        for weight, (owner, window) in zip(weights, windows.items(), strict=True):
            if module in window:
                expected = expected + weight * each[owner, module]
        np.testing.assert_allclose(found[module], expected, rtol=1e-4, atol=2e-6)


ONE = {"a": "a", "b": "b", "c": "c", "out": ["out"]}
TWO = {"a": "a", "b": "ab", "c": "bc", "out": ["c", "out"]}
THREE = {"a": "a", "b": "ab", "c": "abc", "out": ["b", "c", "out"]}
ALL = {"a": "a", "b": "ab", "c": "abc", "out": [*"abc", "out"]}


# Weight


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables:UserWarning")
def test_a_weight_scales_loss_and_gradient():
    weights = {"a": 0.5, "b": 1.0, "c": 3.0}
    objectives = {n: Prediction("mlp", weight=w) for n, w in weights.items()}
    model = modular(objectives=objectives)
    assert_windows(model, ONE, (0.5, 1, 3, 1))
    losses = {}
    for name in (None, *NAMES):
        only = {n: float(n == name) for n in NAMES}
        mode = TrainingMode("local", weights=only)
        losses[name] = step(modular(mode, objectives=copies(objectives)))[1]
    total = step(modular(objectives=copies(objectives)))[1]
    extra = [losses[n] - losses[None] for n in NAMES]
    np.testing.assert_allclose(total, losses[None] + sum(extra), rtol=1e-5)
    plain = step(modular(TrainingMode("local", weights={"a": 0.0, "b": 0.0})))[1]
    np.testing.assert_allclose(extra[2], 3 * (plain - losses[None]), rtol=1e-4)


def copies(objectives):
    return {n: type(o).from_config(o.get_config()) for n, o in objectives.items()}


@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables:UserWarning")
def test_it_multiplies_the_weight_of_the_mode():
    objectives = {n: Prediction("mlp", weight=0.5) for n in NAMES}
    mode = TrainingMode("local", weights={"a": 4.0, "b": 0.0})
    assert_windows(modular(mode, objectives), ONE, (2, 0, 0.5, 1))


def test_a_weight_of_zero_trains_nothing():
    objectives = {n: Prediction("mlp", weight=0.0) for n in NAMES}
    found, _ = step(modular(objectives=objectives))
    assert not any(found[name].any() for name in NAMES)
    assert found["out"].any()


def schedule():
    return keras.optimizers.schedules.PiecewiseConstantDecay([1, 3], [1.0, 0.5, 0.0])


@pytest.mark.parametrize("compiled", [{"run_eagerly": True}, {}, {"jit_compile": True}])
def test_a_schedule_counts_the_steps(compiled, tmp_path):
    """The gradient of a loss that is linear in the activation is the weight itself."""

    @keras.saving.register_keras_serializable("test_weights", "Linear")
    class Linear(LocalObjective):
        def loss(self, activation, batch):
            return keras.ops.sum(activation, axis=1)

    base = keras.Sequential(
        [keras.Input((1,)), layers.Dense(1, name="a"), layers.Dense(1, name="out")]
    )
    model = e2e.modularize(base, {"a": Linear(weight=schedule())}, training_mode="local")
    model.compile(keras.optimizers.SGD(1.0), "mse", **compiled)
    x, moved = np.ones((2, 1)), []

    def one(model):
        before = model.get_layer("a").bias.numpy()[0]
        model.train_on_batch(x, x)
        moved.append(before - model.get_layer("a").bias.numpy()[0])

    one(model)
    model.training_mode = "end_to_end"  # a step in which it does not count
    model.train_on_batch(x, x)
    model.evaluate(x, x, verbose=0)
    model.training_mode = "local"
    one(model)
    one(model)
    model.save(tmp_path / "m.keras")
    for given in (keras.models.load_model(tmp_path / "m.keras"), model):
        one(given)
        one(given)
    np.testing.assert_allclose(moved, [1, 1, 0.5, 0.5, 0, 0.5, 0], atol=1e-5)


@pytest.mark.parametrize(
    "weight",
    [-1, float("nan"), float("inf"), "0.5", None, [1.0], lambda step: 1.0],
)
def test_a_weight_that_is_none_is_refused(weight):
    with pytest.raises(ValueError, match=r"Prediction: weight=.*LearningRateSchedule"):
        Prediction(weight=weight)


# Reach


@pytest.mark.parametrize(
    ("reach", "own", "windows"),
    [
        (2, {}, TWO),
        (3, {}, THREE),
        (4, {}, ALL),
        ("all", {}, ALL),
        (1, {}, ONE),
        (None, {"b": 2}, {**ONE, "b": "ab"}),
        (None, {"c": 2}, {**ONE, "c": "bc"}),
        (None, {"c": "all"}, {**ONE, "c": "abc"}),
        (None, {"b": 2, "c": 3}, {**ONE, "b": "ab", "c": "abc"}),
        (2, {"b": 1}, {**TWO, "b": "b"}),
        (2, {"c": "all"}, {**TWO, "c": "abc"}),
    ],
    ids=str,
)
def test_each_loss_reaches_its_window_and_no_farther(reach, own, windows):
    objectives = {name: Prediction("mlp", reach=own.get(name)) for name in NAMES}
    mode = TrainingMode("local", reach=reach)
    assert_windows(modular(mode, objectives), windows)


def test_the_weights_count_within_the_windows():
    mode = TrainingMode("local", reach=2, weights={"a": 0.0, "b": 0.5, "c": 2.0})
    assert_windows(modular(mode), TWO, (0, 0.5, 2, 1))


def trained(mode, **kwargs):
    model = modular(mode, **kwargs)
    model.fit(X, LABELS, batch_size=3, epochs=2, shuffle=False, verbose=0)
    return [np.asarray(v) for v in model.weights]


@pytest.mark.slow
@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
    ("reach", "other"), [(1, "local"), ("all", "deep_supervision"), (4, "deep_supervision")]
)
def test_the_ends_of_the_range_are_modes_of_their_own(reach, other, jit):
    kwargs = {"regularizer": "l2", "jit_compile": jit}
    ours = trained(TrainingMode("local", reach=reach), **kwargs)
    theirs = trained(other, **kwargs)
    for a, b in zip(ours, theirs, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("reach", [1, 2, 3, "all"])
def test_penalties_reach_the_weights_that_they_belong_to(reach):
    model = modular(
        TrainingMode("local", reach=reach), regularizer=keras.regularizers.L2(0.1)
    )
    windows = {1: ONE, 2: TWO, 3: THREE, "all": ALL}[reach]
    assert_windows(model, windows, l2=0.1)


def test_penalties_of_heads_are_kept_too():
    def objectives():
        return {
            n: Prediction(
                layers.Dense(C, kernel_regularizer=keras.regularizers.L2(0.5), name=n)
            )
            for n in NAMES
        }

    kept = {}
    for mode in ("local", TrainingMode("local", reach=2)):
        model = modular(mode, objectives())
        heads = {n: model.boundaries[n].objective.networks[0] for n in NAMES}
        before = {n: head.kernel.numpy() for n, head in heads.items()}
        model.train_on_batch(X, LABELS)
        kept[str(mode)] = [before[n] - head.kernel.numpy() for n, head in heads.items()]
    # A head is trained by its own loss and penalty, whatever the reach.
    for a, b in zip(*kept.values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@keras.saving.register_keras_serializable("test_weights")
class Chain(keras.Model):
    """A subclassed model."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        for name in MODULES:
            last = name == "out"
            layer = layers.Dense(
                C if last else 5,
                activation="softmax" if last else "tanh",
                kernel_regularizer=keras.regularizers.L2(0.1),
                name=name,
            )
            setattr(self, name, layer)

    def call(self, x):
        for name in MODULES:
            x = getattr(self, name)(x)
        return x


def test_a_subclassed_model_reaches_as_far():
    """As the same layers in a graph, penalties included."""
    mode = TrainingMode("local", reach=2)
    graph = modular(mode, regularizer=keras.regularizers.L2(0.1))
    chain = Chain()
    chain(X)
    objectives = {name: Prediction("mlp") for name in NAMES}
    wrapped = e2e.modularize(chain, objectives, training_mode=mode)
    wrapped.examine(X)
    wrapped.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
    for name in NAMES:
        ours, theirs = (m.boundaries[name].objective for m in (wrapped, graph))
        for a, b in zip(ours.trainable_variables, theirs.trainable_variables, strict=True):
            a.assign(b)
    before = kernels(graph)
    for name in MODULES:
        getattr(chain, name).set_weights(graph.get_layer(name).get_weights())
    found, _ = step(graph)
    wrapped.train_on_batch(X, LABELS)
    for name in MODULES:
        moved = before[name] - getattr(chain, name).kernel.numpy()
        np.testing.assert_allclose(moved, found[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("jit", [False, True])
def test_mixed_precision_reaches_as_far(jit):
    keras.config.set_dtype_policy("mixed_float16")
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(1.0), initial_scale=64.0
    )
    mode = TrainingMode("local", reach=2)
    model = modular(mode, optimizer=optimizer, jit_compile=jit)
    each = single(full_precision(model))
    before = kernels(model)
    model.train_on_batch(X, LABELS)
    for module in MODULES:
        expected = sum(each[o, module] for o, window in TWO.items() if module in window)
        moved = before[module] - model.get_layer(module).kernel.numpy()
        np.testing.assert_allclose(moved, expected, rtol=0.05, atol=0.01)


def full_precision(model):
    keras.config.set_dtype_policy("float32")
    copy = modular()
    keras.config.set_dtype_policy("mixed_float16")
    for a, b in zip(copy.trainable_variables, model.trainable_variables, strict=True):
        a.assign(b)
    return copy


@pytest.mark.parametrize(
    ("own", "mode", "said"),
    [
        (5, "end_to_end", ["'c'", "reach=5", "4 modules", "'all'"]),
        (None, TrainingMode("local", reach=5), ["local", "reach=5", "4 modules", "'all'"]),
    ],
    ids=str,
)
def test_a_reach_over_more_modules_than_there_are_is_refused(own, mode, said):
    with pytest.raises(ValueError) as caught:
        e2e.modularize(
            stock(),
            {"c": Prediction(reach=own), "a": "pred", "b": "pred"},
            training_mode=mode,
        )
    for phrase in said:
        assert phrase in str(caught.value)


@pytest.mark.parametrize("reach", [0, -1, 1.5, True, "everything"])
def test_a_reach_that_is_none_is_refused(reach):
    for make in (
        lambda: Prediction(reach=reach),
        lambda: TrainingMode("local", reach=reach),
    ):
        with pytest.raises(ValueError, match=r"reach is .*1 or more.*'all'"):
            make()


# Noise


def noisy(noise, seed=None, mode="local", objective=None, **compiled):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    x = layers.Dense(5, name="a")(inputs)
    x = e2e.ModuleBoundary(Prediction("mlp"), noise=noise, seed=seed, name="first")(x)
    x = layers.Dense(4, name="b")(x)
    x = e2e.ModuleBoundary(objective or Prediction("mlp"), name="second")(x)
    model = e2e.ModularModel(inputs, layers.Dense(C, name="out")(x), training_mode=mode)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, **compiled)
    return model


def seen(model, training=True):
    """What the second module makes of the first one's activation."""
    probe = []
    call = model.get_layer("b").call
    model.get_layer("b").call = lambda x, **_: probe.append(np.asarray(x)) or call(x)
    model(X, training=training)
    model.get_layer("b").call = call
    return probe[0]


def test_the_next_module_sees_noise_of_that_size():
    model = noisy(0.5)
    clean = np.asarray(model.get_layer("a")(X))
    apart = np.concatenate([seen(model) - clean for _ in range(200)])
    np.testing.assert_allclose(apart.std(), 0.5, rtol=0.05)
    assert abs(apart.mean()) < 0.03
    assert np.array_equal(seen(model, training=False), clean)
    for mode in ("end_to_end", "deep_supervision", "sequential:second"):
        model.training_mode = mode
        quiet = mode != "sequential:second"
        assert np.array_equal(seen(model), clean) == quiet


@pytest.mark.parametrize("mode", ["end_to_end", "deep_supervision"])
def test_where_the_gradient_gets_through_there_is_no_noise(mode):
    runs = []
    for noise in (0.0, 0.5):
        model = noisy(noise, 3, mode)
        model.fit(X, LABELS, epochs=2, verbose=0, shuffle=False)
        runs.append([*model.get_weights()[:6], model.predict(X, verbose=0)])
    for a, b in zip(*runs, strict=True):
        assert np.array_equal(a, b)


def test_the_noise_is_that_of_its_seed():
    first, again, other = (seen(noisy(0.5, seed=s)) for s in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    model = noisy(0.5, seed=3)
    assert not np.array_equal(seen(model), seen(model))


def test_noise_does_not_disturb_the_module_before_it():
    quiet, loud = noisy(0.0), noisy(0.5, seed=3)
    for model in (quiet, loud):
        model.train_on_batch(X, LABELS)
    for a, b in zip(
        quiet.get_layer("a").get_weights(), loud.get_layer("a").get_weights(), strict=True
    ):
        assert np.array_equal(a, b)


def test_the_clean_activation_is_to_be_reconstructed_from_the_noisy_one():
    model = noisy(0.5, objective=Reconstruction("module_input", head="mlp"))
    model._modular.mode = TrainingMode("local", weights={"first": 0.0})
    clean = np.asarray(model.get_layer("a")(X))
    probe, call = [], model.get_layer("b").call
    model.get_layer("b").call = lambda x, **_: probe.append(call(x)) or call(x)
    outputs = model(X, training=True)
    arguments = {"x": X, "y": LABELS, "y_pred": outputs}
    total = float(model.compute_loss(**arguments, training=True))
    task = float(model.compute_loss(**arguments, training=False))
    decoded = np.asarray(model.boundaries["second"].objective.network(probe[0]))
    expected = ((decoded - clean) ** 2).mean()
    np.testing.assert_allclose(total - task, expected, rtol=1e-4)


def test_noise_goes_into_the_config_and_back(tmp_path):
    model = noisy(0.5, seed=3)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    boundary = loaded.boundaries["first"]
    assert (boundary.noise, boundary.seed) == (0.5, 3)
    assert "noise" not in loaded.boundaries["second"].get_config()
    assert np.array_equal(seen(loaded), seen(model))


@pytest.mark.parametrize("noise", [-0.1, float("nan"), float("inf"), "0.1", None], ids=str)
def test_noise_that_is_none_is_refused(noise):
    with pytest.raises(ValueError, match=r"'bound'.*noise=.*0 or larger"):
        e2e.ModuleBoundary(noise=noise, name="bound")

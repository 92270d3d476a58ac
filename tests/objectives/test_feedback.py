"""Feedback alignment, direct and between modules, against NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_e2e as e2e
from keras_e2e.objectives import (
    DirectFeedbackAlignment,
    FeedbackAlignment,
    Prediction,
    Signal,
)

RNG = np.random.default_rng(0)
B, C = 6, 3
LABELS = np.array([0, 2, 0, 1, 1, 0])
WEIGHT = np.array([1.0, 0.0, 0.5, 2.0, 1.0, 1.5], "float32")


def some(*shape):
    return RNG.normal(size=shape).astype("float32")


X = some(B, 6)


def stock(ending="softmax"):
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, activation="tanh", name="a"),
            layers.Dense(4, name="b"),
            layers.Dense(C, activation=ending, name="out"),
        ]
    )


def modular(a, b, ending="softmax", loss="sparse_categorical_crossentropy", **kwargs):
    mode = kwargs.pop("mode", "local")
    model = e2e.modularize(stock(ending), {"a": a, "b": b}, training_mode=mode)
    model.compile(keras.optimizers.SGD(1.0), loss, **kwargs)
    return model


def kernels(model):
    return {n: model.get_layer(n).get_weights()[0] for n in ("a", "b", "out")}


def gradients(model, y=LABELS, sample_weight=None, x=X):
    """What a step of SGD(1.0) takes from the kernels, and the loss that it reports."""
    before = kernels(model)
    loss = model.train_on_batch(x, y, sample_weight=sample_weight)
    after = kernels(model)
    return {name: before[name] - after[name] for name in before}, float(loss)


def forward(model):
    w = {n: model.get_layer(n).get_weights() for n in kernels(model)}
    h = np.tanh(X @ w["a"][0] + w["a"][1])
    code = h @ w["b"][0] + w["b"][1]
    return h, code, code @ w["out"][0] + w["out"][1]


def softmax(raw):
    p = np.exp(raw - raw.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def feedback(model, name):
    """The fixed random matrix of a boundary, `(features, features heard)`."""
    (network,) = model.boundaries[name].objective.maps
    (kernel,) = [w for w in network.weights if len(w.shape) == 2]
    return kernel.numpy()


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-6)


ENDS = {
    "softmax": ("softmax", "sparse_categorical_crossentropy"),
    "logits": (None, keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
    "sigmoid": ("sigmoid", "binary_crossentropy"),
    "squares": (None, "mse"),
    "squares of probabilities": ("softmax", "mse"),
}


def error(kind, raw, weight):
    """The gradient of the loss with respect to what the model puts out."""
    target = np.eye(C)[LABELS]
    if kind in ("softmax", "logits"):
        e = softmax(raw) - target
    elif kind == "sigmoid":
        e = (1 / (1 + np.exp(-raw)) - target) / C
    elif kind == "squares":
        e = 2 * (raw - target) / C
    else:
        e = 2 * (softmax(raw) - target) / C  # at the probabilities themselves
    return e * weight[:, None] / B


@pytest.mark.parametrize("weight", [np.ones(B), WEIGHT], ids=["", "weighed"])
@pytest.mark.parametrize("kind", ENDS)
def test_the_error_at_the_outputs_goes_straight_back(kind, weight):
    ending, loss = ENDS[kind]
    direct = DirectFeedbackAlignment(), DirectFeedbackAlignment(seed=1)
    model = modular(*direct, ending, loss)
    h, _, raw = forward(model)
    e = error(kind, raw, weight)
    back = {name: e @ feedback(model, name).T for name in "ab"}
    y = LABELS if kind in ("softmax", "logits") else np.eye(C)[LABELS]
    given = None if (weight == 1).all() else weight
    found, _ = gradients(model, y, given)
    assert_close(found["a"], X.T @ (back["a"] * (1 - h**2)))
    assert_close(found["b"], h.T @ back["b"])
    assert np.abs(found["a"]).max() > 1e-3 and np.abs(found["b"]).max() > 1e-3
    # The last module learns by its own true gradient.
    stock_model = stock(ending)
    stock_model.compile(keras.optimizers.SGD(1.0), loss)
    true, _ = gradients(stock_model, y, given)
    assert_close(found["out"], true["out"])


def test_the_next_module_is_listened_to():
    model = modular(FeedbackAlignment(), FeedbackAlignment(seed=1))
    h, code, raw = forward(model)
    e = error("softmax", raw, np.ones(B))
    at_b = e @ feedback(model, "b").T
    at_a = at_b @ feedback(model, "a").T
    found, _ = gradients(model)
    assert_close(found["out"], code.T @ e)
    assert_close(found["b"], h.T @ at_b)
    assert_close(found["a"], X.T @ (at_a * (1 - h**2)))


def test_the_next_module_may_have_a_loss_of_its_own():
    model = modular(FeedbackAlignment(), Prediction("gap_linear"))
    (head,) = model.boundaries["b"].objective.networks
    h, code, _ = forward(model)
    kernel, bias = head.get_weights()
    at_b = (softmax(code @ kernel + bias) - np.eye(C)[LABELS]) @ kernel.T / B
    at_a = at_b @ feedback(model, "a").T
    found, _ = gradients(model)
    assert_close(found["b"], h.T @ at_b)
    assert_close(found["a"], X.T @ (at_a * (1 - h**2)))


@pytest.mark.parametrize("kind", [FeedbackAlignment, DirectFeedbackAlignment])
def test_factors_scale_the_signal(kind):
    plain, _ = gradients(modular(kind(), kind(seed=1)))
    mode = e2e.TrainingMode("local", weights={"a": 0.5})
    scaled, _ = gradients(modular(kind(weight=3.0), kind(seed=1), mode=mode))
    assert_close(scaled["a"], 1.5 * plain["a"])
    assert_close(scaled["b"], plain["b"])


@pytest.mark.parametrize("kind", [FeedbackAlignment, DirectFeedbackAlignment])
def test_nothing_is_changed_in_the_forward_pass_and_nothing_added_to_the_loss(kind):
    model, base = modular(kind(), kind(seed=1)), stock()
    base.compile("sgd", "sparse_categorical_crossentropy")
    for training in (False, True):
        found = np.asarray(model(X, training=training))
        assert np.array_equal(found, np.asarray(base(X, training=training)))
    assert np.array_equal(model.predict(X, verbose=0), base.predict(X, verbose=0))
    assert model.evaluate(X, LABELS, verbose=0) == base.evaluate(X, LABELS, verbose=0)
    assert gradients(model)[1] == float(base.train_on_batch(X, LABELS))


@pytest.mark.parametrize("kind", [FeedbackAlignment, DirectFeedbackAlignment])
@pytest.mark.parametrize("mode", ["end_to_end", "deep_supervision"])
def test_where_the_true_signal_gets_through_nothing_stands_in_for_it(kind, mode):
    found, loss = gradients(modular(kind(), kind(), mode=mode))
    base = stock()
    base.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
    expected, true = gradients(base)
    assert loss == true
    for name in expected:
        assert np.array_equal(found[name], expected[name])


def test_in_mixed_mode_it_stands_in_at_the_stops():
    mode = e2e.TrainingMode("mixed", stop=["a"])
    model = modular(DirectFeedbackAlignment(), DirectFeedbackAlignment(), mode=mode)
    h, _, raw = forward(model)
    e = error("softmax", raw, np.ones(B))
    found, _ = gradients(model)
    at_a = e @ feedback(model, "a").T
    assert_close(found["a"], X.T @ (at_a * (1 - h**2)))
    assert_close(found["b"], h.T @ (e @ kernels(stock())["out"].T))


@pytest.mark.parametrize("kind", [FeedbackAlignment, DirectFeedbackAlignment])
def test_the_map_is_random_of_its_seed_and_stays(kind, tmp_path):
    model = modular(kind(seed=3), kind(seed=4))
    first = feedback(model, "a")
    assert np.abs(first).min() > 0
    limit = np.sqrt(6 / sum(first.shape))
    assert limit / 2 < np.abs(first).max() <= limit  # Glorot uniform
    assert np.array_equal(feedback(modular(kind(seed=3), kind()), "a"), first)
    assert not np.array_equal(feedback(modular(kind(seed=5), kind()), "a"), first)
    assert not model.modules[0].head_variables
    model.fit(X, LABELS, epochs=2, verbose=0)
    assert np.array_equal(feedback(model, "a"), first)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert np.array_equal(feedback(loaded, "a"), first)
    ours, theirs = (gradients(m)[0] for m in (model, loaded))
    for name in ours:
        assert np.array_equal(ours[name], theirs[name])


@pytest.mark.parametrize("kind", [FeedbackAlignment, DirectFeedbackAlignment])
@pytest.mark.parametrize("jit", [False, True])
def test_maps_of_features_are_taught_too(kind, jit):
    keras.utils.set_random_seed(1)
    base = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(4, 3, padding="same", activation="tanh", name="a"),
            layers.Conv2D(5, 3, strides=2, padding="same", name="b"),
            layers.Flatten(),
            layers.Dense(C, activation="softmax", name="out"),
        ]
    )
    model = e2e.modularize(base, {"a": kind(), "b": kind(seed=1)}, training_mode="local")
    model.compile(
        keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy", jit_compile=jit
    )
    x = some(B, 6, 6, 2)
    p = np.asarray(model(x))
    at_b = (p - np.eye(C)[LABELS]) / B @ feedback(model, "b").T
    h, b = base.get_layer("a")(x), base.get_layer("b")
    b_before = b.get_weights()
    found, _ = gradients(model, x=x)
    b.set_weights(b_before)
    assert all(np.abs(g).max() > 0 for g in found.values())
    # At `b` the map sees every value: `B e`, then the convolution backwards.
    with tf.GradientTape() as tape:
        convolved = b(h)
        spoken = tf.reduce_sum(convolved * at_b.reshape(convolved.shape))
    assert_close(found["b"], tape.gradient(spoken, b.kernel.value))


def test_several_outputs_are_each_listened_to():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    h = layers.Dense(5, name="a")(inputs)
    outputs = {
        "z": layers.Dense(C, activation="softmax", name="z")(h),
        "k": layers.Dense(2, name="k")(h),
    }
    base = keras.Model(inputs, outputs)
    model = e2e.modularize(base, {"a": DirectFeedbackAlignment()}, training_mode="local")
    losses = {"z": "sparse_categorical_crossentropy", "k": "mse"}
    model.compile(keras.optimizers.SGD(1.0), losses, loss_weights={"z": 1.0, "k": 0.5})
    values = some(B, 2)
    told = {name: np.asarray(t) for name, t in model(X).items()}
    errors = {
        "z": (told["z"] - np.eye(C)[LABELS]) / B,
        "k": 0.5 * 2 * (told["k"] - values) / (2 * B),
    }
    maps = {m.output_shape[-1]: m for m in model.boundaries["a"].objective.maps}
    back = 0.0
    for e in errors.values():
        (kernel,) = [w for w in maps[e.shape[1]].weights if len(w.shape) == 2]
        back = back + e @ kernel.numpy().T
    before = base.get_layer("a").kernel.numpy()
    model.train_on_batch(X, {"z": LABELS, "k": values})
    assert_close(before - base.get_layer("a").kernel.numpy(), X.T @ back)


def branching():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    h = layers.Dense(5, name="a")(inputs)
    branches = [layers.Dense(4, name=name)(h) for name in "pq"]
    x = layers.Concatenate()(branches)
    return keras.Model(inputs, layers.Dense(C, activation="softmax", name="out")(x))


def test_each_of_several_following_modules_is_listened_to():
    objectives = {
        "a": FeedbackAlignment(),
        "p": DirectFeedbackAlignment(),
        "q": DirectFeedbackAlignment(),
    }
    base = branching()
    model = e2e.modularize(base, objectives, training_mode="local")
    model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
    e = (np.asarray(model(X)) - np.eye(C)[LABELS]) / B
    back = 0.0
    for name, network in zip("pq", model.boundaries["a"].objective.maps, strict=True):
        (kernel,) = [w for w in network.weights if len(w.shape) == 2]
        back = back + e @ feedback(model, name).T @ kernel.numpy().T
    before = base.get_layer("a").kernel.numpy()
    model.train_on_batch(X, LABELS)
    assert_close(before - base.get_layer("a").kernel.numpy(), X.T @ back)


def test_a_signal_is_not_lost_where_the_task_loss_is_taken_apart():
    """Some losses reach two modules, and the task loss is differentiated on its own."""
    keras.utils.set_random_seed(1)
    base = keras.Sequential([keras.Input((6,))])
    for name in "abc":
        base.add(layers.Dense(5, name=name))
    base.add(layers.Dense(C, activation="softmax", name="out"))
    objectives = {
        "a": DirectFeedbackAlignment(),
        "b": Prediction(reach=1),
        "c": Prediction(),
    }
    mode = e2e.TrainingMode("local", reach=2)
    model = e2e.modularize(base, objectives, training_mode=mode)
    model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
    e = (np.asarray(model(X)) - np.eye(C)[LABELS]) / B
    before = base.get_layer("a").kernel.numpy()
    model.train_on_batch(X, LABELS)
    expected = X.T @ (e @ feedback(model, "a").T)
    assert_close(before - base.get_layer("a").kernel.numpy(), expected)


@pytest.mark.parametrize("alias", ["feedback_alignment", "direct_feedback_alignment"])
def test_sequential_training_has_no_signal_to_pass_on(alias):
    model = modular(alias, "pred")
    kind = type(model.boundaries["a"].objective).__name__
    with pytest.raises(ValueError) as caught:
        model.training_mode = "sequential:a"
    for phrase in ["sequential", kind, "'a'", "Use 'local'"]:
        assert phrase in str(caught.value)
    model.training_mode = "sequential:b"
    model.train_on_batch(X, LABELS)


def test_a_signal_says_what_it_must_implement():
    with pytest.raises(NotImplementedError):
        Signal().project_feedback(None, 0)
    with pytest.raises(NotImplementedError):
        Signal().predict_gradient(None, ())

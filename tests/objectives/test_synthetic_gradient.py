"""`SyntheticGradient`: a boundary that predicts its signal, against NumPy."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_e2e as e2e
from keras_e2e.objectives import SyntheticGradient

RNG = np.random.default_rng(0)
B, C = 6, 3
LABELS = np.array([0, 2, 0, 1, 1, 0])
WEIGHT = np.array([1.0, 0.0, 0.5, 2.0, 1.0, 1.5], "float32")


def some(*shape):
    return RNG.normal(size=shape).astype("float32")


X = some(B, 6)


def stock():
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, activation="tanh", name="a"),
            layers.Dense(4, activation="tanh", name="b"),
            layers.Dense(C, activation="softmax", name="out"),
        ]
    )


def compiled(model):
    model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
    return model


def modular(mode="local", zero=False, **settings):
    objectives = {name: SyntheticGradient(head="linear", **settings) for name in "ab"}
    model = compiled(e2e.modularize(stock(), objectives, training_mode=mode))
    if not zero:
        for name in "ab":
            for v in model.boundaries[name].objective.trainable_variables:
                v.assign(some(*v.shape))
    return model


def weights(model):
    found = {n: model.get_layer(n).trainable_variables for n in ("a", "b", "out")}
    for name, boundary in getattr(model, "boundaries", {}).items():
        found[f"head of {name}"] = boundary.objective.trainable_variables
    return {name: [v.numpy() for v in given] for name, given in found.items()}


def gradients(model, y=LABELS, sample_weight=None):
    """What a step of SGD(1.0) takes away, and the loss that it reports."""
    before = weights(model)
    loss = float(model.train_on_batch(X, y, sample_weight=sample_weight))
    after = weights(model)
    moved = {
        name: [b - a for b, a in zip(before[name], after[name], strict=True)]
        for name in before
    }
    return moved, loss


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("weight", [np.ones(B), WEIGHT], ids=["", "weighed"])
@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("form", ["ints", "column"])
def test_modules_learn_by_the_prediction_and_heads_by_what_comes_back(
    form, conditional, weight
):
    model = modular(conditional=conditional)
    w = weights(model)
    h = np.tanh(X @ w["a"][0] + w["a"][1])
    code = np.tanh(h @ w["b"][0] + w["b"][1])
    raw = code @ w["out"][0] + w["out"][1]
    p = np.exp(raw) / np.exp(raw).sum(1, keepdims=True)
    e, each = p - np.eye(C)[LABELS], weight[:, None] / B
    seen, told = {}, {}
    for name, features in [("a", h), ("b", code)]:
        context = np.eye(C)[LABELS] if conditional else np.zeros((B, 0))
        seen[name] = np.concatenate([features, context], axis=1)
        kernel, bias = w[f"head of {name}"]
        told[name] = seen[name] @ kernel + bias
    # Of each example: the true gradient of its loss; at `a` of what `b` was told.
    true = {"b": e @ w["out"][0].T}
    true["a"] = (told["b"] * (1 - code**2)) @ w["b"][0].T
    given = None if (weight == 1).all() else weight
    y = LABELS if form == "ints" else LABELS[:, None]
    found, loss = gradients(model, y, given)
    assert_close(found["out"][0], code.T @ (e * each))
    assert_close(found["b"][0], h.T @ (told["b"] * each * (1 - code**2)))
    assert_close(found["a"][0], X.T @ (told["a"] * each * (1 - h**2)))
    for name in "ab":
        apart = (told[name] - true[name]) * each
        assert_close(found[f"head of {name}"][0], seen[name].T @ apart)
        assert_close(found[f"head of {name}"][1], apart.sum(0))
    expected = (-np.log(p[np.arange(B), LABELS]) * weight).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("shape", [(6, 6, 2), (8, 3), (6,)], ids=str)
def test_a_module_stands_still_at_first_whatever_its_shape(shape, head):
    layer = (
        layers.Dense if len(shape) == 1 else [layers.Conv1D, layers.Conv2D][len(shape) - 2]
    )
    size = () if len(shape) == 1 else (3,)
    base = keras.Sequential(
        [
            keras.Input(shape),
            layer(4, *size, name="a"),
            layers.Flatten(),
            layers.Dense(C, activation="softmax", name="out"),
        ]
    )
    objective = SyntheticGradient(head=head)
    model = compiled(e2e.modularize(base, {"a": objective}, training_mode="local"))
    x = some(B, *shape)
    before = base.get_layer("a").kernel.numpy()
    kernels = [v.numpy() for v in objective.trainable_variables]
    model.train_on_batch(x, LABELS)
    assert np.array_equal(before, base.get_layer("a").kernel.numpy())
    pairs = zip(kernels, objective.trainable_variables, strict=True)
    assert any((k != v.numpy()).any() for k, v in pairs)
    for _ in range(2):
        model.train_on_batch(x, LABELS)
    assert (before != base.get_layer("a").kernel.numpy()).any()


def test_nothing_is_changed_in_the_forward_pass_and_nothing_added_to_the_loss():
    model, base = modular(), compiled(stock())
    assert np.array_equal(model.predict(X, verbose=0), base.predict(X, verbose=0))
    assert model.evaluate(X, LABELS, verbose=0) == base.evaluate(X, LABELS, verbose=0)
    assert gradients(model)[1] == float(base.train_on_batch(X, LABELS))


@pytest.mark.parametrize("mode", ["end_to_end", "deep_supervision"])
def test_where_the_true_signal_gets_through_nothing_stands_in_for_it(mode):
    model = modular(mode)
    found, loss = gradients(model)
    expected, true = gradients(compiled(stock()))
    assert loss == true
    for name in expected:
        assert np.array_equal(found[name][0], expected[name][0])
    assert not any(g.any() for name in "ab" for g in found[f"head of {name}"])


def test_factors_scale_signal_and_lesson():
    plain = modular(conditional=False)
    scaled = modular(conditional=False, weight=0.5)
    for ours, theirs in zip(scaled.weights, plain.weights, strict=True):
        ours.assign(theirs)
    scaled.training_mode = e2e.TrainingMode("local", weights=4.0)
    plain, scaled = gradients(plain)[0], gradients(scaled)[0]
    assert_close(scaled["b"][0], 2 * plain["b"][0])
    assert_close(scaled["head of b"][0], 2 * plain["head of b"][0])
    assert_close(scaled["out"][0], plain["out"][0])


@pytest.mark.parametrize("reach", [2, "all"])
def test_where_its_boundary_is_open_for_another_loss_it_does_not_count(reach):
    objectives = {"a": SyntheticGradient(), "b": "pred"}
    mode = e2e.TrainingMode("local", reach=reach)
    model = compiled(e2e.modularize(stock(), objectives, training_mode=mode))
    found, _ = gradients(model)
    assert not any(g.any() for g in found["head of a"])


@pytest.mark.slow
@pytest.mark.parametrize("jit", [False, True])
def test_it_trains_compiled_saved_and_loaded(jit, tmp_path):
    model = modular(zero=True)
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=jit)
    model.fit(X, LABELS, epochs=2, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    ours, theirs = (m.fit(X, LABELS, epochs=2, verbose=0).history for m in (model, loaded))
    assert ours == theirs
    for a, b in zip(model.weights, loaded.weights, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("head", ["gap_linear", "conv1", None, layers.Dense(2)])
def test_a_head_that_does_not_keep_positions_is_refused(head):
    with pytest.raises(ValueError, match=r"SyntheticGradient\(head=.*'linear' or 'mlp'"):
        SyntheticGradient(head=head)


def test_sequential_training_has_no_signal_to_pass_on():
    with pytest.raises(ValueError, match=r"SyntheticGradient of 'a'.*Use 'local'"):
        modular("sequential:a")


def test_outside_of_a_step_there_are_no_targets_to_see():
    model = modular()
    with pytest.raises(ValueError, match=r"SyntheticGradient.*conditional=False"):
        model(X, training=True)
    assert np.isfinite(np.asarray(model(X))).all()
    modular(conditional=False)(X, training=True)


def test_an_output_of_unknown_size_is_refused():
    inputs = keras.Input((None, 6))
    x = layers.Dense(5, name="a")(inputs)
    base = keras.Model(inputs, layers.Dense(C, activation="softmax", name="out")(x))
    with pytest.raises(ValueError, match=r"'a'.*'out'.*not known.*conditional=False"):
        e2e.modularize(base, {"a": "synthetic_gradient"})
    e2e.modularize(base, {"a": SyntheticGradient(conditional=False)})


def test_targets_that_are_neither_values_nor_classes_of_an_output_are_refused():
    model = modular()
    before = weights(model)
    with pytest.raises(ValueError, match=r"'out' of shape \(3,\).*conditional=False"):
        model.compile("sgd", lambda y, p: (y[:, :1] - p) ** 2)
        model.fit(X, some(B, 5), verbose=0)
    after = weights(model)
    for name, values in before.items():
        for a, b in zip(values, after[name], strict=True):
            np.testing.assert_array_equal(a, b)
